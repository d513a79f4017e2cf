"""Finds the processes that hold flock(2) locks, as the kernel reports them.

/proc/locks lists the processes that took a lock, and /proc/PID/fdinfo those that have it now. A lock belongs to the
open file, not to a process: after the process that took it ends, every process that inherited the descriptor still
holds it. /proc/locks omits takers that are dead or that are not visible from here (PID namespaces).
"""

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from comet.host import process_identity

_LINE = re.compile(r"FLOCK\s+ADVISORY\s+(READ|WRITE)\s+(-?\d+)\s+([0-9a-f]+):([0-9a-f]+):(\d+)\s")


@dataclass(frozen=True)
class HeldLock:
    """A flock(2) lock as a line of /proc/locks reports it, with the process that took it."""

    exclusive: bool
    pid: int
    device: tuple[int, int]
    inode: int


def all_locks() -> list[HeldLock]:
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return []
    # A line with "->" is a process that waits for the lock.
    found = [match for line in lines if "->" not in line and (match := _LINE.search(f"{line} ")) is not None]
    made = [
        HeldLock(each[1] == "WRITE", int(each[2]), (int(each[3], 16), int(each[4], 16)), int(each[5])) for each in found
    ]
    return [each for each in made if process_identity.is_possible_pid(each.pid)]


def of_file(inode: os.stat_result) -> list[HeldLock]:
    """Return the locks on a file.

    Some file systems (overlay, btrfs) report another device here than to stat(2). Where no device matches, the inode
    number decides alone.
    """
    same = [lock for lock in all_locks() if lock.inode == inode.st_ino]
    exact = [lock for lock in same if lock.device == (os.major(inode.st_dev), os.minor(inode.st_dev))]
    return exact or same


def has(pid: int, inode: os.stat_result) -> bool | None:
    """Return whether a process has a descriptor that holds a lock on this file; None where that is not visible."""
    try:
        return any(number == inode.st_ino for _, number in locked_by(pid))
    except PermissionError:
        return None


def locked_by(pid: int) -> Iterator[tuple[str, int]]:
    """Yield each descriptor by which a process locks a file exclusively, with the file's inode.

    Raise PermissionError where the descriptors are not visible.
    """
    try:
        names = os.listdir(f"/proc/{pid}/fdinfo")
    except PermissionError:
        raise
    except OSError:
        return
    for name in names:
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{pid}/fdinfo/{name}").read_text()
            yield from ((name, int(found[5])) for found in _LINE.finditer(text) if found[1] == "WRITE")


def take(descriptor: int) -> bool:
    """Try to take the lock and return whether this process has it.

    Some file systems (for example network ones) have no locks. There the result is True, as if no lock were needed.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def is_free(descriptor: int, how: int) -> bool:
    """Return whether the lock can be taken now, and release it at once; True where the file system has no locks."""
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
