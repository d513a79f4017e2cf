"""Crashes of both kinds, under clients that look closely."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
import psutil
import pytest
import requests

from comet import writelock
from tests.integration.clusters import House, eventually
from tests.integration.loops import loop_endlessly

pytestmark = [pytest.mark.docker, pytest.mark.slow]

KERNEL = tuple(int(number) for number in os.uname().release.split(".")[:2])


class Client(threading.Thread):
    """Asks over and over on one keep-alive connection, and keeps every answer that is not a 200."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url = url
        self.good = 0
        self.bad: list[str] = []
        self.done = threading.Event()

    def run(self) -> None:
        with requests.Session() as session:
            while not self.done.is_set():
                try:
                    answer = session.get(self.url, timeout=30)
                    if answer.status_code == 200:
                        self.good += 1
                    else:
                        self.bad.append(f"{answer.status_code} {answer.text}")
                except requests.RequestException as error:
                    self.bad.append(repr(error))


@contextmanager
def clients(house: House, number: int = 8, path: str = "/api/v1/hello") -> Iterator[list[Client]]:
    """Strict clients on both load balancers, for as long as the block runs."""
    started = [Client(f"{house.lb(index % 2)}{path}") for index in range(number)]
    for client in started:
        client.start()
    try:
        yield started
    finally:
        for client in started:
            client.done.set()
        for client in started:
            client.join(30)


def test_a_killed_worker_comes_back_and_no_client_sees_an_error_f11_f16(make_house: Callable[..., House], runtime: str) -> None:
    house = make_house(worker=3, runtime=runtime, avg_delay=20)
    house.start()
    before = house.replicas()["worker-1"]
    with clients(house) as strict:
        eventually(lambda: all(client.good > 5 for client in strict), what="answers to every client")
        if runtime == "docker":
            engine = docker.from_env()
            engine.api.kill(before["id"])
            engine.close()
        else:
            os.kill(before["pid"], signal.SIGKILL)
        eventually(lambda: house.events("replica_restarting", "worker-1"), what="the restart")
        after = eventually(lambda: (row := house.replicas()["worker-1"])["state"] == "ready" and row, what="worker-1 ready again")
        seen = [client.good for client in strict]
        eventually(lambda: all(client.good > count + 20 for client, count in zip(strict, seen, strict=True)), what="answers after that")
    assert [client.bad for client in strict] == [[]] * len(strict)
    assert (after["restarts"], after["port"]) == (1, before["port"])
    assert after["last_exit"]["signal"] == "SIGKILL"
    if runtime == "docker":
        assert after["id"] == before["id"]  # The same container, started again.
    house.stop()
    house.assert_nothing_left()


def test_a_killed_load_balancer_refuses_nobody_f12(make_house: Callable[..., House]) -> None:
    house = make_house(worker=2, runtime="process")
    house.start()
    port = house.config["load-balancer-port"]
    other = Client(f"{house.lb(1)}/api/v1/hello")
    other.start()
    refused, done = [], threading.Event()

    def knock() -> None:
        while not done.is_set():
            try:
                socket.create_connection(("127.0.0.1", port), timeout=10).close()
            except OSError as error:
                refused.append(repr(error))

    knocker = threading.Thread(target=knock, daemon=True)
    knocker.start()
    for round in range(5):
        pid = house.replicas()["lb-0"]["pid"]
        os.kill(pid, signal.SIGKILL)
        # Queued in the backlog of the held socket until the successor accepts: answered, not refused.
        assert house.hello(0).status_code == 200
        eventually(lambda round=round: len(house.events("replica_exited", "lb-0")) == round + 1)
    done.set()
    knocker.join(30)
    other.done.set()
    other.join(30)
    assert refused == []
    assert other.bad == []
    row = house.replicas()["lb-0"]
    assert (row["restarts"], row["last_exit"]["signal"], row["last_exit"]["code"]) == (5, "SIGKILL", -9)
    for told in house.events("first_answer", "lb-0"):
        assert list(told["timeline_ms"])[-6:] == ["noticed", "decided", "started", "listening", "ready", "first answer"]
        assert list(told["timeline_ms"].values()) == sorted(told["timeline_ms"].values())
    assert house.events("first_answer", "lb-0")
    house.stop()
    house.assert_nothing_left()


def test_a_load_balancer_keeps_its_count_through_a_crash(make_house: Callable[..., House]) -> None:
    house = make_house(worker=1, pool=1, runtime="process")
    house.start()
    for _ in range(7):
        house.hello()
    os.kill(house.replicas()["lb-0"]["pid"], signal.SIGKILL)
    house.hello()
    assert house.replicas()["lb-0"]["requests"] == 8
    house.stop()


