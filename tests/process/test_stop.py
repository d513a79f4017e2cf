"""The way out: requests in flight finish, nothing is left, whenever the stop comes."""

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator

import pytest
import requests

from tests.support.cluster import TestCluster, open_cluster, open_folder
from tests.support.engines import private_engine
from tests.support.waiting import PATIENCE, wait_until


@pytest.mark.parametrize(
    ("runtime", "number"),
    [pytest.param("docker", signal.SIGTERM, marks=pytest.mark.docker), ("process", signal.SIGINT)],
    ids=["docker-SIGTERM", "process-SIGINT"],
)
def test_a_signal_lets_requests_finish_and_leaves_nothing(
    make_cluster: Callable[..., TestCluster], runtime: str, number: int
) -> None:
    cluster = make_cluster(
        worker=2, pool=2, runtime=runtime, avg_delay=8000, delay_distribution="constant", shutdown_grace=60
    )
    with cluster.foreground() as supervisor:
        assert supervisor.stdout is not None
        for line in supervisor.stdout:
            if line == "ready\n":
                break
        answers: list[int] = []
        asked = [
            threading.Thread(target=lambda index=index: answers.append(cluster.hello(index % 2).status_code))
            for index in range(8)
        ]
        for thread in asked:
            thread.start()
        wait_until(
            lambda: sum(row["in_flight"] for row in cluster.replicas().values() if row["role"] == "lb") == 8,
            what="8 requests in flight",
        )
        supervisor.send_signal(number)
        for thread in asked:
            thread.join(30 * PATIENCE)
        assert supervisor.wait(60 * PATIENCE) == 0
    assert answers == [200] * 8
    cluster.assert_nothing_left()


def test_ctrl_c_to_the_whole_group_lets_requests_finish(
    make_cluster: Callable[..., TestCluster],
) -> None:
    cluster = make_cluster(
        worker=1, pool=1, runtime="process", avg_delay=5000, delay_distribution="constant", shutdown_grace=60
    )
    with cluster.foreground() as supervisor:
        wait_until(lambda: cluster.events("replica_ready", "lb-0"))
        answers: list[int] = []
        asked = threading.Thread(target=lambda: answers.append(cluster.hello().status_code))
        asked.start()
        wait_until(lambda: cluster.replicas()["lb-0"]["in_flight"] == 1)
        os.killpg(supervisor.pid, signal.SIGINT)
        asked.join(30 * PATIENCE)
        assert supervisor.wait(60 * PATIENCE) == 0
    assert answers == [200]
    cluster.assert_nothing_left()


@contextlib.contextmanager
def on_a_terminal(cluster: TestCluster, *options: str) -> Iterator[tuple[int, Callable[[], None]]]:
    """`run` on a terminal of its own: its PID, and what closes the terminal as a window does."""
    pid, master = pty.fork()
    if pid == 0:
        os.chdir(cluster.folder)
        os.execve(
            cluster.command[0],
            [*cluster.command, "run", *options],
            os.environ | cluster.environment | {"TERM": "xterm"},
        )
    closed = threading.Event()
    reading = threading.Thread(target=read_until, args=(master, closed), daemon=True)
    reading.start()

    def close() -> None:
        closed.set()
        reading.join()

    try:
        yield pid, close
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def read_until(terminal: int, closed: threading.Event) -> None:
    """Read what is written to a terminal, which otherwise fills up; then close it, upon which the kernel sends SIGHUP
    to its session.
    """
    while not closed.is_set():
        if select.select([terminal], [], [], 0.05)[0]:
            try:
                os.read(terminal, 65536)
            except OSError:
                break
    os.close(terminal)


@pytest.mark.parametrize(("first", "options"), [(None, ()), (signal.SIGTERM, ("--quiet",))])
def test_a_closed_terminal_lets_requests_finish(
    make_cluster: Callable[..., TestCluster], first: signal.Signals | None, options: tuple[str, ...]
) -> None:
    """The kernel sends SIGHUP, and so does the shell, once or more often: only INT and TERM can be said twice."""
    cluster = make_cluster(
        worker=1, pool=1, runtime="process", avg_delay=8000, delay_distribution="constant", shutdown_grace=60
    )
    with on_a_terminal(cluster, *options) as (pid, close):
        wait_until(lambda: cluster.events("replica_ready", "lb-0"))
        answers: list[int] = []
        asked = threading.Thread(target=lambda: answers.append(cluster.hello().status_code))
        asked.start()
        wait_until(lambda: cluster.replicas()["lb-0"]["in_flight"] == 1)
        if first is not None:
            os.kill(pid, first)
            wait_until(lambda: cluster.replicas()["lb-0"]["state"] == "stopping")
        close()
        wait_until(
            lambda: cluster.replicas()["lb-0"]["state"] == "stopping", what="the closed terminal stops the cluster"
        )
        for _ in range(2):
            os.kill(pid, signal.SIGHUP)
            assert cluster.ps()["supervisor"]["running"]
        asked.join(60 * PATIENCE)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert answers == [200]
    cluster.assert_nothing_left()


