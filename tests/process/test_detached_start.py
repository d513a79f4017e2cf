"""`run --detach` names the cause of the start that it made: not the last line of a log, which may be of another one."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

import psutil

from tests.support.cluster import ROOT, TestCluster
from tests.support.waiting import PATIENCE, wait_until


def test_a_failed_detached_start_says_why(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(worker=0, pool=1, runtime="process")
    logs = cluster.folder / ".comet/logs"
    logs.mkdir(parents=True)
    (logs / "supervisor.log").write_text("words of an earlier run\n")
    (cluster.folder / ".comet").chmod(0o700)
    for key, wrong, right in (
        ("stats-dir", "nowhere/stats.db", None),
        ("load-balancer-host", "192.0.2.1", "127.0.0.1"),
    ):
        cluster.write(**{key: wrong})
        failed = cluster.comet("run", "--detach", timeout=60)
        assert failed.returncode in (1, 2)
        assert key in failed.stderr or "nowhere" in failed.stderr
        assert "earlier" not in failed.stderr
        assert "Traceback" not in failed.stderr
        assert "Cancelled" not in failed.stderr
        cluster.write(**{key: right})
    # Killed while it starts, which takes longer than a busy machine needs to notice it: the worker is never ready.
    cluster.write(worker=1, worker_command="'sleep 1000'", worker_user=os.getuid(), fault_point="lb", start_timeout=60)
    with subprocess.Popen(
        [sys.executable, str(ROOT / "supervisor.py"), "run", "--detach"],
        cwd=cluster.folder,
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        supervisor = wait_until(lambda: next(iter(psutil.Process(command.pid).children()), None))
        os.kill(supervisor.pid, signal.SIGKILL)
        assert command.wait(30 * PATIENCE) == 1
        assert command.stderr is not None
        assert command.stderr.read().startswith("the supervisor was ended by SIGKILL before the cluster was ready; ")
    # Stopped while it starts.
    began = len(cluster.events("supervisor_started"))
    said: list[subprocess.CompletedProcess[str]] = []
    starting = threading.Thread(target=lambda: said.append(cluster.comet("run", "--detach")))
    starting.start()
    wait_until(lambda: len(cluster.events("supervisor_started")) > began)
    wait_until(lambda: cluster.replicas().get("worker-0"), what="the start of the worker")
    cluster.comet("stop")
    starting.join(60 * PATIENCE)
    assert said[0].returncode == 1
    assert "the supervisor was stopped before the cluster was ready" in said[0].stderr
