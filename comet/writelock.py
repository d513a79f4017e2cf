"""Who keeps the statistics' database locked, and whether for too long.

SQLite lets one writer in at a time. A worker that is stopped in the midst of a commit (SIGSTOP, a paused container) keeps the lock until
it goes on or dies, and meanwhile no other worker can commit: after five seconds their requests are answered 503. Health checks find
such a worker too, but may take longer. So the lock is looked at once a second; whoever held it in PATIENCE looks one after another, while
nobody committed, does nothing any more.

The lock is a POSIX lock on one byte of the wal-index, the file `-shm` beside the database, and the header of that file changes with every
commit (sqlite.org/walformat.html, sections 2.1 and 2.3). F_GETLK (fcntl(2)) tells who holds it, also where that is a container's process.
"""

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 3
"""So many looks in a row at the same holder and the same last commit mean that it hangs."""

_HEADER = 48
_WRITE_LOCK = 120
_FLOCK = struct.Struct("@hhqqi4x")  # l_type, l_whence, l_start, l_len, l_pid

MAX_DEPTH = 8
"""So many generations below its replica's main process a holder may be."""


@dataclass(frozen=True)
class Held:
    """One look at a lock that is held: by which process, and the wal-index header as it then was."""

    pid: int
    commits: bytes


class Patience:
    """Counts looks. Pure."""

    def __init__(self) -> None:
        self._before: Held | None = None
        self._looks = 0

    def exhausted(self, held: Held | None) -> bool:
        """Take a look in; say whether whoever holds the lock has now held it for too long. Then counting begins anew."""
        self._looks = self._looks + 1 if held is not None and held == self._before else 1
        self._before = held
        if held is None or self._looks < PATIENCE:
            return False
        self._looks = 0
        return True


def look(database: Path) -> Held | None:
    """Return who holds the write lock of a database in WAL mode; None: nobody, or nobody who can be seen from here.

    The file is opened for each look, as a database can be deleted and made anew. Closing it would give up what locks this process has on
    it (fcntl(2)), and it has none: SQL is executed by processes of its own.
    """
    with contextlib.suppress(OSError, struct.error), open(f"{database}-shm", "rb") as index:
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _WRITE_LOCK, 1, 0)
        kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(index, fcntl.F_GETLK, asked))
        if kind != fcntl.F_UNLCK and pid > 0:
            return Held(pid, index.read(_HEADER))
    return None


def whose(pid: int, mains: Mapping[int, str]) -> str | None:
    """Return which of these main processes the process `pid` is, or descends from; None: of none."""
    return next((mains[each] for each in _ancestry(pid) if each in mains), None)


def _ancestry(pid: int) -> Iterator[int]:
    for _ in range(MAX_DEPTH):
        yield pid
        try:
            # The command's name, in parentheses, may hold anything: what follows the last one has fixed places (proc(5)).
            stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return
        pid = int(stat[1])
