"""A custom service behind Comet: any image, any command line."""

import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import docker
import psutil
import pytest
import requests

from comet.host import process_identity
from comet.images import base_image
from comet.state.directory import WORKER_UID
from tests.support.cluster import PYTHON, TestCluster, open_cluster, open_folder
from tests.support.shared import SharedCluster, shared_cluster
from tests.support.waiting import wait_until

HELD = """
import os, socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = f"{os.getpid()} {os.environ['COMET_REPLICA']} {os.environ.get('MODE')}".encode()
        self.send_response(200 if self.path != "/broken" else 500)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Blocked", str(BLOCKED))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *arguments):
        pass

assert os.environ["LISTEN_FDS"] == "1" and int(os.environ["LISTEN_PID"]) == os.getpid()
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
server.socket.close()
server.socket = socket.socket(fileno=3)
BLOCKED = os.get_blocking(3)
os.set_blocking(3, False)  # As an event loop does.
if os.fork() == 0:
    import time
    time.sleep(1000)
server.serve_forever()
"""


@pytest.fixture(scope="module")
def image() -> str:
    """An image that is not ours to run: a bare Python."""
    client = docker.from_env()
    with contextlib.closing(client):
        base = base_image.present(client) or base_image.own_base()
        base_image.ensure(client, base, lambda told: None, threading.Event())
    return base.reference


@pytest.fixture
def contained(tmp_path: Path, image: str) -> Iterator[TestCluster]:
    """Two containers that serve a folder."""
    site = tmp_path / "site"
    site.mkdir(mode=0o755)
    (site / "index.html").write_text("mine")
    tmp_path.chmod(0o755)
    own_base = {
        "worker_image": image,
        "worker_target_port": 8000,
        "health_path": "/",
        "avg_delay": None,
        "failure": None,
    }
    with open_cluster(
        tmp_path,
        worker_command="python3 -m http.server {port} --directory /srv",
        worker_volumes="['./site:/srv:ro']",
        **own_base,
    ) as cluster:
        yield cluster


@pytest.mark.docker
def test_an_image_runs_n_times_behind_the_balancers(contained: TestCluster) -> None:
    contained.write(
        worker_user="10002:10002",
        worker_read_only="true",
        worker_cpus=0.5,
        worker_pids=50,
        worker_environment="{MODE: test}",
    )
    contained.start()
    answers = [requests.get(contained.lb(), timeout=60) for _ in range(6)]
    assert [answer.text for answer in answers] == ["mine"] * 6
    assert Counter(answer.headers["X-Comet-Worker"] for answer in answers) == {"worker-0": 3, "worker-1": 3}
    with contained.engine() as engine:
        made = engine.api.inspect_container(contained.replicas()["worker-0"]["id"])
    assert (made["Config"]["User"], made["HostConfig"]["NanoCpus"], made["HostConfig"]["PidsLimit"]) == (
        "10002:10002",
        500_000_000,
        50,
    )
    assert made["HostConfig"]["ReadonlyRootfs"]
    assert {"MODE=test", "COMET_REPLICA=worker-0", "PORT=8000"} <= set(made["Config"]["Env"])
    assert contained.comet("kill", "worker-1").returncode == 0
    wait_until(
        lambda: (
            contained.replicas()["worker-1"]["restarts"] == 1 and contained.replicas()["worker-1"]["state"] == "ready"
        )
    )
    contained.stop()
    contained.assert_nothing_left()


@pytest.mark.docker
def test_custom_service_statistics_come_from_the_lbs(contained: TestCluster) -> None:
    contained.start()
    for path in ("/", "/", "/missing"):
        requests.get(contained.lb() + path, timeout=60)

    def counted() -> object:
        return json.loads(contained.comet("stats", "--json").stdout)["TotalRequests"]

    # A load balancer counts an answer after it has sent it.
    wait_until(lambda: counted() == [{"total": 3}, {"worker-0": 2}, {"worker-1": 1}])
    assert contained.comet("stats", "--reset").returncode == 0
    assert counted() == [{"total": 0}, {"worker-0": 0}, {"worker-1": 0}]
    refused = contained.comet("faults", "--failure", "10")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert not (contained.folder / "worker-stats.db").exists()