@pytest.mark.root
@pytest.mark.parametrize("closed_first", [True, False])
def test_a_stop_outlives_a_replacement_that_nobody_asked_for(closed_first: bool) -> None:
    """Workers are replaced where a folder above was closed to their user: just before the stop, or while it lasts."""
    own = {"avg_delay": 4000, "delay_distribution": "constant", "shutdown_grace": 60}
    with open_folder() as above:
        folder = above / "cluster"
        folder.mkdir(mode=0o755)
        with open_cluster(folder, worker=1, pool=1, runtime="process", **own) as cluster:
            cluster.start()
            asked = threading.Thread(target=cluster.hello)
            asked.start()
            wait_until(lambda: cluster.replicas()["lb-0"]["in_flight"] == 1)
            if closed_first:
                above.chmod(0o700)
                wait_until(lambda: cluster.events("surge_started"), what="a replacement")
            stop = threading.Thread(target=cluster.stop)
            stop.start()
            wait_until(lambda: cluster.replicas()["lb-0"]["state"] == "stopping", what="the stop")
            above.chmod(0o700)
            stop.join()
            asked.join()
            cluster.assert_nothing_left()
            assert cluster.events("supervisor_stopped")


def test_a_second_signal_stops_at_once(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(worker=1, pool=1, runtime="process", avg_delay=60000, shutdown_grace=300)
    with cluster.foreground() as supervisor:
        wait_until(lambda: cluster.events("replica_ready", "lb-0"))
        failed: list[str] = []

        def ask() -> None:
            try:
                failed.append(cluster.hello().text)
            except requests.RequestException as error:
                failed.append(type(error).__name__)

        asked = threading.Thread(target=ask, daemon=True)
        asked.start()
        wait_until(lambda: cluster.replicas()["lb-0"]["in_flight"] == 1)
        supervisor.send_signal(signal.SIGTERM)
        wait_until(lambda: cluster.replicas()["lb-0"]["state"] == "stopping")
        supervisor.send_signal(signal.SIGTERM)
        supervisor.wait(60 * PATIENCE)
        asked.join(30 * PATIENCE)
    # Whichever was killed first: the load balancer, or the worker, of which the load balancer could still tell.
    assert len(failed) == 1
    assert failed[0] == "ConnectionError" or "the worker closed the connection" in failed[0]
    cluster.assert_nothing_left()


def test_a_signal_during_the_start_leaves_nothing(make_cluster: Callable[..., TestCluster], runtime: str) -> None:
    """At several moments of the start, from the first line on."""
    cluster = make_cluster(worker=3, pool=2, runtime=runtime)
    for moment in ("supervisor_started", "replica_starting", "replica_ready"):
        before = len(cluster.events(moment))
        with cluster.foreground() as supervisor:

            def come(moment: str = moment, before: int = before, process: "subprocess.Popen[str]" = supervisor) -> bool:
                assert process.poll() is None, process.stdout and process.stdout.read()
                return len(cluster.events(moment)) > before

            wait_until(come, what=moment)
            supervisor.send_signal(signal.SIGTERM)
            assert supervisor.wait(60 * PATIENCE) == 0
        cluster.assert_nothing_left()


def test_a_stop_shows_ends_and_no_crash(make_cluster: Callable[..., TestCluster], runtime: str) -> None:
    cluster = make_cluster(worker=2, pool=1, runtime=runtime)
    cluster.start()
    done = cluster.comet("stop")
    assert done.returncode == 0
    for name in ("lb-0", "worker-0", "worker-1"):
        # The status of a load balancer comes by the forkserver, on a busy machine too late.
        assert re.search(rf"^{name} ended: (exit 0|unknown)(,|$)", done.stdout, re.MULTILINE), done.stdout
        assert f"{name} stopped" in done.stdout
    assert "crashed" not in done.stdout


def test_totals_outlive_a_stop_and_a_clean_until_a_reset(make_cluster: Callable[..., TestCluster]) -> None:
    """Those of former workers, too."""
    cluster = make_cluster(worker=2, pool=1, runtime="process")
    for total in (4, 8):
        cluster.start()
        for _ in range(4):
            cluster.hello()
        counts = cluster.counts()
        assert counts["total"] == total
        assert len(counts) == 1 + total // 2
        cluster.stop()
        if total == 4:
            done = cluster.comet("clean")
            assert done.returncode == 0
            assert [path.name for path in (cluster.folder / ".comet").iterdir()] == ["stats"]
            assert "REQUESTS" not in done.stdout
    assert cluster.comet("stats", "--reset").returncode == 0
    cluster.start()
    cluster.hello()
    assert cluster.counts()["total"] == 1
    cluster.stop()
    cluster.assert_nothing_left()


@pytest.mark.docker
def test_a_signal_during_the_image_build_leaves_nothing(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(worker=1, pool=1)
    with private_engine() as engine:
        cluster.environment |= engine.environment
        with cluster.foreground() as supervisor:
            assert supervisor.stdout is not None
            seen = []
            for line in supervisor.stdout:
                seen.append(line)
                if line.startswith("building comet-worker:"):
                    break
            assert seen[-1].startswith("building"), seen
            supervisor.send_signal(signal.SIGINT)
            assert supervisor.wait(30 * PATIENCE) == 0
        assert cluster.containers(engine.client) == []
        assert cluster.events("replica_starting") == []
        assert cluster.processes() == []
