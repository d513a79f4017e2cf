"""Detects which process keeps the statistics database locked for too long.

SQLite admits one writer at a time. A worker that is stopped during a commit (SIGSTOP, a paused container) keeps the
lock until it goes on or dies. Meanwhile no other worker can commit, and after five seconds their requests are answered
503. Health checks also find such a worker, but may take longer. So the lock is polled once a second. A process that
held it in HANG_POLLS polls in a row, while no process committed, hangs. One that waits for a slow disk does not: it
goes on when the disk answers, and a kill would not end it before that.

The lock is a POSIX lock on one byte of the wal-index, the file `-shm` next to the database. The header of that file
changes with every commit (sqlite.org/walformat.html, sections 2.1 and 2.3). F_GETLK (fcntl(2)) reports which process
holds it, even if it is a container's.
"""

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from comet.host import process_identity
from comet.host.files import Directory

HANG_POLLS = 3
"""The number of polls in a row with the same holder and the same last commit after which the holder hangs."""

_HEADER = 48
_WRITE_LOCK = 120
PROC, FREEZER = Path("/proc"), Path("/sys/fs/cgroup/freezer")
_FLOCK = struct.Struct("@hhqqi4x")
"""The fields l_type, l_whence, l_start, l_len and l_pid."""

MAX_DEPTH = 8
"""The number of generations that a holder may be below its replica's main process."""


@dataclass(frozen=True)
class LockHolder:
    """The holder of a lock at one poll, and the wal-index header at that time."""

    pid: int
    commits: bytes


class HangDetector:
    """Counts polls, without side effects."""

    def __init__(self) -> None:
        self._previous: LockHolder | None = None
        self._polls = 0

    def is_hung(self, holder: LockHolder | None) -> bool:
        """Add a poll and return whether the holder has now held the lock for too long.

        If so, counting starts again.
        """
        self._polls = self._polls + 1 if holder is not None and holder == self._previous else 1
        self._previous = holder
        if holder is None or self._polls < HANG_POLLS:
            return False
        self._polls = 0
        return True


def lock_holder(directory: Directory, name: str) -> LockHolder | None:
    """Return the holder of the write lock of the database of this name, in WAL mode.

    Return None if no process holds it, or none that is visible from here.

    The directory is the workers', so anything may be in the file's place; it is opened only if it is a file of theirs.
    It is opened at each poll, because a database can be deleted and created again. Closing it would release the locks
    that this process has on it (fcntl(2)), but it has none: SQL is executed by separate processes.
    """
    with contextlib.suppress(OSError, struct.error), open(directory.open(f"{name}-shm"), "rb") as index:
        query = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _WRITE_LOCK, 1, 0)
        kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(index, fcntl.F_GETLK, query))
        if kind != fcntl.F_UNLCK and pid > 0:
            return LockHolder(pid, index.read(_HEADER))
    return None


def waits_for_disk(pid: int, proc: Path = PROC, freezer: Path = FREEZER) -> bool:
    """Return whether a thread of this process is in an uninterruptible wait (D in proc(5)), as for a device.

    What is frozen by control groups of version 1 (a paused container) is in the same state and does not count.
    """
    states = set[str]()
    for stat in (proc / str(pid) / "task").glob("*/stat"):
        with contextlib.suppress(OSError):
            states.add(stat.read_text(errors="replace").rpartition(")")[2].split()[0])
    return "D" in states and not _is_frozen(pid, proc, freezer)


def _is_frozen(pid: int, proc: Path, freezer: Path) -> bool:
    try:
        lines = (proc / str(pid) / "cgroup").read_text().splitlines()
        paths = [path for _, controllers, path in (line.split(":", 2) for line in lines) if controllers == "freezer"]
        return any((freezer / path.lstrip("/") / "freezer.state").read_text().strip() != "THAWED" for path in paths)
    except OSError:
        return True  # It is not known, and a frozen one has to be found.


def replica_of(pid: int, main_processes: Mapping[int, str]) -> str | None:
    """Return which of these main processes the process `pid` is or descends from; None if none."""
    return next((main_processes[each] for each in _ancestry(pid) if each in main_processes), None)


def _ancestry(pid: int) -> Iterator[int]:
    for _ in range(MAX_DEPTH):
        yield pid
        if (found := process_identity.process(pid)) is None:
            return
        pid = found.parent
