"""What is stopped by SIGSTOP, as a debugger or Ctrl-Z does: a load balancer that drains meanwhile, and the supervisor
itself.
"""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from comet.host.process_identity import is_alive
from comet.state.control_socket import SOCKET
from comet.state.directory import Cluster
from tests.support.cluster import TestCluster, free_ports, open_cluster
from tests.support.waiting import PATIENCE, wait_until


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    folder = tmp_path_factory.mktemp("stopped")
    with open_cluster(
        folder, runtime="process", worker=1, pool=2, shutdown_grace=120, watchdog_timeout=5, admin_port=free_ports(1)
    ) as cluster:
        cluster.start()
        yield cluster
        cluster.stop()
        cluster.assert_nothing_left()


def test_a_sigstopped_lb_is_not_waited_for_while_draining(cluster: TestCluster) -> None:
    """Its grace for requests is 120 s; the watchdog finds within 5 s that it does nothing."""
    former = int(cluster.replicas()["lb-0"]["pid"])
    os.kill(former, signal.SIGSTOP)
    began = time.monotonic()
    done = cluster.comet("restart", "lb-0", timeout=60)
    assert done.returncode == 0, done.stderr
    assert not is_alive(former, None)
    assert time.monotonic() - began < 15 * PATIENCE
    assert cluster.hello().status_code == 200


def test_a_reload_has_reached_every_lb_when_it_returns(cluster: TestCluster) -> None:
    """One that is stopped cannot take the settings over: the watchdog ends it, and its successor starts with them."""
    former = int(cluster.replicas()["lb-0"]["pid"])
    cluster.write(retries=1)
    os.kill(former, signal.SIGSTOP)
    done = cluster.comet("reload", timeout=60)
    assert done.returncode == 0, done.stderr
    assert not is_alive(former, None)
    wait_until(lambda: cluster.replicas()["lb-0"]["state"] == "ready")


def test_a_working_lb_drains_for_its_grace(cluster: TestCluster) -> None:
    assert cluster.comet("faults", "all", "--avg-delay", "6000", "--delay-distribution", "constant").returncode == 0
    former = int(cluster.replicas()["lb-0"]["pid"])
    answered: list[int] = []
    asking = threading.Thread(target=lambda: answered.append(cluster.hello(0).status_code))
    asking.start()
    wait_until(lambda: cluster.replicas()["lb-0"]["in_flight"])
    assert cluster.comet("restart", "lb-0").returncode == 0
    asking.join(30 * PATIENCE)
    assert answered == [200]
    assert int(cluster.replicas()["lb-0"]["pid"]) != former
    assert cluster.comet("faults", "--clear").returncode == 0


COMMANDS = (
    ("scale", "worker=2"),
    ("restart", "all"),
    ("kill", "worker-0"),
    ("faults",),
    ("faults", "--failure", "5"),
    ("reload",),
    ("dashboard",),
    ("stop",),
)


def test_a_sigstopped_supervisor_is_reported_and_not_waited_for(cluster: TestCluster) -> None:
    pid, events = cluster.supervisor_pid(), len(cluster.events())
    os.kill(pid, signal.SIGSTOP)
    try:
        listed = cluster.ps()
        assert listed["supervisor"]["running"]
        assert listed["supervisor"]["problem"] == f"not answering: it is stopped; continue it with: kill -CONT {pid}"
        assert {row["name"] for row in listed["replicas"]} == {"lb-0", "lb-1", "worker-0"}
        assert "not answering" in cluster.comet("ps").stdout
        began = time.monotonic()
        with ThreadPoolExecutor(len(COMMANDS)) as pool:  # Each takes 5 s.
            for command, refused in zip(COMMANDS, pool.map(lambda each: cluster.comet(*each), COMMANDS), strict=True):
                assert (refused.returncode, refused.stderr) == (
                    1,
                    f"the supervisor (PID {pid}) does not answer: it is stopped; continue it with: kill -CONT {pid}\n",
                ), command
        assert time.monotonic() - began < 5 * len(COMMANDS) - 5, "5 s, and what this machine takes for so many at once"
    finally:
        os.kill(pid, signal.SIGCONT)
    assert cluster.ps()["supervisor"]["problem"] is None
    time.sleep(0.5)
    assert [
        each["event"]
        for each in cluster.events()[events:]
        if each["event"] in ("scaled", "replica_exited", "faults_changed", "reloaded")
    ] == []
    assert cluster.supervisor_pid() == pid, "what was refused is not done later"


def test_a_supervisor_sigstopped_during_a_command_is_reported(cluster: TestCluster) -> None:
    pid = cluster.supervisor_pid()
    assert cluster.comet("faults", "all", "--avg-delay", "8000", "--delay-distribution", "constant").returncode == 0
    asking = threading.Thread(target=cluster.hello)
    asking.start()
    wait_until(lambda: cluster.replicas()["worker-0"]["in_flight"])
    refused, begun = [], len(cluster.events("surge_started"))
    restarting = threading.Thread(target=lambda: refused.append(cluster.comet("restart", "worker-0", timeout=60)))
    restarting.start()
    # It waits for the request, at the latest.
    wait_until(lambda: len(cluster.events("surge_started")) > begun, what="the restart has begun")
    os.kill(pid, signal.SIGSTOP)
    try:
        restarting.join(30 * PATIENCE)
        assert f"kill -CONT {pid}" in refused[0].stderr
    finally:
        os.kill(pid, signal.SIGCONT)
    asking.join(30 * PATIENCE)
    wait_until(lambda: cluster.replicas()["worker-0"]["state"] == "ready")
    wait_until(lambda: "busy" not in cluster.comet("faults", "--clear").stderr)
    wait_until(lambda: len(cluster.replicas()) == 3)


def test_a_busy_control_socket_does_not_look_dead(cluster: TestCluster) -> None:
    run = Cluster(cluster.folder)
    held: list[socket.socket] = []
    try:
        pid = cluster.supervisor_pid()
        held += [run.connect(SOCKET) for _ in range(600)]
        assert cluster.ps()["supervisor"]["problem"] is None
        assert cluster.comet("kill", "lb-9").returncode == 2
        os.kill(pid, signal.SIGSTOP)
        try:
            for _ in range(2000):
                held.append(run.connect(SOCKET, timeout=0.2))
        except BlockingIOError:
            pass  # Nobody accepts, and there is no more room to wait.
        assert f"kill -CONT {pid}" in cluster.comet("scale", "worker=2").stderr
        assert cluster.ps()["supervisor"]["running"]
    finally:
        os.kill(pid, signal.SIGCONT)
        for each in held:
            each.close()
    assert cluster.comet("kill", "lb-9").returncode == 2
