"""Crashes of both kinds, under clients that look closely."""

import http.client
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import docker
import psutil
import pytest

from comet.state.directory import worker_owner
from comet.statistics import database_files, writer_lock
from tests.support.cluster import TestCluster
from tests.support.endless_loop import loop_endlessly
from tests.support.overload import is_overload
from tests.support.shared import SharedCluster
from tests.support.waiting import PATIENCE, wait_until

KERNEL = tuple(int(number) for number in os.uname().release.split(".")[:2])

STEPS = ["noticed", "decided", "started", "listening", "ready", "first answer"]


PAUSE = 0.0 if os.environ.get("COMET_TEST_FULL") else 0.04
"""Seconds between two requests of a client. Without one, eight clients take all the CPU that the cluster needs to do
what the test is about.
"""


class Client(threading.Thread):
    """Asks over and over on one keep-alive connection, and keeps every answer that is not a 200."""

    def __init__(self, url: str, pause: float = PAUSE) -> None:
        super().__init__(daemon=True)
        self.url, self.pause = urlsplit(url), pause
        self.good = 0
        self.bad: list[str] = []
        self.done = threading.Event()

    def run(self) -> None:
        # requests.Session costs four times the CPU, which what is tested needs.
        connection = http.client.HTTPConnection(self.url.netloc, timeout=60)
        while not self.done.is_set():
            began = time.monotonic()
            try:
                if connection.sock is not None and _is_readable(connection.sock):
                    connection.close()  # The other side ended it between two requests.
                connection.request("GET", self.url.path or "/")
                answer = connection.getresponse()
                text = answer.read().decode()
                if answer.status == 200:
                    self.good += 1
                elif not is_overload(answer.status, text, time.monotonic() - began):
                    self.bad.append(f"{answer.status} {text}")
            except (OSError, http.client.HTTPException) as error:
                self.bad.append(repr(error))
                connection.close()
            if self.pause:
                self.done.wait(self.pause)
        connection.close()


def _is_readable(peer: socket.socket) -> bool:
    poll = select.poll()  # select.select fails from descriptor 1024 on.
    poll.register(peer, select.POLLIN)
    return bool(poll.poll(0))


@contextmanager
def clients(
    cluster: TestCluster, number: int = 8, path: str = "/api/v1/hello", pause: float = PAUSE
) -> Iterator[list[Client]]:
    """Strict clients on both load balancers, for as long as the block runs."""
    started = [Client(f"{cluster.lb(index % 2)}{path}", pause) for index in range(number)]
    for client in started:
        client.start()
    try:
        yield started
    finally:
        for client in started:
            client.done.set()
        for client in started:
            client.join(30)


@pytest.fixture(scope="module")
def shared(share_cluster: Callable[..., SharedCluster]) -> SharedCluster:
    return share_cluster(worker=3, pool=2, runtime="process", avg_delay=20, restart_backoff_max=1)


def test_a_killed_worker_comes_back_and_no_client_sees_an_error(shared: SharedCluster) -> None:
    cluster = shared.lend()
    before, known = cluster.replicas()["worker-1"], len(cluster.events("replica_restarting", "worker-1"))
    with clients(cluster) as strict:
        wait_until(lambda: all(client.good > 5 for client in strict), what="answers to every client")
        os.kill(before["pid"], signal.SIGKILL)
        wait_until(lambda: len(cluster.events("replica_restarting", "worker-1")) > known, what="the restart")
        after = wait_until(
            lambda: (row := cluster.replicas()["worker-1"])["state"] == "ready" and row, what="worker-1 ready again"
        )
        seen = [client.good for client in strict]
        wait_until(
            lambda: all(client.good > count + 20 for client, count in zip(strict, seen, strict=True)),
            what="answers after that",
        )
    assert [client.bad for client in strict] == [[]] * len(strict)
    assert (after["restarts"], after["port"]) == (before["restarts"] + 1, before["port"])
    assert after["last_exit"]["signal"] == "SIGKILL"