def test_a_container_that_exits_or_is_removed_from_outside_is_back_and_no_client_sees_an_error(make_house: Callable[..., House]) -> None:
    house = make_house(worker=2, pool=2, avg_delay=20)
    house.start()
    with clients(house) as strict, house.engine() as engine:
        before = house.replicas()["worker-0"]
        engine.api.kill(before["id"], "TERM")
        after = eventually(lambda: (row := house.replicas()["worker-0"])["restarts"] == 1 and row["state"] == "ready" and row)
        assert (after["id"], after["last_exit"]["code"], after["last_exit"]["signal"]) == (before["id"], 0, None)
        engine.api.remove_container(before["id"], force=True)
        after = eventually(lambda: (row := house.replicas()["worker-0"])["state"] == "ready" and row["id"] != before["id"] and row)
        assert after["port"] == before["port"]
        seen = [client.good for client in strict]
        eventually(lambda: all(client.good > count + 5 for client, count in zip(strict, seen, strict=True)), what="answers after that")
        # Died, noticed, decided, started, listening, ready, first answer: one timeline, as the supervisor tells it.
        steps = eventually(lambda: house.events("first_answer", "worker-0"), what="its first answer")[-1]["timeline_ms"]
        assert list(steps)[-6:] == ["noticed", "decided", "started", "listening", "ready", "first answer"]
        assert list(steps.values()) == sorted(steps.values())
    assert [client.bad for client in strict] == [[]] * len(strict)
    assert len({house.hello().json()["message"] for _ in range(2)}) == 2
    house.stop()
    house.assert_nothing_left()


def test_a_crash_loop_backs_off_alone_and_says_so(make_house: Callable[..., House]) -> None:
    house = make_house(worker=2, pool=1, runtime="process")
    house.start()
    for _ in range(4):
        row = eventually(lambda: (row := house.replicas()["worker-0"])["pid"] and row, what="worker-0 alive")
        os.kill(row["pid"], signal.SIGKILL)
        eventually(lambda row=row: house.replicas()["worker-0"]["pid"] != row["pid"], what="its death noticed")
    entered = house.events("backoff_entered", "worker-0")
    assert [event["attempt"] for event in entered] == list(range(2, 2 + len(entered)))
    assert len(entered) >= 2
    assert house.replicas()["worker-1"]["restarts"] == 0
    assert {house.hello().status_code for _ in range(4)} == {200}
    house.stop()
    house.assert_nothing_left()


def test_everything_outlives_a_killed_supervisor_and_the_next_one_adopts_it_f7(make_house: Callable[..., House], runtime: str) -> None:
    house = make_house(worker=2, pool=2, runtime=runtime)
    house.start()
    before = house.replicas()
    with clients(house) as strict:
        os.kill(house.supervisor_pid(), signal.SIGKILL)
        listed = eventually(lambda: (found := house.ps())["supervisor"]["running"] is False and found)
        assert listed["supervisor"]["pid"] is None
        assert {row["name"]: row["pid"] for row in listed["replicas"]} == {name: row["pid"] for name, row in before.items()}
        assert all(row["orphan"] for row in listed["replicas"])
        time.sleep(0.5)  # Served on without any supervisor; nothing is waited for here, only more requests let pass.
        house.start()
        seen = [client.good for client in strict]
        eventually(lambda: all(client.good > count + 10 for client, count in zip(strict, seen, strict=True)))
    assert [client.bad for client in strict] == [[]] * len(strict)
    after = house.replicas()
    assert {name: (row["pid"], row["id"], row["restarts"]) for name, row in after.items()} == {
        name: (row["pid"], row["id"], 0) for name, row in before.items()
    }
    assert {event["replica"] for event in house.events("adopted")} == set(before)
    # What was adopted is supervised like anything else.
    for name in ("lb-0", "worker-0"):
        os.kill(after[name]["pid"], signal.SIGKILL)
        row = eventually(lambda name=name: (found := house.replicas()[name])["restarts"] and found, what=f"{name} restarted")
        # Older kernels forget how a stranger's child ended as soon as it is reaped.
        assert row["last_exit"]["signal"] == "SIGKILL" or KERNEL < (6, 15)
    assert house.hello(0).status_code == 200
    house.stop()
    house.assert_nothing_left()


def test_stop_works_without_a_supervisor(make_house: Callable[..., House], runtime: str) -> None:
    house = make_house(worker=2, pool=1, runtime=runtime)
    house.start()
    os.kill(house.supervisor_pid(), signal.SIGKILL)
    eventually(lambda: not house.ps()["supervisor"]["running"])
    house.stop()
    house.assert_nothing_left()
    assert house.comet("stop").returncode == 3


def test_the_forkserver_dies_and_is_healed(make_house: Callable[..., House]) -> None:
    house = make_house(worker=1, pool=1, runtime="process")
    house.start()
    balancer = house.replicas()["lb-0"]
    parent = psutil.Process(balancer["pid"]).parent()
    assert parent is not None
    parent.kill()
    assert house.hello().status_code == 200
    assert house.replicas()["lb-0"]["pid"] == balancer["pid"]
    os.kill(balancer["pid"], signal.SIGKILL)
    assert house.hello().status_code == 200
    after = house.replicas()["lb-0"]
    assert after["restarts"] == 1
    assert after["last_exit"]["signal"] == "SIGKILL"  # Orphaned, it was the supervisor's child.
    house.stop()
    house.assert_nothing_left()


