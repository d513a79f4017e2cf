"""The load balancer in waiting: it is the next one, it is replaced, it costs nothing where it is missing, and it
outlives nobody.
"""

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from lb.process.standby import TITLE
from tests.support import cluster as clusters
from tests.support.cluster import TestCluster
from tests.support.waiting import wait_until

FORKSERVER = "from multiprocessing.forkserver import main"


def titled(cluster: TestCluster, title: str) -> list[psutil.Process]:
    found = []
    for process in cluster.processes():
        try:
            if title in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def standby(cluster: TestCluster, other_than: int | None = None) -> psutil.Process:
    return wait_until(
        lambda: next((each for each in titled(cluster, TITLE) if each.pid != other_than), None), what="a standby"
    )


def warmed_up(process: psutil.Process) -> psutil.Process:
    """It reads from a UNIX socket for its order alone, after it has reported its warm-up (proc_pid_wchan(5))."""
    waits_in = Path(f"/proc/{process.pid}/wchan")
    wait_until(lambda: waits_in.read_text().startswith("unix_stream"), what="it waits for its order")
    return process


def forkserver(cluster: TestCluster) -> psutil.Process:
    """Once that of an earlier supervisor has ended."""
    wait_until(lambda: len(titled(cluster, FORKSERVER)) == 1, what="one forkserver")
    return titled(cluster, FORKSERVER)[0]


def gone(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    return True


def pid(cluster: TestCluster, name: str) -> int:
    return int(cluster.replicas()[name]["pid"])


def successor(cluster: TestCluster, name: str, former: int) -> int:
    def ready() -> int | None:
        # A supervisor that waits for a new forkserver may not answer at once; then only what lives is seen.
        row = cluster.replicas().get(name)
        return int(row["pid"]) if row is not None and row["state"] == "ready" and row["pid"] != former else None

    return wait_until(ready, what="its successor")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    with clusters.open_cluster(tmp_path_factory.mktemp("standby"), worker=1, pool=2, runtime="process") as cluster:
        cluster.start()
        yield cluster


def test_the_standby_becomes_the_next_lb_and_is_replaced(cluster: TestCluster) -> None:
    for name in ("lb-0", "lb-1"):
        waiting, former = warmed_up(standby(cluster)), pid(cluster, name)
        os.kill(former, 9)
        assert successor(cluster, name, former) == waiting.pid
        assert cluster.hello(int(name[-1])).status_code == 200
        assert standby(cluster, waiting.pid).pid != waiting.pid


def test_a_dead_standby_costs_no_request(cluster: TestCluster) -> None:
    waiting, former = warmed_up(standby(cluster)), pid(cluster, "lb-0")
    waiting.kill()
    os.kill(former, 9)
    assert successor(cluster, "lb-0", former) != waiting.pid
    assert cluster.hello().status_code == 200
    assert standby(cluster, waiting.pid).pid != waiting.pid


def test_a_stopped_standby_or_forkserver_is_not_waited_for(cluster: TestCluster) -> None:
    waiting, former = warmed_up(standby(cluster)), pid(cluster, "lb-0")
    server = forkserver(cluster)
    for each in (waiting, server):
        each.suspend()
        wait_until(lambda each=each: each.status() == psutil.STATUS_STOPPED, what="it stands still")  # type: ignore[misc]
    os.kill(former, 9)
    assert successor(cluster, "lb-0", former) != waiting.pid
    # The forkserver, its parent, can tell nobody.
    assert cluster.events("replica_exited", "lb-0")[-1]["signal"] == "SIGKILL"
    assert cluster.hello().status_code == 200
    assert standby(cluster, waiting.pid).pid != waiting.pid
    wait_until(lambda: gone(waiting) and gone(server), what="their end")


@pytest.mark.parametrize("is_listening", [False, True])
def test_a_socket_other_than_the_forkservers_is_not_awaited(cluster: TestCluster, is_listening: bool) -> None:
    """It is of the same kind as the one that it replaces, and may even take the order of a fork."""
    waiting, former = warmed_up(standby(cluster)), pid(cluster, "lb-0")
    (path,) = (cluster.folder / ".comet/run").glob("listener-*")
    known = len(cluster.events("replica_start_failed"))
    waiting.kill()
    with socket.socket(socket.AF_UNIX) as other, contextlib.chdir(path.parent):
        path.unlink()
        other.bind(path.name)
        if is_listening:
            other.listen()
        os.kill(former, 9)
        assert successor(cluster, "lb-0", former) != waiting.pid
    assert cluster.hello().status_code == 200
    assert len(cluster.events("replica_start_failed")) == known
    assert standby(cluster, waiting.pid).pid != waiting.pid


def test_a_standbys_uptime_begins_when_it_becomes_an_lb(cluster: TestCluster) -> None:
    waiting, former = warmed_up(standby(cluster)), pid(cluster, "lb-0")
    wait_until(lambda: time.time() - waiting.create_time() > 8, what="some time spent waiting")
    os.kill(former, 9)
    assert successor(cluster, "lb-0", former) == waiting.pid
    cluster.kill_supervisor()
    for adopt in (lambda: None, cluster.start):
        adopt()
        assert cluster.replicas()["lb-0"]["uptime_s"] < time.time() - waiting.create_time() - 5
    cluster.kill_supervisor()
    assert (
        cluster.replicas()["lb-0"]["uptime_s"] < time.time() - waiting.create_time() - 5
    )  # Its adopter has kept it in mind.
    cluster.start()


def test_a_standby_does_not_outlive_its_supervisor(cluster: TestCluster) -> None:
    waiting = standby(cluster)
    cluster.kill_supervisor()
    wait_until(lambda: gone(waiting), what="its end")
    cluster.start()
    assert len(titled(cluster, "comet: lb-")) == 2


def test_a_standby_works_with_a_dead_forkserver(cluster: TestCluster) -> None:
    waiting, former = warmed_up(standby(cluster)), pid(cluster, "lb-0")
    server = forkserver(cluster)
    server.kill()
    os.kill(former, 9)
    assert successor(cluster, "lb-0", former) == waiting.pid
    assert cluster.hello().status_code == 200
    standby(cluster, waiting.pid)


def test_a_standby_without_forkserver_ends_with_the_cluster(cluster: TestCluster) -> None:
    warmed_up(standby(cluster))
    server = forkserver(cluster)
    server.kill()
    cluster.stop()
    cluster.assert_nothing_left()
