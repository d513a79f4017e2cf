"""The supervisor's own helper processes: one that cannot be watched does not run."""

import os
import sys
from pathlib import Path

import psutil
import pytest

from comet.runtimes.process.helper import start_helper
from comet.state.directory import Cluster

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