@pytest.mark.docker
def test_a_changed_service_is_rolled_by_reload(contained: TestCluster) -> None:
    contained.start()
    before = {name: row["id"] for name, row in contained.replicas().items() if row["role"] == "worker"}
    contained.write(worker_environment="{MODE: other}")
    done = contained.comet("reload")
    assert done.returncode == 0, done.stderr
    after = {name: row["id"] for name, row in contained.replicas().items() if row["role"] == "worker"}
    assert set(after) == set(before)
    assert not set(after.values()) & set(before.values())


@pytest.mark.docker
def test_a_tag_that_has_moved_is_rolled_by_reload(contained: TestCluster, image: str) -> None:
    tag = f"comet-test-moved:{os.getpid()}"
    with contained.engine() as engine:
        try:
            engine.images.get(image).tag(tag)
            contained.write(worker_image=tag)
            contained.start()
            assert contained.comet("reload").stdout == "nothing has changed\n"
            draft = engine.api.create_container(image, ["true"])["Id"]
            try:
                other = engine.api.commit(draft, *tag.split(":"), changes=["LABEL moved=yes"])["Id"]
            finally:
                engine.api.remove_container(draft)
            done = contained.comet("reload")
            assert done.stdout == "changed only the image behind a name; restarted worker-0, worker-1\n"
            rows = [row for row in contained.replicas().values() if row["role"] == "worker"]
            assert {engine.api.inspect_container(row["id"])["Image"] for row in rows} == {other}
        finally:
            contained.destroy()
            with contextlib.suppress(docker.errors.APIError):
                engine.api.remove_image(tag, force=True)


@pytest.mark.docker
def test_an_unavailable_image_is_one_line(tmp_path: Path) -> None:
    with open_cluster(tmp_path, worker_image="comet-test/nowhere:1", avg_delay=None, failure=None) as cluster:
        done = cluster.comet("run", "--detach")
        assert (done.returncode, len(done.stderr.strip().splitlines())) == (1, 1)
        assert "comet-test/nowhere:1 is not on this machine and cannot be pulled" in done.stderr
        cluster.assert_nothing_left()


@pytest.fixture(scope="module")
def helds(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedCluster]:
    config = {
        "runtime": "process",
        "worker_command": f"['{sys.executable}', service.py]",
        "worker_environment": "{MODE: held}",
        "avg_delay": None,
        "failure": None,
        "health_path": "/",
        "shutdown_grace": 1,
    }

    def folder() -> Path:
        made = tmp_path_factory.mktemp("held")
        made.chmod(0o755)
        (made / "service.py").write_text(HELD)
        return made

    with shared_cluster(request, folder, worker=1, pool=1, **config) as shared:
        yield shared


@pytest.fixture
def held(helds: SharedCluster) -> TestCluster:
    """One process that is given its listening socket, and forks a child."""
    return helds.lend()


def test_a_held_socket_refuses_nobody_during_a_restart(held: TestCluster) -> None:
    pid, name, mode = requests.get(held.worker(), timeout=60).text.split()
    assert (int(pid), name, mode) == (held.replicas()["worker-0"]["pid"], "worker-0", "held")
    children = psutil.Process(int(pid)).children()
    assert len(children) == 1
    birth = process_identity.birth_of(children[0].pid)
    os.kill(int(pid), signal.SIGKILL)
    answer = requests.get(held.worker(), timeout=60)
    later = answer.text.split()[0]
    assert later != pid
    assert answer.headers["X-Blocked"] == "True", "one that waits in accept(2) would fail"
    wait_until(lambda: not process_identity.is_alive(children[0].pid, birth), 10, "what it left ends with it")


def test_a_held_socket_outlives_the_supervisor(held: TestCluster) -> None:
    pid = held.replicas()["worker-0"]["pid"]
    os.kill(held.supervisor_pid(), signal.SIGKILL)
    held.start()
    assert held.replicas()["worker-0"]["pid"] == pid
    os.kill(pid, signal.SIGKILL)
    assert int(requests.get(held.worker(), timeout=60).text.split()[0]) != pid