def test_a_killed_load_balancer_refuses_nobody(shared: SharedCluster) -> None:
    cluster = shared.lend()
    restarts = cluster.replicas()["lb-0"]["restarts"]
    known, deaths = (len(cluster.events(name, "lb-0")) for name in ("first_answer", "replica_exited"))
    port = cluster.config["load-balancer-port"]
    other = Client(f"{cluster.lb(1)}/api/v1/hello")
    other.start()
    refused, done = [], threading.Event()

    def knock() -> None:
        while not done.is_set():
            try:
                socket.create_connection(("127.0.0.1", port), timeout=10 * PATIENCE).close()
            except OSError as error:
                refused.append(repr(error))
            done.wait(PAUSE / 20)

    knocker = threading.Thread(target=knock, daemon=True)
    knocker.start()
    for round in range(5):
        pid = cluster.replicas()["lb-0"]["pid"]
        os.kill(pid, signal.SIGKILL)
        # Queued in the backlog of the held socket until the successor accepts: answered, not refused.
        assert cluster.hello(0).status_code == 200
        wait_until(lambda round=round: len(cluster.events("replica_exited", "lb-0")) == deaths + round + 1)
    done.set()
    knocker.join(30)
    other.done.set()
    other.join(30)
    assert refused == []
    assert other.bad == []
    row = cluster.replicas()["lb-0"]
    assert (row["restarts"], row["last_exit"]["signal"], row["last_exit"]["code"]) == (restarts + 5, "SIGKILL", -9)
    wait_until(lambda: len(cluster.events("first_answer", "lb-0")) > known, what="the first answer reported")
    for told in cluster.events("first_answer", "lb-0")[known:]:
        assert [step for step in told["timeline_ms"] if step not in ("died", "backoff")] == STEPS
        assert list(told["timeline_ms"].values()) == sorted(told["timeline_ms"].values())


@pytest.mark.docker
def test_a_container_ended_by_others_is_back_without_errors(
    make_cluster: Callable[..., TestCluster],
) -> None:
    cluster = make_cluster(worker=2, pool=2, avg_delay=20)
    cluster.start()
    with clients(cluster) as strict, cluster.engine() as engine:
        wait_until(lambda: all(client.good > 5 for client in strict), what="answers to every client")
        before = cluster.replicas()["worker-1"]
        engine.api.kill(before["id"])
        after = wait_until(
            lambda: (row := cluster.replicas()["worker-1"])["restarts"] == 1 and row["state"] == "ready" and row
        )
        # The same container, started again.
        assert (after["id"], after["last_exit"]["signal"], after["port"]) == (before["id"], "SIGKILL", before["port"])
        before = cluster.replicas()["worker-0"]
        engine.api.kill(before["id"], "TERM")
        after = wait_until(
            lambda: (row := cluster.replicas()["worker-0"])["restarts"] == 1 and row["state"] == "ready" and row
        )
        assert (after["id"], after["last_exit"]["code"], after["last_exit"]["signal"]) == (before["id"], 0, None)
        engine.api.remove_container(before["id"], force=True)
        after = wait_until(
            lambda: (row := cluster.replicas()["worker-0"])["state"] == "ready" and row["id"] != before["id"] and row
        )
        assert after["port"] == before["port"]
        seen = [client.good for client in strict]
        wait_until(
            lambda: all(client.good > count + 5 for client, count in zip(strict, seen, strict=True)),
            what="answers after that",
        )
        # Died, noticed, decided, started, listening, ready, first answer: one timeline, as the supervisor tells it.
        steps = wait_until(lambda: cluster.events("first_answer", "worker-0"), what="its first answer")[-1][
            "timeline_ms"
        ]
        assert [step for step in steps if step not in ("died", "backoff")] == STEPS
        assert list(steps.values()) == sorted(steps.values())
    assert [client.bad for client in strict] == [[]] * len(strict)
    wait_until(lambda: len({cluster.hello().json()["message"] for _ in range(2)}) == 2, what="both in turn")
    cluster.stop()
    cluster.assert_nothing_left()


def test_a_crash_loop_backs_off_alone_and_says_so(make_cluster: Callable[..., TestCluster]) -> None:
    # However long the deaths take, none before is forgotten.
    cluster = make_cluster(worker=2, pool=1, runtime="process", restart_stable=600)
    cluster.start()
    for _ in range(7):
        cluster.hello()
    os.kill(cluster.replicas()["lb-0"]["pid"], signal.SIGKILL)
    cluster.hello()
    assert cluster.replicas()["lb-0"]["requests"] == 8  # A count outlives the crash.
    for _ in range(4):
        row = wait_until(lambda: (row := cluster.replicas()["worker-0"])["pid"] and row, what="worker-0 alive")
        os.kill(row["pid"], signal.SIGKILL)
        wait_until(lambda row=row: cluster.replicas()["worker-0"]["pid"] != row["pid"], what="its death noticed")
    entered = cluster.events("backoff_entered", "worker-0")
    assert [event["attempt"] for event in entered] == list(range(2, 2 + len(entered)))
    assert len(entered) >= 2
    assert cluster.replicas()["worker-1"]["restarts"] == 0
    assert {cluster.hello().status_code for _ in range(4)} == {200}
    cluster.stop()
    cluster.assert_nothing_left()


