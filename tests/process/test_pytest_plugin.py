"""The pytest plugin as a user has it: a session of pytest in a folder of its own."""

import contextlib
import os
import re
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import docker
import pytest

from comet.host import process_identity
from comet.images import base_image
from tests.support import pages
from tests.support.cluster import ROOT

FILES = 10 if os.environ.get("COMET_TEST_FULL") else 3
LOADED = ("-p", "comet.testing.plugin", "-p", "no:cacheprovider")


class Project:
    """A folder with tests that use the fixtures."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.temporary = folder / "tmp"
        self.temporary.mkdir()

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(textwrap.dedent(text))

    def run(self, *arguments: str) -> tuple[int, str]:
        """The exit code and the output of pytest."""
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "TMPDIR": str(self.temporary),
            "COLUMNS": "200",
        }
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *LOADED, "-W", "error", *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def left(self) -> list[str]:
        """Processes and folders of clusters that are left."""
        alive = [each.pid for each in process_identity.processes() if each.alive]
        lines = [" ".join(process_identity.command_line(pid)) for pid in alive]
        marks = [process_identity.environment(pid).get("COMET_FOLDER", "") for pid in alive]
        folders = [str(path) for path in self.temporary.glob("comet-*/*")]
        return [each for each in (*lines, *marks, *folders) if str(self.temporary) in each and "-m pytest" not in each]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_a_client_meets_a_failing_backend(project: Project) -> None:
    project.write(
        "test_client.py",
        """
        import requests

        def test_a_failure_is_met(comet_cluster):
            comet_cluster.faults(failure=100, count=1)
            codes = [requests.get(f"{comet_cluster.url}/api/v1/hello").status_code for _ in range(6)]
            assert codes.count(500) == 3

        def test_another_cluster(comet_cluster):
            assert requests.get(f"{comet_cluster.url}/api/v1/hello").status_code == 200
            assert not comet_cluster.events("faults_changed")
        """,
    )
    code, said = project.run()
    assert code == 0, said
    assert project.left() == []


def test_the_page_names_all_that_there_is_and_its_example_runs(project: Project) -> None:
    text = pages.section("docs/python-api.md", "With pytest")
    named = set(re.findall(r"^\| (?:fixture|marker|option) `(\w+)` \|", text, re.MULTILINE))
    assert named == {"comet_cluster", "comet_service", "comet", "comet_scope"}
    (example,) = [each for each in pages.blocks("docs/python-api.md") if "comet_service" in each.text]
    project.write("test_example.py", example.text)
    code, said = project.run("--strict-markers")
    assert code == 0, said
    assert project.left() == []


def test_a_failing_test_shows_what_the_cluster_did(project: Project) -> None:
    project.write(
        "test_client.py",
        """
        import pytest, requests

        @pytest.mark.comet(worker=2, pool=1)
        def test_wrong(comet_cluster):
            comet_cluster.faults("worker-1", failure=100)
            for _ in range(6):
                requests.get(f"{comet_cluster.url}/api/v1/hello")
            while comet_cluster.replicas()["lb-0"].requests < 6:
                pass  # It counts a request after it has sent the answer.
            comet_cluster.kill("worker-0")
            comet_cluster.wait_for("replica_exited", timeout=60)
            assert False, "sad"
        """,
    )
    code, said = project.run()
    assert code == 1
    section = said.partition("- comet cluster -")[2]
    assert re.search(r"<comet cluster http://127.0.0.1:\d+> in /", section)
    assert re.search(r"\d\d:\d\d:\d\d\.\d{3}  worker-0 crashed: SIGKILL", section)
    assert "supervisor started" not in section
    assert re.search(r"^REPLICA +STATE +REQUESTS +2xx +3xx +4xx +5xx", section, re.MULTILINE)
    assert re.search(r"^lb-0 +ready +6 +3 +0 +0 +3 ", section, re.MULTILINE)
    assert re.search(r"^worker-1 +ready +3 +0 +0 +0 +3 .* failure 100", section, re.MULTILINE)
    assert re.search(r"^worker-0 printed last:\n(  .*\n)*  .*Z worker-0: process", section, re.MULTILINE)
    assert project.left() == []


def test_a_test_that_stops_its_cluster_may_fail(project: Project) -> None:
    project.write(
        "test_client.py",
        """
        def test_wrong(comet_cluster):
            comet_cluster.stop()
            assert comet_cluster.dashboard == "a dashboard"

        def test_another():
            pass
        """,
    )
    code, said = project.run()
    assert code == 1
    assert "1 failed, 1 passed" in said
    assert "== 'a dashboard'" in said
    assert "comet.cluster: it does not run" in said
    assert project.left() == []


def test_clusters_are_shared_and_given_back_as_they_were(project: Project) -> None:
    project.write(
        "pytest.ini",
        """
        [pytest]
        comet_scope = session
        comet_cluster =
            worker: 2
            pool: 1
        """,
    )
    project.write(
        "test_client.py",
        """
        import os, pytest, requests

        folders = set()

        def hello(cluster):
            return requests.get(f"{cluster.url}/api/v1/hello").status_code

        def test_one(comet_cluster):
            folders.add(comet_cluster.folder)
            comet_cluster.faults(failure=100)
            comet_cluster.scale(worker=3)
            comet_cluster.reload(retries=0)
            comet_cluster.kill("worker-1", "STOP")
            comet_cluster.kill("worker-0")

        @pytest.mark.parametrize("number", range(2))
        def test_two(comet_cluster, number):
            folders.add(comet_cluster.folder)
            assert {hello(comet_cluster) for _ in range(4)} == {200}
            assert sorted(comet_cluster.replicas()) == ["lb-0", "worker-0", "worker-1"]
            assert "retries" not in (comet_cluster.folder / "config.yaml").read_text()
            assert len(folders) == 1

        @pytest.mark.comet(scope="test", worker=1)
        def test_its_own(comet_cluster):
            assert comet_cluster.folder not in folders
            assert len(comet_cluster.replicas()) == 2
            comet_cluster._process.kill()

        def test_its_supervisor_is_killed(comet_cluster):
            folders.add(comet_cluster.folder)
            comet_cluster._process.kill()

        def test_it_is_replaced(comet_cluster):
            assert comet_cluster.folder not in folders
            assert hello(comet_cluster) == 200
        """,
    )
    code, said = project.run()
    assert code == 0, said
    assert project.left() == []


def test_a_service_of_ones_own_is_put_behind(project: Project) -> None:
    project.write(
        "app.py",
        """
        import http.server, os, sys

        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

        http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
        """,
    )
    project.write(
        "test_service.py",
        f"""
        import requests

        def test_mine(comet_service):
            service = comet_service("{sys.executable} app.py {{port}}", worker=2, pool=1)
            assert requests.get(service.url).text == "ok"
            service.faults("worker-0", failure=100)
            assert sorted(requests.get(service.url).status_code for _ in range(4)) == [200, 200, 500, 500]

        def test_neither(comet_service):
            comet_service()

        def test_unknown_scope(comet_service):
            comet_service("true", scope="bogus")
        """,
    )
    code, said = project.run()
    assert code == 1
    assert "2 failed, 1 passed" in said
    assert "comet_service: scope='bogus' is not known" in said
    assert "comet_service: give it either a command or an image" in said
    assert project.left() == []


@pytest.mark.parametrize(
    ("marker", "ini", "told"),
    [
        ("3", "", "pytest.mark.comet takes keywords only"),
        ("scope='module'", "", "scope='module' is not known (allowed: 'test', 'session')"),
        ("wroker=3", "", "comet.cluster: wroker: unknown key (did you mean worker?)"),
        ("", "comet_scope = module", "comet_scope: 'module' is not known (allowed: test, session)"),
        ("", "comet_cluster = worker", "comet_cluster: line:1: "),
        ("", "comet_cluster =\n    worker: 1\n    worker: 2", "line:2: worker: appears twice (keep one)"),
    ],
)
def test_mistakes_are_told(project: Project, marker: str, ini: str, told: str) -> None:
    project.write("pytest.ini", f"[pytest]\n{ini}\n")
    project.write(
        "test_client.py",
        f"""
        import pytest

        @pytest.mark.comet({marker})
        def test_nothing(comet_cluster):
            pass
        """,
    )
    code, said = project.run("--strict-markers")
    assert code != 0
    assert told in said


def test_the_plugin_imports_nothing_of_comet_until_it_is_used(project: Project) -> None:
    project.write(
        "test_other.py",
        """
        import sys

        def test_light():
            assert sorted(name for name in sys.modules if name.startswith("comet")) == [
                "comet", "comet.testing", "comet.testing.plugin"
            ]
        """,
    )
    code, said = project.run()
    assert code == 0, said
    assert "comet_cluster" in project.run("--fixtures")[1]
    assert "@pytest.mark.comet(scope='test', **keys)" in project.run("--markers")[1]


def test_clusters_in_parallel_files(project: Project) -> None:
    for number in range(FILES):
        project.write(
            f"test_{number}.py",
            """
            import pytest, requests

            @pytest.mark.comet(worker=1, pool=1)
            @pytest.mark.parametrize("number", range(2))
            def test_one(comet_cluster, number):
                comet_cluster.faults(failure=100, count=1)
                codes = [requests.get(f"{comet_cluster.url}/api/v1/hello").status_code for _ in range(3)]
                assert codes == [500, 200, 200]
            """,
        )
    code, said = project.run("-p", "xdist.plugin", "-n", "2")
    assert code == 0, said
    assert f"{2 * FILES} passed" in said
    assert project.left() == []


@pytest.mark.docker
def test_a_service_that_is_an_image(project: Project) -> None:
    with contextlib.closing(docker.from_env()) as client:
        base = base_image.present(client) or base_image.own_base()
        base_image.ensure(client, base, lambda told: None, threading.Event())
    project.write(
        "test_image.py",
        f"""
        import requests

        def test_mine(comet_service):
            service = comet_service(
                image="{base.reference}", worker_command="python3 -m http.server {{port}}", worker_target_port=8000,
                health_path="/", worker=1, pool=1,
            )
            assert requests.get(service.url, timeout=60).status_code == 200
            service.faults("front", failure=100, status=418)
            assert requests.get(service.url, timeout=60).status_code == 418
        """,
    )
    code, said = project.run("test_image.py")
    assert code == 0, said
    assert project.left() == []