@pytest.mark.parametrize("hang", [lambda pid: os.kill(pid, signal.SIGSTOP), loop_endlessly], ids=["stopped", "endless-loop"])
def test_a_hung_load_balancer_is_replaced_on_the_same_socket(make_house: Callable[..., House], hang: Callable[[int], None]) -> None:
    house = make_house(worker=1, pool=2, runtime="process")
    house.start()
    before = house.replicas()
    hang(before["lb-0"]["pid"])
    assert house.hello(0).status_code == 200  # It waited in the backlog until the successor accepted.
    after = house.replicas()
    assert after["lb-0"]["pid"] != before["lb-0"]["pid"]
    assert after["lb-1"]["pid"] == before["lb-1"]["pid"]
    (told,) = house.events("replica_unhealthy", "lb-0")
    assert told["reason"] == "hung: no answer for 3 s"
    house.stop()
    house.assert_nothing_left()


def test_a_busy_load_balancer_is_left_alone(make_house: Callable[..., House]) -> None:
    house = make_house(worker=2, pool=1, runtime="process", avg_delay=0, watchdog_timeout=1)
    house.start()
    before = house.replicas()["lb-0"]["pid"]
    with clients(house, 0):
        busy = [Client(f"{house.lb()}/api/v1/hello") for _ in range(16)]
        for client in busy:
            client.start()
        time.sleep(5)  # Five times the watchdog's patience under full load: what is tested is that nothing happens.
        for client in busy:
            client.done.set()
            client.join(30)
    assert house.replicas()["lb-0"]["pid"] == before
    assert [client.bad for client in busy] == [[]] * 16
    house.stop()


def stop_amid_a_commit(house: House, name: str) -> None:
    """Stop the process of a worker that commits all the time, at a moment at which it holds the database's write lock."""
    main = house.replicas()[name]["pid"]
    working = psutil.Process(main).children() or [psutil.Process(main)]
    database = (house.folder / "worker-stats.db").resolve()

    def at_rest() -> bool:
        """A signal is sent before it is received: every thread has to have stopped, or the lock seen is given up after the look."""
        states = [
            task.joinpath("stat").read_text().rpartition(")")[2].split()[0] for task in Path(f"/proc/{working[0].pid}/task").iterdir()
        ]
        return set(states) == {"T"}

    def caught() -> bool:
        working[0].suspend()
        eventually(at_rest, what=f"{name} stopped")
        held = writelock.look(database)
        if held is not None and held.pid == working[0].pid:
            return True
        working[0].resume()
        return False

    eventually(caught, what=f"{name} stopped in the midst of a commit")


def test_a_worker_stopped_amid_a_commit_keeps_nobody_from_counting(make_house: Callable[..., House], runtime: str) -> None:
    # Its health would be found out far later than requests may wait for their commit.
    house = make_house(worker=3, pool=2, runtime=runtime, health_interval=10, health_restart=5, request_timeout=20, avg_delay=1)
    house.start()
    with clients(house) as strict:
        eventually(lambda: all(client.good > 5 for client in strict))
        stop_amid_a_commit(house, "worker-1")
        eventually(lambda: house.replicas()["worker-1"]["restarts"] == 1, what="worker-1 restarted")
        eventually(lambda: house.replicas()["worker-1"]["state"] == "ready", what="worker-1 ready again")
    assert [client.bad for client in strict] == [[]] * len(strict)
    assert [event["reason"] for event in house.events("replica_unhealthy")] == ["hung: it keeps the database locked"]
    house.stop()


def test_a_hung_worker_leaves_the_rotation_and_is_restarted(make_house: Callable[..., House], runtime: str) -> None:
    house = make_house(
        worker=3, pool=2, runtime=runtime, health_interval=1, health_timeout=0.5, health_restart=5, request_timeout=20, avg_delay=20
    )
    house.start()
    victim = house.replicas()["worker-1"]
    with clients(house) as strict:
        eventually(lambda: all(client.good > 5 for client in strict))
        if runtime == "docker":
            engine = docker.from_env()
            engine.api.pause(victim["id"])
            engine.close()
        else:
            os.kill(victim["pid"], signal.SIGSTOP)
        eventually(lambda: house.events("replica_unhealthy", "worker-1"), what="worker-1 found unhealthy")
        eventually(lambda: house.replicas()["worker-1"]["restarts"] == 1, 60, what="worker-1 restarted")
        eventually(lambda: house.replicas()["worker-1"]["state"] == "ready", what="worker-1 ready again")
    # Safe requests that waited on it moved on when it left the rotation.
    assert [client.bad for client in strict] == [[]] * len(strict)
    house.stop()
    house.assert_nothing_left()