def test_a_command_with_a_port_placeholder_listens_itself(tmp_path: Path) -> None:
    command = f"{sys.executable} -m http.server {{port}} --bind {{host}}"
    own_base = {"runtime": "process", "worker_command": command, "avg_delay": None, "failure": None}
    with open_cluster(tmp_path, worker=2, pool=1, health_path="/", **own_base) as cluster:
        cluster.start()
        assert {requests.get(cluster.lb(), timeout=60).headers["X-Comet-Worker"] for _ in range(4)} == {
            "worker-0",
            "worker-1",
        }
        with socket.create_connection(("127.0.0.1", cluster.config["worker-port"] + 1), timeout=5):
            pass
        # Its clients ask for what the service has, where a scenario does not say.
        (tmp_path / "calm.yaml").write_text("clients: 2\nsteps:\n  - for: 2s\n")
        played = cluster.comet("scenario", str(tmp_path / "calm.yaml"), "--json")
        total = json.loads(played.stdout)["total"]
        assert (played.returncode, total["errors"]) == (0, {}), played.stderr
        assert total["ok"] == total["requests"] > 0


def test_a_process_runs_as_the_user_it_is_given() -> None:
    # Root alone can become another.
    user = "nobody" if os.getuid() == 0 else psutil.Process().username()
    command = f"{PYTHON} -m http.server {{port}} --bind {{host}}"
    own_base = {
        "runtime": "process",
        "worker_command": command,
        "worker_user": user,
        "avg_delay": None,
        "failure": None,
    }
    with open_folder() as folder, open_cluster(folder, worker=1, pool=1, health_path="/", **own_base) as cluster:
        cluster.start()
        assert psutil.Process(cluster.replicas()["worker-0"]["pid"]).username() == user
        cluster.write(worker_user="nosuchuser")
        done = cluster.comet("reload")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert "worker-user: there is no user nosuchuser on this machine" in done.stderr


def test_a_missing_command_is_quoted(tmp_path: Path) -> None:
    own_base = {
        "runtime": "process",
        "worker_command": "no-such-service --port {port}",
        "avg_delay": None,
        "failure": None,
    }
    with open_cluster(tmp_path, worker=1, pool=1, **own_base) as cluster:
        done = cluster.comet("run", "--detach")
        assert done.returncode == 1
        assert "worker-0 does not become ready" in done.stderr
        assert "no-such-service" in done.stderr
        assert "Traceback" not in done.stderr


NGINX = """daemon off;
pid {folder}/var/nginx.pid;
error_log /dev/stderr;
worker_processes 2;
events {{}}
http {{
    access_log /dev/stdout;
    client_body_temp_path {folder}/var/body;
    proxy_temp_path {folder}/var/proxy;
    fastcgi_temp_path {folder}/var/fastcgi;
    uwsgi_temp_path {folder}/var/uwsgi;
    scgi_temp_path {folder}/var/scgi;
    server {{ listen 127.0.0.1:{port}; location / {{ return 200 fine; }} location /missing {{ root /nowhere; }} }}
}}
"""


@pytest.mark.parametrize("limit", [None, "64m"])
def test_nginx_with_its_usual_log_lines_runs_as_the_workers_user(limit: str | None) -> None:
    """It opens /dev/stdout and /dev/stderr by name."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/sbin") or "nginx"
    own_base = {"runtime": "process", "worker_user": None, "worker_memory": limit, "avg_delay": None, "failure": None}
    with open_folder() as folder, open_cluster(folder, worker=1, pool=1, health_path="/", **own_base) as cluster:
        (folder / "var").mkdir()
        (folder / "var").chmod(0o1777)
        (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=cluster.config["worker-port"]))
        cluster.write(
            worker_command=f"env PORT={{port}} {program} -e /dev/stderr -c {folder}/nginx.conf", worker_user=None
        )
        cluster.start()
        assert requests.get(f"{cluster.lb()}/?asked", timeout=60).text == "fine"
        assert requests.get(f"{cluster.lb()}/missing", timeout=60).status_code == 404
        # Each of its processes writes about a request when it finds the time.
        for line in ('"GET /?asked HTTP/1.1" 200', '"/nowhere/missing" failed (2: No such file or directory)'):
            wait_until(lambda line=line: line in cluster.comet("logs", "worker-0").stdout, 10, line)
        assert psutil.Process(cluster.replicas()["worker-0"]["pid"]).uids().real == (
            WORKER_UID if os.getuid() == 0 else os.getuid()
        )
