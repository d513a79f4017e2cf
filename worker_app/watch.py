"""Follows the faults file: looks at its identity a few times a second and reads it only when it changed.

The file is replaced by rename inside a directory that is mounted read-only; inotify does not cross every kind of mount, a stat
does. A file that is missing or broken leaves in force what was, with one log line per change of the trouble.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from worker_app.errors import FaultError
from worker_app.faults import FaultPlan, parse

log = logging.getLogger("worker_app")

INTERVAL = 0.25  # seconds between two looks; the promise is "in force within 1 s"
MAX_BYTES = 1 << 20  # no real file comes near; a runaway one must not fill the worker's memory


class FaultFile:
    """`poll()` gives the new plan when the file changed into a good one, else None."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._seen: tuple[int, int, int] | None = (-1, -1, -1)
        self._trouble: str | None = None

    def poll(self) -> FaultPlan | None:
        try:
            status = self._path.stat()
            seen = (status.st_ino, status.st_mtime_ns, status.st_size)
            if seen == self._seen:
                return None
            self._seen = seen
            with self._path.open(encoding="utf-8") as file:
                plan = parse(file.read(MAX_BYTES))
        except (OSError, UnicodeDecodeError, FaultError) as error:
            self._say(f"faults file {self._path}: {_reason(error)}; what was in force stays")
            if isinstance(error, OSError):
                self._seen = None
            return None
        self._say(f"faults file {self._path}: ignoring unknown keys {', '.join(plan.unknown)}" if plan.unknown else None)
        return plan

    def _say(self, trouble: str | None) -> None:
        if trouble is not None and trouble != self._trouble:
            log.warning(trouble)
        self._trouble = trouble


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
