"""The load balancer in waiting: it is the next one, it is replaced, it costs nothing where it is missing, and it outlives nobody."""

import os
import time
from collections.abc import Iterator

import psutil
import pytest

from lb.standby import TITLE
from tests.integration import clusters
from tests.integration.clusters import House, eventually

pytestmark = pytest.mark.slow

FORKSERVER = "from multiprocessing.forkserver import main"


def titled(house: House, title: str) -> list[psutil.Process]:
    found = []
    for process in house.processes():
        try:
            if title in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def standby(house: House, other_than: int | None = None) -> psutil.Process:
    return eventually(lambda: next((each for each in titled(house, TITLE) if each.pid != other_than), None), what="a standby")


def rehearsed(process: psutil.Process) -> psutil.Process:
    """Once it waits and does no more, it has said that it has rehearsed."""
    eventually(lambda: process.status() == psutil.STATUS_SLEEPING and len(process.net_connections("tcp")) == 0 and quiet(process))
    return process


def quiet(process: psutil.Process) -> bool:
    before = process.cpu_times()
    time.sleep(0.2)
    return process.cpu_times() == before


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def pid(house: House, name: str) -> int:
    return int(house.replicas()[name]["pid"])


def successor(house: House, name: str, former: int) -> int:
    return eventually(
        lambda: (row := house.replicas()[name])["state"] == "ready" and row["pid"] != former and int(row["pid"]), what="its successor"
    )


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with clusters.house(tmp_path_factory.mktemp("standby"), worker=1, pool=2, runtime="process") as made:
        made.start()
        yield made


def test_the_next_load_balancer_is_the_one_in_waiting_and_another_takes_its_place(house: House) -> None:
    for name in ("lb-0", "lb-1"):
        waiting, former = rehearsed(standby(house)), pid(house, name)
        os.kill(former, 9)
        assert successor(house, name, former) == waiting.pid
        assert house.hello(int(name[-1])).status_code == 200
        assert standby(house, waiting.pid).pid != waiting.pid


def test_one_that_is_dead_costs_nothing(house: House) -> None:
    waiting, former = rehearsed(standby(house)), pid(house, "lb-0")
    waiting.kill()
    os.kill(former, 9)
    assert successor(house, "lb-0", former) != waiting.pid
    assert house.hello().status_code == 200
    assert standby(house, waiting.pid).pid != waiting.pid


def test_one_that_is_stopped_is_not_waited_for_nor_is_a_forkserver(house: House) -> None:
    waiting, former = rehearsed(standby(house)), pid(house, "lb-0")
    (server,) = titled(house, FORKSERVER)
    for each in (waiting, server):
        each.suspend()
    os.kill(former, 9)
    assert successor(house, "lb-0", former) != waiting.pid
    assert house.hello().status_code == 200
    assert standby(house, waiting.pid).pid != waiting.pid
    eventually(lambda: gone(waiting) and gone(server), what="their end")


def test_the_uptime_of_one_that_was_in_waiting_begins_when_it_became_a_load_balancer(house: House) -> None:
    waiting, former = rehearsed(standby(house)), pid(house, "lb-0")
    eventually(lambda: time.time() - waiting.create_time() > 8, what="some time spent waiting")
    os.kill(former, 9)
    assert successor(house, "lb-0", former) == waiting.pid
    os.kill(house.supervisor_pid(), 9)
    for adopt in (lambda: None, house.start):
        adopt()
        assert house.replicas()["lb-0"]["uptime_s"] < time.time() - waiting.create_time() - 5
    os.kill(house.supervisor_pid(), 9)
    assert house.replicas()["lb-0"]["uptime_s"] < time.time() - waiting.create_time() - 5  # Its adopter has kept it in mind.
    house.start()


def test_it_does_not_outlive_its_supervisor(house: House) -> None:
    waiting = standby(house)
    os.kill(house.supervisor_pid(), 9)
    eventually(lambda: gone(waiting), what="its end")
    house.start()
    assert len(titled(house, "comet: lb-")) == 2


def test_it_is_there_also_when_the_forkserver_is_dead(house: House) -> None:
    waiting, former = rehearsed(standby(house)), pid(house, "lb-0")
    (server,) = titled(house, FORKSERVER)
    server.kill()
    os.kill(former, 9)
    assert successor(house, "lb-0", former) == waiting.pid
    assert house.hello().status_code == 200
    standby(house, waiting.pid)


def test_one_whose_forkserver_is_dead_ends_with_the_cluster(house: House) -> None:
    rehearsed(standby(house))
    (server,) = titled(house, FORKSERVER)
    server.kill()
    house.stop()
    house.assert_nothing_left()
