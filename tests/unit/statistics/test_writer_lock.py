"""Who keeps the database locked: told by the kernel, judged with patience."""

import os
from pathlib import Path

import pytest

from comet.host.files import Directory
from comet.statistics import writer_lock
from comet.statistics.writer_lock import HANG_POLLS, HangDetector, LockHolder, replica_of, waits_for_disk


def lock_holder(path: Path) -> LockHolder | None:
    with Directory.of(path.parent) as directory:
        return writer_lock.lock_holder(directory, path.name)


def test_patience_ends_with_one_holder_and_no_commit() -> None:
    detector, holder = HangDetector(), LockHolder(7, b"1")
    assert [detector.is_hung(holder) for _ in range(2 * HANG_POLLS)] == ([False] * (HANG_POLLS - 1) + [True]) * 2


@pytest.mark.parametrize(
    "other", [None, LockHolder(8, b"1"), LockHolder(7, b"2")], ids=["released", "another holder", "committed"]
)
def test_whatever_moves_restores_patience(other: LockHolder | None) -> None:
    detector, holder = HangDetector(), LockHolder(7, b"1")
    for _ in range(3):
        assert not any(detector.is_hung(each) for each in [*[holder] * (HANG_POLLS - 1), other])


def test_a_database_that_is_not_there_is_locked_by_nobody(tmp_path: Path) -> None:
    assert lock_holder(tmp_path / "none.db") is None


@pytest.mark.parametrize(
    ("states", "group", "waits"),
    [
        ("SD", "THAWED", True),
        ("SD", None, True),
        ("DD", "FROZEN", False),
        ("DD", "FREEZING", False),
        ("ST", "THAWED", False),
        ("RS", None, False),
    ],
)
def test_a_wait_for_the_disk_is_no_hang(tmp_path: Path, states: str, group: str | None, waits: bool) -> None:
    proc, freezer = tmp_path / "proc", tmp_path / "freezer"
    for number, state in enumerate(states):
        task = proc / f"7/task/{7 + number}"
        task.mkdir(parents=True)
        (task / "stat").write_text(f"{7 + number} (a (worker) D) {state} 1 7 7")
    (proc / "7/cgroup").write_text("9:freezer:/docker/x\n1:name=systemd:/\n" if group else "0::/x\n")
    if group is not None:
        (freezer / "docker/x").mkdir(parents=True)
        (freezer / "docker/x/freezer.state").write_text(f"{group}\n")
    assert waits_for_disk(7, proc, freezer) is waits


def test_a_process_whose_group_is_not_known_hangs(tmp_path: Path) -> None:
    (tmp_path / "7/task/7").mkdir(parents=True)
    (tmp_path / "7/task/7/stat").write_text("7 (worker) D 1 7 7")
    assert not waits_for_disk(7, tmp_path, tmp_path)


def test_a_process_is_its_replica_s_or_nobody_s() -> None:
    assert replica_of(os.getpid(), {os.getpid(): "worker-0"}) == "worker-0"
    assert replica_of(os.getpid(), {os.getppid(): "worker-1"}) == "worker-1"
    assert replica_of(os.getpid(), {}) is None
    assert replica_of(2**22 + 1, {1: "worker-0"}) is None
