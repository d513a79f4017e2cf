"""Watches the faults file: compares its identity a few times a second and reads it only after a change.

The file is replaced by rename inside a directory that is mounted read-only. A stat works across every kind of mount,
inotify does not. While the file is missing or invalid the current faults stay active; each new problem is logged once.
"""

from __future__ import annotations

import logging
import os
import stat

from worker_app.common.errors import FaultError
from worker_app.common.place import Place
from worker_app.faults.plan import FaultPlan, parse

log = logging.getLogger("worker_app")

POLL_INTERVAL = 0.25
"""Seconds between two polls; the documented limit is that a change takes effect within 1 s."""

MAX_BYTES = 1 << 20
"""Bytes read at most: far above any real file, so that a huge one cannot fill the worker's memory."""


class FaultFile:
    """The faults file at a path; `poll()` returns the new plan after a change to a valid file, else None."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._place = Place(os.fspath(path))
        self._seen: tuple[int, int, int] | None = (-1, -1, -1)
        self._problem: str | None = None

    def poll(self) -> FaultPlan | None:
        place = self._place
        try:
            seen = _version(place.path)
            if seen != self._seen and place.follow():
                seen = _version(place.path)
            if seen == self._seen:
                return None
            self._seen = seen
            with open(place.path, encoding="utf-8", opener=_opened) as file:
                plan = parse(file.read(MAX_BYTES))
            place.hold()
        except (OSError, UnicodeDecodeError, FaultError) as error:
            self._log_problem(f"faults file {place.path}: {_reason(error)}; the current faults stay active")
            if isinstance(error, OSError):
                self._seen = None
            return None
        self._log_problem(
            f"faults file {place.path}: ignoring unknown keys {', '.join(plan.unknown)}" if plan.unknown else None
        )
        return plan

    def _log_problem(self, problem: str | None) -> None:
        if problem is not None and problem != self._problem:
            log.warning(problem)
        self._problem = problem


def _version(path: str) -> tuple[int, int, int] | None:
    """Return what changes with the file: inode, modification time (ns) and size; None if it is missing."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _opened(path: str, flags: int) -> int:
    """Open a regular file without waiting: a FIFO in its place would block the worker forever."""
    file = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError("not a regular file")
    return file


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
