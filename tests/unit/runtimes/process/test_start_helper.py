"""The supervisor's own helper processes: one that cannot be watched does not run."""

import asyncio
import os
import resource
import socket
import sys
from pathlib import Path

import psutil
import pytest

from comet.admin.process import AdminProcess
from comet.events.event import Event
from comet.reconcile.restart_policy import RestartPolicy
from comet.runtimes.process.helper import start_helper
from comet.state.directory import Cluster
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.slow


def test_a_helper_is_watched_and_logs(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    cluster.create()
    read_fd, write_fd = os.pipe()
    process, pidfd = start_helper(
        [sys.executable, "-c", f"import os; print(os.write({write_fd}, b'x'))"], cluster, "helper.log", (write_fd,)
    )
    assert process.wait(60) == 0
    assert os.read(read_fd, 1) == b"x"
    assert cluster.path("logs", "helper.log").read_text() == "1\n"
    for each in (pidfd, read_fd, write_fd):
        os.close(each)


def test_a_helper_that_cannot_be_watched_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(tmp_path)
    cluster.create()
    before = set(psutil.Process().children())

    def fails(pid: int) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", fails)
    with pytest.raises(OSError, match="Too many open files"):
        start_helper(["sleep", "600"], cluster, "helper.log", ())
    assert set(psutil.Process().children()) == before


def test_a_start_without_descriptors_is_retried(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    cluster.create()
    events: list[Event] = []

    async def start(listener: socket.socket) -> None:
        admin = AdminProcess(cluster, listener, events.append, dict, dict, RestartPolicy())
        limits, free = resource.getrlimit(resource.RLIMIT_NOFILE), os.dup(0)
        os.close(free)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
            admin.start()
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            async with asyncio.timeout(10 * PATIENCE):
                while not admin.pids:
                    await asyncio.sleep(0.01)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            admin.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        asyncio.run(start(listener))
    assert [(each.name, each.fields["reason"]) for each in events] == [
        ("admin_exited", "cannot be started: Too many open files")
    ]
