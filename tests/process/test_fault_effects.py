"""Every fault kind, tried through both load balancers of a real cluster: what a client sees is the table of
docs/faults.md.
"""

import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import pytest

from tests.support.cluster import TestCluster, open_cluster
from tests.support.fault_orders import order
from tests.support.waiting import wait_until

REQUEST_TIMEOUT = 4.0
"""Only what hangs may take so long, also on a busy machine."""


@dataclass(frozen=True)
class Answer:
    """What a client saw. `end` is how the connection ended: eof or reset."""

    status: int
    worker: str | None
    length: int
    body: bytes
    end: str
    seconds: float


def ask(cluster: TestCluster, balancer: int) -> Answer:
    """One request on a connection of its own, read to the connection's end."""
    began = time.monotonic()
    data, end = b"", "eof"
    with socket.create_connection(("127.0.0.1", cluster.config["load-balancer-port"] + balancer), timeout=60) as client:
        client.sendall(b"GET /api/v1/hello HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        try:
            while more := client.recv(65536):
                data += more
        except ConnectionResetError:
            end = "reset"
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    seconds = time.monotonic() - began
    return Answer(
        int(first.split()[1]), fields.get("x-comet-worker"), int(fields["content-length"]), body, end, seconds
    )


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    folder = tmp_path_factory.mktemp("cluster")
    with open_cluster(
        folder,
        worker=2,
        pool=2,
        runtime="process",
        request_timeout=REQUEST_TIMEOUT,
        health_interval=1,
        health_timeout=3,
    ) as cluster:
        cluster.start()
        yield cluster
        cluster.stop()


@pytest.fixture
def faulty(running: TestCluster) -> Iterator[Callable[..., None]]:
    """Orders faults that are gone when the test is."""

    yield partial(order, running)
    order(running, "all", "--clear")
    wait_until(lambda: all(row["state"] == "ready" for row in running.replicas().values()), what="all ready again")
    wait_until(
        lambda: all({ask(running, number).worker for _ in range(2)} == {"worker-0", "worker-1"} for number in (0, 1)),
        what="both in rotation",
    )


def both(cluster: TestCluster, count: int = 4) -> list[Answer]:
    """Answers of both load balancers in turn, `count` of each."""
    return [ask(cluster, number) for _ in range(count) for number in (0, 1)]


def message(answer: Answer) -> str:
    told = json.loads(answer.body)
    return str(told.get("error") or told["message"].rpartition(":")[0])


HELLO = "hello from process"


def test_failure_and_status(running: TestCluster, faulty: Callable[..., None]) -> None:
    faulty("worker-0", "--failure", "100")
    seen = both(running)
    assert {(answer.status, answer.worker, message(answer)) for answer in seen} == {
        (500, "worker-0", "injected failure"), (200, "worker-1", HELLO),
    }  # fmt: skip
    assert sum(answer.status == 500 for answer in seen) == 4  # The worker stays healthy and keeps its share.
    faulty("all", "--failure", "100", "--status", "503")
    assert {(answer.status, message(answer)) for answer in both(running)} == {(503, "injected failure")}


def test_avg_delay_and_its_distribution(running: TestCluster, faulty: Callable[..., None]) -> None:
    faulty("worker-0", "--avg-delay", "400", "--delay-distribution", "constant")
    slow = [answer for answer in both(running, 2) if answer.worker == "worker-0"]
    assert len(slow) == 2
    assert all(answer.status == 200 and answer.seconds >= 0.4 for answer in slow)


def test_a_reset_is_hidden_as_long_as_another_worker_can_answer(
    running: TestCluster, faulty: Callable[..., None]
) -> None:
    faulty("worker-0", "--reset", "100")
    assert {(answer.status, answer.worker) for answer in both(running)} == {(200, "worker-1")}
    faulty("worker-1", "--reset", "100")
    assert {(answer.status, message(answer)) for answer in both(running)} == {
        (502, "the worker closed the connection without an answer")
    }


def test_a_truncated_answer_ends_in_a_reset(running: TestCluster, faulty: Callable[..., None]) -> None:
    faulty("all", "--truncate", "100")
    for answer in both(running, 2):
        assert (answer.status, answer.end) == (200, "reset")
        assert 0 < len(answer.body) < answer.length


def test_a_slow_body_comes_whole_at_its_speed(running: TestCluster, faulty: Callable[..., None]) -> None:
    faulty("all", "--slow-body", "60")
    for answer in both(running, 1):
        assert (answer.status, message(answer), answer.end) == (200, HELLO, "eof")
        assert answer.seconds >= answer.length / 60 * 0.7


def test_cpu_makes_answers_late_and_keeps_the_processor_busy(running: TestCluster, faulty: Callable[..., None]) -> None:
    faulty("all", "--cpu", "150")
    seen = both(running, 2)
    assert all(answer.status == 200 and answer.seconds >= 0.15 for answer in seen)


def test_a_request_that_hangs_ends_with_the_request_timeout(running: TestCluster, faulty: Callable[..., None]) -> None:
    faulty("worker-0", "--hang", "99.9999")
    seen = both(running, 2)
    assert {(answer.status, answer.worker) for answer in seen} == {(504, None), (200, "worker-1")}
    for answer in seen:
        if answer.status == 504:
            assert message(answer) == "the worker did not answer in time"
            assert answer.seconds >= REQUEST_TIMEOUT
    assert running.replicas()["worker-0"]["state"] == "ready"


def test_a_worker_that_hangs_is_taken_out_and_restarted(running: TestCluster, faulty: Callable[..., None]) -> None:
    before = running.replicas()["worker-0"]
    faulty("worker-0", "--hang", "100")
    out = wait_until(
        lambda: (seen := both(running, 2)) and {answer.worker for answer in seen} == {"worker-1"} and seen,
        what="its exclusion",
    )
    assert {answer.status for answer in out} == {200}
    assert max(answer.seconds for answer in out) < REQUEST_TIMEOUT
    wait_until(lambda: running.replicas()["worker-0"]["restarts"] > before["restarts"], what="a restart")
    assert running.events("replica_unhealthy", "worker-0")


def test_a_memory_fault_kills_at_the_limit_without_client_errors(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(worker=2, pool=2, runtime="process", worker_memory="96m")
    cluster.start()
    assert cluster.comet("faults", "worker-0", "--memory", "60").returncode == 0
    seen = []
    wait_until(lambda: seen.extend(both(cluster, 1)) or cluster.events("replica_exited", "worker-0"), what="its end")
    assert cluster.comet("faults", "--clear").returncode == 0
    row = wait_until(lambda: (row := cluster.replicas()["worker-0"])["state"] == "ready" and row, what="its return")
    assert row["restarts"] >= 1
    assert row["last_exit"]["signal"] == "SIGKILL"
    assert {answer.status for answer in seen} == {200}
    cluster.stop()


@pytest.mark.docker
def test_a_worker_that_survives_an_oom_kill_ends_as_ordered(make_cluster: Callable[..., TestCluster]) -> None:
    """The engine says OOMKilled of a container whenever the kernel has killed anything in it."""
    cluster = make_cluster(worker=1, pool=1, worker_memory="80m")
    cluster.start()
    identity = cluster.replicas()["worker-0"]["id"]
    with cluster.engine() as client:
        hungry = client.api.exec_create(identity, ["python3", "-c", "bytearray(600 << 20)"])["Id"]
        client.api.exec_start(hungry)
        assert client.api.exec_inspect(hungry)["ExitCode"] == 137
    assert cluster.comet("restart", "worker-0").returncode == 0
    (exited,) = [event for event in cluster.events("replica_exited", "worker-0") if event["id"] == identity]
    assert (exited["oom"], exited["ordered"], exited["code"]) == (False, True, 0)
    cluster.stop()


@pytest.mark.docker
def test_memory_is_a_true_oom_kill_of_a_container(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(worker=2, pool=2, runtime="docker", worker_memory="80m")
    cluster.start()
    before = cluster.replicas()
    assert cluster.comet("faults", "worker-0", "--memory", "40").returncode == 0
    seen = []
    exited, *_ = wait_until(
        lambda: seen.extend(both(cluster, 1)) or cluster.events("replica_exited", "worker-0"), what="its end"
    )
    assert cluster.comet("faults", "--clear").returncode == 0
    assert (exited["oom"], exited["signal"], exited["code"]) == (True, "SIGKILL", 137)
    after = wait_until(lambda: (row := cluster.replicas()["worker-0"])["state"] == "ready" and row, what="its return")
    assert (after["last_exit"]["oom"], after["last_exit"]["code"], after["id"]) == (True, 137, before["worker-0"]["id"])
    assert "worker-0 crashed: SIGKILL (out of memory)" in cluster.comet("events").stdout
    assert cluster.replicas()["worker-1"]["id"] == before["worker-1"]["id"]
    assert {answer.status for answer in seen} == {200}
    assert "memory " in cluster.comet("stats").stdout
    cluster.stop()
    cluster.assert_nothing_left()


def test_each_injection_is_counted_and_shown(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(worker=1, pool=2, runtime="process", request_timeout=REQUEST_TIMEOUT, retries=0)
    cluster.start()
    for kind, count in (("failure", 3), ("reset", 2), ("truncate", 4), ("hang", 1)):
        order(cluster, "all", f"--{kind}", "100" if kind != "hang" else "99.9999", "--count", str(count))
        seen = [ask(cluster, number % 2) for number in range(count)]
        if kind == "truncate":
            assert {answer.end for answer in seen} == {"reset"}
        elif (
            kind != "reset"
        ):  # A connection that is cut may have been a former request's: that is asked again on a new one.
            assert all(answer.status >= 500 for answer in seen)
        assert ask(cluster, 0).status == 200
    # Requests without an answer are noted beside the commits of others: a moment later.
    for told in ("failure 3", "reset 2", "truncate 4", "hang 1"):
        wait_until(
            lambda told=told: all(told in line for line in cluster.comet("stats").stdout.splitlines()[1:]), what=told
        )
    cluster.stop()
