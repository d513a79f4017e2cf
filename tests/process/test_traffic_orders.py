"""drain, undrain, pause and resume of a running cluster: what its clients and its workers notice of them."""

import contextlib
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from scripts.bench.rivals import HAPROXY
from tests.process.test_crashes import Client, clients
from tests.support.cluster import TestCluster, free_ports, open_cluster
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    with open_cluster(
        tmp_path_factory.mktemp("cluster"), worker=3, pool=2, runtime="process", avg_delay=10, admin_port=free_ports(1)
    ) as cluster:
        cluster.start()
        yield cluster
        cluster.stop()
        cluster.assert_nothing_left()


@pytest.fixture(autouse=True)
def nothing_ordered(running: TestCluster) -> Iterator[None]:
    """Each test begins without orders, however the one before it ended."""
    yield
    if not running.ps()["supervisor"]["running"]:
        running.start()
    seen = running.ps()
    paused = [["resume"]] if seen["total"]["paused"] else []
    for command in (*paused, *(["undrain", row["name"]] for row in seen["replicas"] if row["drained"])):
        assert running.comet(*command).returncode == 0


def order(cluster: TestCluster, *arguments: str) -> str:
    done = cluster.comet(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def ready(cluster: TestCluster) -> bool:
    return all(row["state"] == "ready" for row in cluster.replicas().values())


def answering(cluster: TestCluster, count: int = 9) -> set[str]:
    """The workers that answer on each load balancer."""
    return {
        cluster.hello(number).headers["X-Comet-Worker"]
        for number in range(cluster.config["pool"])
        for _ in range(count)
    }


def await_answers(strict: list[Client], more: int) -> None:
    seen = [client.good for client in strict]
    wait_until(
        lambda: all(client.good > count + more for client, count in zip(strict, seen, strict=True)), what="answers"
    )


def killed(cluster: TestCluster, name: str) -> None:
    """Return once its successor is ready."""
    before = len(cluster.events("replica_exited", name))
    assert cluster.comet("kill", name).returncode == 0
    wait_until(lambda: len(cluster.events("replica_exited", name)) > before and ready(cluster), what="its successor")


def on_the_way(cluster: TestCluster, name: str) -> tuple[int, int]:
    row = cluster.replicas()[name]
    return row["requests"], row["in_flight"]


@contextlib.contextmanager
def killed_supervisor(cluster: TestCluster) -> Iterator[None]:
    cluster.kill_supervisor()
    yield
    cluster.start()


def test_a_drained_worker_gets_nothing_whatever_happens(running: TestCluster) -> None:
    known = len(running.events(replica="worker-1"))
    with clients(running) as strict:
        wait_until(lambda: all(client.good for client in strict))
        assert order(running, "drain", "worker-1") == "worker-1 is drained: it gets no new requests"
        wait_until(lambda: on_the_way(running, "worker-1")[1] == 0)
        await_answers(strict, 1)  # A load balancer counts a request after it has sent the answer.
        before = on_the_way(running, "worker-1")
        await_answers(strict, 20)
        assert on_the_way(running, "worker-1") == before
    assert [client.bad for client in strict] == [[]] * len(strict)
    assert order(running, "drain", "worker-1") == "worker-1 was already drained: it gets no new requests"
    row = running.replicas()["worker-1"]
    assert (row["drained"], row["state"]) == (True, "ready")
    assert {name: found["healthy"] for name, found in row["health"].items()} == {"lb-0": True, "lb-1": True}
    assert "ready (drained)" in running.comet("ps").stdout

    killed(running, "lb-0")
    assert answering(running) == {"worker-0", "worker-2"}
    order(running, "restart", "worker-1")
    killed(running, "worker-1")
    assert answering(running) == {"worker-0", "worker-2"}
    with killed_supervisor(running):
        assert "drained" in running.comet("ps").stdout
        assert answering(running) == {"worker-0", "worker-2"}
    assert answering(running) == {"worker-0", "worker-2"}
    assert order(running, "undrain", "worker-1") == "worker-1 gets requests again"
    assert answering(running) == {"worker-0", "worker-1", "worker-2"}
    assert order(running, "undrain", "worker-1") == "worker-1 was not drained: nothing has changed"
    assert [event["event"] for event in running.events(replica="worker-1")[known:] if "drained" in event["event"]] == [
        "drained",
        "undrained",
    ]


def test_without_any_worker_the_cluster_is_not_ready(running: TestCluster) -> None:
    admin = f"http://127.0.0.1:{running.config['admin-port']}"
    token = (running.folder / ".comet/admin.token").read_text().strip()
    for number in range(3):
        done = requests.post(
            f"{admin}/api/v1/drain",
            json={"name": f"worker-{number}"},
            headers={"Authorization": f"Bearer {token}"},
            timeout=30,
        )
        assert done.json() == {
            "done": "drain", "result": {"name": f"worker-{number}", "drained": True, "changed": True},
        }  # fmt: skip
    answer = running.hello()
    assert (answer.status_code, answer.json()) == (503, {"error": "no worker is available"})
    wait_until(lambda: requests.get(f"{admin}/readyz", timeout=30).status_code == 503)
    assert 'comet_worker_drained{worker="worker-1"} 1.0' in requests.get(f"{admin}/metrics", timeout=30).text
    order(running, "undrain", "worker-0")
    assert running.hello().status_code == 200
    wait_until(lambda: requests.get(f"{admin}/readyz", timeout=30).status_code == 200)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("drain lb-0", "drain: lb-0: not a worker (choose one: worker-0, worker-1, worker-2)"),
        ("undrain lb-1", "undrain: lb-1: not a worker (choose one: worker-0, worker-1, worker-2)"),
        ("drain worker-9", "worker-9: no such replica"),
        ("drain", "supervisor.py drain: the following arguments are required: NAME (see --help)"),
        *(
            (f"pause --for={word}", f"pause: for: {word} is not usable (allowed: a time like 500ms, 30s, 5m or 1h, ")
            for word in ("soon", "0", "-3s", "nan", "8d")
        ),
    ],
)  # fmt: skip
def test_orders_that_make_no_sense(running: TestCluster, command: str, said: str) -> None:
    done = running.comet(*command.split())
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(said)


