"""Writes the load balancer's log to its own file, which is appended to and rotated by size.

It is never a pipe, which would break or block with the supervisor. Only changes of state and invalid responses of
workers are logged, never a successful request. Standard output and standard error go to the same file, so that a crash
leaves its traceback.
"""

import logging
import os
import sys
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from typing import Final

from lb.system.directory import Directory
from lb.system.regular_files import opened

MAX_BYTES: Final = 1 << 20
BACKUPS: Final = 2

_FORMAT: Final = "%(asctime)s %(levelname)s %(message)s"


class _LogFile(RotatingFileHandler):
    """A rotating file that is also standard output and standard error."""

    def __init__(self, path: str, max_bytes: int, backups: int) -> None:
        self._folder = Directory(os.path.dirname(os.path.abspath(path)))
        super().__init__(path, maxBytes=max_bytes, backupCount=backups, encoding="utf-8")

    def _open(self) -> TextIOWrapper:
        # At each open: after a rotation without a free descriptor the file is opened by a later record.
        self._follow()
        file = opened(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        stream: TextIOWrapper = os.fdopen(file, "a", encoding=self.encoding, errors=self.errors)
        for fd in (1, 2):
            os.dup2(stream.fileno(), fd)
        return stream

    def doRollover(self) -> None:
        """Rotate the file where it is now."""
        self._follow()
        super().doRollover()

    def is_missing(self) -> bool:
        """Return whether the file was removed."""
        self._follow()
        return not os.path.exists(self.baseFilename)

    def _follow(self) -> None:
        self.baseFilename = os.path.join(self._folder.path, os.path.basename(self.baseFilename))

    def reopen(self) -> None:
        """Continue in a new file with the same name, after the open one was removed."""
        removed, self.stream = self.stream, self._open()
        if removed is not None:
            removed.close()


def reopen() -> None:
    """Create the log file again if it was removed; raise OSError if that fails."""
    for handler in logging.getLogger("lb").handlers:
        if isinstance(handler, _LogFile) and handler.is_missing():
            handler.reopen()


def start(path: str | None) -> None:
    """Log to `path`, or to standard error; raise OSError if the file cannot be opened."""
    logging.raiseExceptions = False  # A full disk must neither fill standard error nor stop the process.
    handler: logging.Handler = logging.StreamHandler(sys.stderr) if path is None else _LogFile(path, MAX_BYTES, BACKUPS)
    handler.setFormatter(logging.Formatter(_FORMAT))
    logger = logging.getLogger("lb")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
