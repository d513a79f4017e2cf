"""Finds which processes hold a cluster's lock: a supervisor, or strangers that only inherited or took it.

The kernel says who took a lock and who has it (`comet.host.file_locks`), the command line says who supervises.
"""

import contextlib
import fcntl
import itertools
import os
from dataclasses import dataclass

from comet.common.errors import UserError
from comet.host import file_locks, process_identity

HOLDER_ATTEMPTS = 5
"""Attempts to find the process that holds a lock that is released and taken again at each of them."""

TITLE = "comet: supervisor "
"""The start of a supervisor's command line once it has the lock."""


@dataclass(frozen=True)
class Holder:
    """A supervisor that holds the lock."""

    pid: int
    birth: float


def holder_of(descriptor: int, path: str, private: bool) -> Holder | None:
    """Return the supervisor that holds this lock, or None; for a `private` lock an invisible holder is an error."""
    if file_locks.is_free(descriptor, fcntl.LOCK_SH):
        return None
    inode = os.fstat(descriptor)
    takers = [lock.pid for lock in file_locks.of_file(inode) if lock.exclusive]
    for pid in takers:
        found = supervisor(pid, inode)
        if found is not None and file_locks.has(pid, inode) is not False:
            return found
    if takers or not private or any(file_locks.has(pid, inode) for pid in process_identity.pids()):
        return None
    # The lock may have been released during the search for its holder.
    if file_locks.is_free(descriptor, fcntl.LOCK_SH):
        return None
    raise UserError(
        f"{path}: is locked by a process that cannot be seen from here (of another container?); end the supervisor "
        "from there"
    )


def strangers(descriptor: int) -> frozenset[tuple[int, int]]:
    """Return the processes that hold this lock as (inode, PID), if none of them is a supervisor.

    PID 0 means a process that is not visible.
    """
    inode = os.fstat(descriptor)
    for _ in range(HOLDER_ATTEMPTS):
        if file_locks.is_free(descriptor, fcntl.LOCK_EX):
            return frozenset()
        found = {lock.pid for lock in file_locks.of_file(inode)} or {
            pid for pid in process_identity.pids() if file_locks.has(pid, inode)
        }
        if any(supervisor(pid, inode) for pid in found):
            return frozenset()
        if found:
            return frozenset((inode.st_ino, pid) for pid in found)
    return frozenset({(inode.st_ino, 0)})


def holds_file(pid: int, folder: os.stat_result, excluded: int | None) -> bool:
    """Return whether a process has this folder open and locks a file with the name of a lock file, wherever it is now.

    The inode `excluded` does not count.
    """
    with contextlib.suppress(OSError):
        locked = [f"/proc/{pid}/fd/{name}" for name, inode in file_locks.locked_by(pid) if inode != excluded]
        named = [os.readlink(each).removesuffix(" (deleted)") for each in locked]
        if any(os.path.basename(each) == "lock" for each in named):
            return any(_is_file(f"/proc/{pid}/fd/{name}", folder) for name in os.listdir(f"/proc/{pid}/fd"))
    return False


def _is_file(path: str, file: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path), file)
    except OSError:
        return False


def supervisor(pid: int, of: os.stat_result) -> Holder | None:
    """Return the supervisor with this PID, or None.

    A supervisor does not count if its user has no rights to the file or folder.
    """
    found = process_identity.process(pid)
    if (
        found is None
        or not found.alive
        or process_identity.user(pid) not in {0, os.getuid(), of.st_uid}
        or not is_supervisor(pid)
    ):
        return None
    return Holder(pid, found.birth)


def is_supervisor(pid: int) -> bool:
    """Return whether a process is a Comet supervisor, or is about to become one, by its executable and command line."""
    if pid == os.getpid():
        return True
    words = process_identity.command_line(pid)
    if not words:
        return False
    if words[0].startswith(TITLE):
        return True
    try:
        program = os.path.basename(os.readlink(f"/proc/{pid}/exe"))
    except OSError:
        program = os.path.basename(words[0])
    if not program.startswith(("python", "pypy")):
        return False
    return (
        any(os.path.basename(word) in ("supervisor.py", "comet") for word in words[:3])
        or ("-m", "comet") in itertools.pairwise(words)
        or any("comet.state" in word for word in words)
    )