def test_a_worker_that_is_scaled_away_is_no_longer_drained(running: TestCluster) -> None:
    order(running, "scale", "worker=4")
    order(running, "drain", "worker-3")
    order(running, "scale", "worker=3")
    order(running, "scale", "worker=4")
    assert running.replicas()["worker-3"]["drained"] is False
    order(running, "scale", "worker=3")


def test_a_drain_during_a_rolling_restart(running: TestCluster) -> None:
    replaced = len(running.events("replica_starting", "worker-0"))
    with clients(running) as strict:
        rolling = threading.Thread(target=running.comet, args=("restart", "worker"))
        rolling.start()
        wait_until(lambda: len(running.events("replica_starting", "worker-0")) > replaced, what="the roll has begun")
        order(running, "drain", "worker-2")
        rolling.join()
        assert "worker-2" not in answering(running)
    assert [client.bad for client in strict] == [[]] * len(strict)


def waiting_client(cluster: TestCluster, number: int = 0) -> Client:
    made = Client(f"{cluster.lb(number)}/api/v1/hello")
    made.start()
    return made


def queued(cluster: TestCluster) -> list[int]:
    return [row["queued"] for row in cluster.replicas().values() if row["role"] == "lb"]


def test_requests_wait_during_a_pause(running: TestCluster) -> None:
    running.write(queue_timeout=0.2)
    order(running, "reload")
    assert order(running, "pause") == "paused: requests wait until `resume`"
    with clients(running) as strict:
        wait_until(lambda: sum(queued(running)) == len(strict), what="all wait")
        assert running.ps()["total"]["paused"] is True
        assert "(paused)" in running.comet("ps").stdout
        handled = [row["requests"] for row in running.replicas().values() if row["role"] == "worker"]
        killed(running, "worker-0")
        refused = running.comet("restart", "lb")
        assert (refused.returncode, refused.stderr) == (
            1, "the cluster is paused, and requests wait in its load balancers: resume first\n",
        )  # fmt: skip
        time.sleep(0.5)  # More than queue-timeout, whose time stands still.
        assert sum(queued(running)) == len(strict)
        assert [row["requests"] for row in running.replicas().values() if row["role"] == "worker"] == handled
        assert order(running, "resume") == "resumed: requests go on"
        wait_until(lambda: all(client.good for client in strict))
    assert [client.bad for client in strict] == [[]] * len(strict)
    assert order(running, "resume") == "the cluster was not paused: nothing has changed"
    running.write(queue_timeout=10)
    order(running, "reload")