def test_a_killed_supervisor_leaves_all_for_the_next_to_adopt(
    make_cluster: Callable[..., TestCluster], shared: SharedCluster, runtime: str
) -> None:
    cluster = shared.lend() if runtime == "process" else make_cluster(worker=2, pool=2)
    if runtime == "docker":
        cluster.start()
    before, known = cluster.replicas(), len(cluster.events("adopted"))
    with clients(cluster) as strict:
        os.kill(cluster.supervisor_pid(), signal.SIGKILL)
        listed = wait_until(lambda: (found := cluster.ps())["supervisor"]["running"] is False and found)
        assert listed["supervisor"]["pid"] is None
        assert {row["name"]: row["pid"] for row in listed["replicas"]} == {
            name: row["pid"] for name, row in before.items()
        }
        assert all(row["orphan"] for row in listed["replicas"])
        time.sleep(0.5)  # Served on without any supervisor; nothing is waited for here, only more requests let pass.
        cluster.start()
        seen = [client.good for client in strict]
        wait_until(lambda: all(client.good > count + 10 for client, count in zip(strict, seen, strict=True)))
    assert [client.bad for client in strict] == [[]] * len(strict)
    after = cluster.replicas()
    assert {name: (row["pid"], row["id"], row["restarts"]) for name, row in after.items()} == {
        name: (row["pid"], row["id"], row["restarts"]) for name, row in before.items()
    }
    assert {event["replica"] for event in cluster.events("adopted")[known:]} == set(before)
    # What was adopted is supervised like anything else.
    for name in ("lb-0", "worker-0"):
        os.kill(after[name]["pid"], signal.SIGKILL)
        before = after[name]["restarts"]
        row = wait_until(
            lambda name=name, before=before: (now := cluster.replicas()[name])["restarts"] > before and now
        )
        # Older kernels forget how a stranger's child ended as soon as it is reaped.
        assert row["last_exit"]["signal"] == "SIGKILL" or KERNEL < (6, 15)
    assert cluster.hello(0).status_code == 200
    if runtime == "docker":
        cluster.stop()
        cluster.assert_nothing_left()


