"""A service of one's own is rolled to another version: no request fails, and one that cannot run leaves the old ones
where they are.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest
import requests

from comet.images import base_image
from tests.process.test_crashes import Client, clients
from tests.support.cluster import TestCluster, open_cluster
from tests.support.shared import SharedCluster, shared_cluster
from tests.support.waiting import wait_until

CLIENTS, ROUNDS = (200, 20) if os.environ.get("COMET_TEST_FULL") else (24, 2)

SERVICE = """
import os, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

mode, name = os.environ["MODE"], os.environ["COMET_REPLICA"]
if mode == "broken" or (mode == "fussy" and name == "worker-1"):
    sys.exit(f"{name}: no way to run as {mode}")
if os.path.exists(f"{name}.broken"):
    sys.exit("broken")

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # One write an answer: of one that a SIGKILL cuts in two, nobody could make a whole one.
    def do_GET(self):
        body = f"{mode} {name}".encode()
        self.send_response(200 if self.path in ("/", "/slow", f"/{mode}") else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.path == "/slow":
            self.wfile.flush()
            time.sleep(0.3)
        self.wfile.write(body)
    def log_message(self, *arguments):
        pass

ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def services(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedCluster]:
    config = {
        "runtime": "process",
        "worker_command": f"'{sys.executable} service.py {{port}}'",
        "worker_environment": "{MODE: old}",
        "avg_delay": None,
        "failure": None,
        "health_path": "/old",
        "health_interval": 0.25,
        # One check that fails is enough: so none may fail because the machine is busy.
        "health_fall": 1,
        "health_timeout": 10,
        "shutdown_grace": 10,
        "restart_backoff_max": 1,
    }

    def folder() -> Path:
        made = tmp_path_factory.mktemp("rolled")
        made.chmod(0o755)
        (made / "service.py").write_text(SERVICE)
        return made

    with shared_cluster(request, folder, worker=2, pool=2, **config) as shared:
        yield shared


@pytest.fixture
def rolled(services: SharedCluster) -> TestCluster:
    """Two processes of a service that answers at / and at the path of its MODE, which is "old"; checked every quarter
    of a second.
    """
    return services.lend()


@pytest.fixture
def strict(rolled: TestCluster) -> Iterator[Callable[[], list[str]]]:
    """Clients on both load balancers all the while; gives what went wrong for them, once each has had an answer
    again.
    """
    asking = [Client(f"{rolled.lb(number % 2)}/") for number in range(6)]
    for client in asking:
        client.start()

    def bad() -> list[str]:
        seen = [client.good for client in asking]
        wait_until(
            lambda: all(client.good > count + 3 for client, count in zip(asking, seen, strict=True)),
            what="answers to all",
        )
        return [wrong for client in asking for wrong in client.bad]

    yield bad
    for client in asking:
        client.done.set()
    for client in asking:
        client.join(30)


def modes(cluster: TestCluster) -> set[str]:
    """What either worker answers, each asked at least once: other clients take turns of the rotation meanwhile."""
    seen: set[str] = set()

    def both() -> bool:
        seen.update(requests.get(f"{cluster.lb(number)}/", timeout=60).text for number in (0, 1))
        return {answer.split()[-1] for answer in seen} == {"worker-0", "worker-1"}

    wait_until(both, what="an answer of each worker")
    return seen


def pids(cluster: TestCluster) -> dict[str, tuple[int, str]]:
    return {name: (row["pid"], row["state"]) for name, row in cluster.replicas().items()}


def test_a_version_with_another_health_path_rolls_smoothly(
    rolled: TestCluster, strict: Callable[[], list[str]]
) -> None:
    before = rolled.events("replica_unhealthy")
    rolled.write(worker_environment="{MODE: new}", health_path="/new")
    done = rolled.comet("reload")
    assert done.returncode == 0, done.stderr
    assert strict() == []
    assert modes(rolled) == {"new worker-0", "new worker-1"}
    assert rolled.events("replica_unhealthy") == before


def test_requests_in_flight_on_an_abrupt_service_are_awaited(rolled: TestCluster) -> None:
    """Its answers have begun when it is told to end, so that nobody could repeat them."""
    with clients(rolled, 8, "/slow") as asking:
        wait_until(lambda: all(client.good for client in asking))
        assert (done := rolled.comet("restart", "worker")).returncode == 0, done.stderr
    assert [wrong for client in asking for wrong in client.bad] == []


def test_a_version_that_cannot_run_is_refused_with_its_output(
    rolled: TestCluster, strict: Callable[[], list[str]]
) -> None:
    before = pids(rolled)
    rolled.write(worker_environment="{MODE: broken}", health_path="/broken")
    done = rolled.comet("reload")
    assert done.returncode == 1
    assert "worker-2: the replacement does not become ready: it ended 3 times in a row (exit 1)" in done.stderr
    assert "\n  | worker-2: no way to run as broken" in done.stderr
    assert pids(rolled) == before
    assert strict() == []
    told = rolled.comet("events", "--tail", "1").stdout
    assert told.split("  ", 1)[1].startswith(
        "reload refused: worker-2: the replacement does not become ready: it ended 3 times"
    )
    assert told.count("\n") == 1


def test_a_version_that_fails_half_way_is_rolled_back(rolled: TestCluster, strict: Callable[[], list[str]]) -> None:
    before = pids(rolled)
    rolled.write(worker_environment="{MODE: fussy}", health_path="/fussy")
    done = rolled.comet("reload")
    assert done.returncode == 1
    assert "worker-1: the replacement does not become ready" in done.stderr
    assert modes(rolled) == {"old worker-0", "old worker-1"}
    after = pids(rolled)
    assert set(after) == set(before)
    assert {state for _, state in after.values()} == {"ready"}
    assert strict() == []
    # The old config is in force: what crashes comes back as the old version, and a good file is taken as ever.
    assert rolled.comet("kill", "worker-0").returncode == 0
    wait_until(
        lambda: (
            pids(rolled)["worker-0"][0] not in (None, after["worker-0"][0]) and pids(rolled)["worker-0"][1] == "ready"
        )
    )
    assert requests.get(rolled.worker(0), timeout=60).text == "old worker-0"
    rolled.write(worker_environment="{MODE: new}", health_path="/new")
    assert rolled.comet("reload").returncode == 0
    assert modes(rolled) == {"new worker-0", "new worker-1"}


def test_a_health_path_that_nobody_answers_is_refused(rolled: TestCluster, strict: Callable[[], list[str]]) -> None:
    before, unhealthy = pids(rolled), rolled.events("replica_unhealthy")
    rolled.write(health_path="/new")
    done = rolled.comet("reload")
    assert done.returncode == 1
    saw = "worker-0 (GET /new: status 404), worker-1 (GET /new: status 404)"
    assert f"health-path: {saw}: no status of 200-399 at /new within 10 s; nothing was changed" in done.stderr
    assert strict() == []
    assert rolled.events("replica_unhealthy") == unhealthy
    rolled.write(health_path="/")
    assert (done := rolled.comet("reload")).stdout.startswith("changed health-path "), done.stderr
    assert strict() == []
    assert pids(rolled) == before


def test_a_crash_loop_says_its_next_try_and_heals_when_mended(
    rolled: TestCluster, strict: Callable[[], list[str]]
) -> None:
    cause = rolled.folder / "worker-0.broken"
    restarts = rolled.replicas()["worker-1"]["restarts"]
    before = len(rolled.events("backoff_entered", "worker-0"))
    cause.touch()
    assert rolled.comet("kill", "worker-0").returncode == 0
    waits = wait_until(
        lambda: len(told := rolled.events("backoff_entered", "worker-0")[before:]) >= 6 and told, what="a crash loop"
    )
    attempts = [event["attempt"] for event in waits]
    assert attempts == list(range(attempts[0], attempts[0] + len(attempts)))
    fair = [min(100 * 2 ** (attempt - 2), 1000) for attempt in attempts]
    delays = [event["delay_ms"] for event in waits]
    assert all(0.8 * each <= delay <= 1.2 * each for each, delay in zip(fair, delays, strict=True)), delays
    row = wait_until(lambda: (row := rolled.replicas()["worker-0"])["state"] == "backoff" and row)
    assert 0 <= row["next_start_s"] <= 1.2
    wait_until(lambda: "backoff (next in " in rolled.comet("ps").stdout)
    assert rolled.replicas()["worker-1"]["restarts"] == restarts
    assert strict() == []
    cause.unlink()
    wait_until(lambda: rolled.replicas()["worker-0"]["state"] == "ready", what="it heals by itself")
    assert modes(rolled) == {"old worker-0", "old worker-1"}
    assert strict() == []


@pytest.fixture
def versions() -> Iterator[Callable[[str], str]]:
    """Gives one name of an image again and again, to another image each time: the service's, that runs as the MODE
    asked for.
    """
    name = f"comet-test-service:{os.getpid()}"
    client = docker.from_env()
    with contextlib.closing(client), contextlib.ExitStack() as made:
        base = base_image.present(client) or base_image.own_base()
        base_image.ensure(client, base, lambda told: None, threading.Event())

        def version(mode: str) -> str:
            container = client.api.create_container(base.reference)["Id"]
            image = client.api.commit(container, *name.split(":"), changes=[f"ENV MODE={mode}"])["Id"]
            client.api.remove_container(container)
            made.callback(client.api.remove_image, image, force=True)
            return name

        yield version


@pytest.mark.docker
def test_a_new_image_takes_over_and_one_that_cannot_run_does_not(
    tmp_path: Path, versions: Callable[[str], str]
) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "service.py").write_text(SERVICE)
    own_base = {
        "worker_command": "python3 /srv/service.py",
        "worker_volumes": "['./:/srv:ro']",
        "avg_delay": None,
        "failure": None,
    }
    with open_cluster(
        tmp_path, worker_image=versions("0"), health_path="/", worker_target_port=8080, shutdown_grace=2, **own_base
    ) as cluster:
        cluster.start()
        with clients(cluster, CLIENTS, "/") as strict:
            for number in range(1, ROUNDS + 1):
                versions(str(number))
                done = cluster.comet("reload")
                assert done.returncode == 0, done.stderr
                assert {answer.split()[0] for answer in modes(cluster)} == {str(number)}
            before = pids(cluster)
            versions("broken")
            done = cluster.comet("reload")
            assert done.returncode == 1
            assert "\n  | worker-2: no way to run as broken" in done.stderr
            cluster.write(worker_image="comet-test/nowhere:1")
            done = cluster.comet("reload")
            assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
            assert "comet-test/nowhere:1 is not on this machine and cannot be pulled" in done.stderr
            seen = [client.good for client in strict]
            wait_until(lambda: all(client.good > count for client, count in zip(strict, seen, strict=True)))
        assert pids(cluster) == before
        assert [wrong for client in strict for wrong in client.bad] == []
        cluster.stop()
        cluster.assert_nothing_left()