def test_a_pause_with_an_end(running: TestCluster) -> None:
    def told() -> list[tuple[str, str | None]]:
        # The first answer of a worker that an earlier test has killed may be told meanwhile.
        found = [each for each in running.events()[since:] if each["event"] in ("paused", "resumed")]
        return [(each["event"], each.get("cause")) for each in found]

    since = len(running.events())
    assert order(running, "pause", "--for", "20ms").startswith("paused: requests wait for 0.02 s")
    assert running.hello().status_code == 200
    wait_until(lambda: len(told()) > 1)
    assert told() == [("paused", None), ("resumed", "time")]


def test_a_pause_outlives_supervisor_and_load_balancers(running: TestCluster) -> None:
    order(running, "pause", "--for", "1h")
    left = running.ps()["total"]["paused_s"]
    assert 3000 < left <= 3600
    with killed_supervisor(running):
        client = waiting_client(running)
    wait_until(lambda: queued(running)[0] == 1)
    assert 3000 < running.ps()["total"]["paused_s"] <= left
    other = waiting_client(running, 1)
    wait_until(lambda: queued(running) == [1, 1])
    killed(running, "lb-1")
    wait_until(lambda: other.bad and queued(running) == [1, 1], what="the client has asked the successor again")
    assert (client.good, other.good) == (0, 0)
    order(running, "resume")
    wait_until(lambda: client.good and other.good)
    for each in (client, other):
        each.done.set()
        each.join(30)


@pytest.fixture
def haproxy(running: TestCluster, tmp_path: Path) -> Iterator[tuple[str, Callable[[str], str]]]:
    """HAProxy in front of the cluster's workers: its address, and what gives it a command."""
    program = shutil.which("haproxy", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    assert program is not None, "haproxy is missing: scripts/test.sh installs it"
    port, control, config = free_ports(1), tmp_path / "admin.sock", tmp_path / "haproxy.cfg"
    servers = "\n  ".join(f"server worker-{n} {running.worker(n).removeprefix('http://')}" for n in range(3))
    own = f"global\n  stats socket {control} mode 600 level admin\n"
    config.write_text(own + HAPROXY.format(port=port, servers=servers))

    def command(line: str) -> str:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(control))
            peer.sendall(line.encode() + b"\n")
            with peer.makefile("r") as answer:
                return answer.read().strip()

    def listens() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 10):
            return control.exists()
        return False

    with subprocess.Popen([program, "-db", "-f", config], stderr=subprocess.DEVNULL) as process:
        wait_until(listens, what="HAProxy listens")
        yield f"http://127.0.0.1:{port}", command
        process.kill()


def test_a_drain_next_to_that_of_haproxy(running: TestCluster, haproxy: tuple[str, Callable[[str], str]]) -> None:
    """The same load on the same workers, counted by the worker: no error, and no request after the order."""
    url, command = haproxy
    pid = str(running.replicas()["worker-0"]["pid"])

    def haproxy_drains() -> None:
        assert command("set server workers/worker-0 state drain") == ""

    def sessions() -> str:
        """Those that HAProxy has with the worker now."""
        heads, *rows = (line.removeprefix("# ").split(",") for line in command("show stat").splitlines())
        listed = (dict(zip(heads, row, strict=False)) for row in rows)
        return next(row["scur"] for row in listed if (row["pxname"], row["svname"]) == ("workers", "worker-0"))

    def drained(front: str, drain: Callable[[], object], is_idle: Callable[[], bool]) -> tuple[int, int]:
        load = [Client(f"{front}/api/v1/hello") for _ in range(8)]
        for client in load:
            client.start()
        wait_until(lambda: all(client.good > 20 for client in load))
        drain()
        wait_until(is_idle, what="requests in flight end")
        before, good = running.counts()[pid], sum(client.good for client in load)
        wait_until(lambda: sum(client.good for client in load) > good + 200)
        after = running.counts()[pid] - before
        for client in load:
            client.done.set()
            client.join(30)
        return sum(len(client.bad) for client in load), after

    found = {
        "haproxy": drained(url, haproxy_drains, lambda: sessions() == "0"),
        "comet": drained(
            running.lb(),
            lambda: order(running, "drain", "worker-0"),
            lambda: on_the_way(running, "worker-0")[1] == 0,
        ),
    }
    assert found == {"haproxy": (0, 0), "comet": (0, 0)}