@pytest.mark.docker
def test_stop_works_without_a_supervisor(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(worker=2, pool=1)
    cluster.start()
    os.kill(cluster.supervisor_pid(), signal.SIGKILL)
    wait_until(lambda: not cluster.ps()["supervisor"]["running"])
    cluster.stop()
    cluster.assert_nothing_left()
    assert cluster.comet("stop").returncode == 3


def test_the_forkserver_dies_and_is_healed(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(worker=1, pool=1, runtime="process")
    cluster.start()
    balancer = cluster.replicas()["lb-0"]
    parent = psutil.Process(balancer["pid"]).parent()
    assert parent is not None
    parent.kill()
    assert cluster.hello().status_code == 200
    assert cluster.replicas()["lb-0"]["pid"] == balancer["pid"]
    os.kill(balancer["pid"], signal.SIGKILL)
    assert cluster.hello().status_code == 200
    after = cluster.replicas()["lb-0"]
    assert after["restarts"] == 1
    assert after["last_exit"]["signal"] == "SIGKILL"  # Orphaned, it was the supervisor's child.
    os.kill(cluster.supervisor_pid(), signal.SIGKILL)
    wait_until(lambda: not cluster.ps()["supervisor"]["running"])
    cluster.stop()  # It needs no supervisor.
    cluster.assert_nothing_left()
    assert cluster.comet("stop").returncode == 3


def test_a_hung_load_balancer_is_replaced_on_the_same_socket(shared: SharedCluster) -> None:
    cluster = shared.lend()
    for number, hang in enumerate((lambda pid: os.kill(pid, signal.SIGSTOP), loop_endlessly)):
        hung, other = f"lb-{number}", f"lb-{1 - number}"
        before, known = cluster.replicas(), len(cluster.events("replica_unhealthy", hung))
        hang(before[hung]["pid"])
        assert cluster.hello(number).status_code == 200  # It waited in the backlog until the successor accepted.
        after = cluster.replicas()
        assert after[hung]["pid"] != before[hung]["pid"]
        assert after[other]["pid"] == before[other]["pid"]
        (told,) = cluster.events("replica_unhealthy", hung)[known:]
        assert told["reason"] == "hung: no answer for 3 s"


def test_a_busy_load_balancer_is_left_alone(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(worker=2, pool=1, runtime="process", avg_delay=0, watchdog_timeout=3)
    cluster.start()
    before = cluster.replicas()["lb-0"]["pid"]
    busy = [Client(f"{cluster.lb()}/api/v1/hello", pause=0) for _ in range(16)]
    for client in busy:
        client.start()
    time.sleep(4.5)  # Half as long again as the watchdog's timeout: what is tested is that nothing happens.
    for client in busy:
        client.done.set()
        client.join(30)
    assert cluster.replicas()["lb-0"]["pid"] == before
    assert [client.bad for client in busy] == [[]] * 16
    cluster.stop()


def stop_amid_a_commit(cluster: TestCluster, name: str) -> None:
    """Stop the process of a worker that commits all the time, at a moment at which it holds the database's write
    lock.
    """
    main = cluster.replicas()[name]["pid"]
    working = psutil.Process(main).children() or [psutil.Process(main)]
    link = cluster.folder / "worker-stats.db"
    where = database_files.Place(link, link.resolve(), cluster.folder)

    def at_rest() -> bool:
        """A signal is sent before it is received: every thread has to have stopped, or the lock seen is given up after
        the look.
        """
        with suppress(FileNotFoundError, ProcessLookupError):  # A thread has ended before it was stopped.
            states = [
                task.joinpath("stat").read_text().rpartition(")")[2].split()[0]
                for task in Path(f"/proc/{working[0].pid}/task").iterdir()
            ]
            return set(states) == {"T"}
        return False

    def caught() -> bool:
        working[0].suspend()
        wait_until(at_rest, what=f"{name} stopped")
        with database_files.opened(where, worker_owner()) as directory:
            held = writer_lock.lock_holder(directory, where.file.name)
        if held is not None and held.pid == working[0].pid:
            return True
        working[0].resume()
        return False

    wait_until(caught, what=f"{name} stopped in the midst of a commit")


@pytest.mark.docker
def test_a_worker_stopped_during_a_commit_blocks_no_other(make_cluster: Callable[..., TestCluster]) -> None:
    # Its health would be found out far later than requests may wait for their commit.
    cluster = make_cluster(worker=3, pool=2, health_interval=60, health_restart=5, request_timeout=20, avg_delay=1)
    cluster.start()
    with clients(cluster, pause=0) as strict:
        wait_until(lambda: all(client.good > 5 for client in strict))
        stop_amid_a_commit(cluster, "worker-1")
        wait_until(lambda: cluster.replicas()["worker-1"]["restarts"] == 1, what="worker-1 restarted")
        wait_until(lambda: cluster.replicas()["worker-1"]["state"] == "ready", what="worker-1 ready again")
    assert [client.bad for client in strict] == [[]] * len(strict)
    assert [event["reason"] for event in cluster.events("replica_unhealthy")] == ["hung: it keeps the database locked"]
    cluster.stop()


def test_a_hung_worker_leaves_the_rotation_and_is_restarted(
    make_cluster: Callable[..., TestCluster], runtime: str
) -> None:
    cluster = make_cluster(
        worker=3, pool=2, runtime=runtime, health_interval=1, health_restart=5, request_timeout=20, avg_delay=20
    )
    cluster.start()
    victim = cluster.replicas()["worker-1"]
    with clients(cluster) as strict:
        wait_until(lambda: all(client.good > 5 for client in strict))
        if runtime == "docker":
            engine = docker.from_env()
            engine.api.pause(victim["id"])
            engine.close()
        else:
            os.kill(victim["pid"], signal.SIGSTOP)
        wait_until(lambda: cluster.events("replica_unhealthy", "worker-1"), what="worker-1 found unhealthy")
        wait_until(lambda: cluster.replicas()["worker-1"]["restarts"] == 1, 60, what="worker-1 restarted")
        wait_until(lambda: cluster.replicas()["worker-1"]["state"] == "ready", what="worker-1 ready again")
    # Safe requests that waited on it moved on when it left the rotation.
    assert [client.bad for client in strict] == [[]] * len(strict)
    cluster.stop()
    cluster.assert_nothing_left()
