"""The LB's own log: a file of its own, appended and rotated by size, never a pipe that dies or blocks with the supervisor.

Only edges are logged, never requests. Standard output and error end in the same file, so that a crash leaves its traceback.
"""

import logging
import os
import sys
from logging.handlers import RotatingFileHandler
from typing import Final

MAX_BYTES: Final = 1 << 20
BACKUPS: Final = 2  # with the current file three in all

_FORMAT: Final = "%(asctime)s %(levelname)s %(message)s"


class _LogFile(RotatingFileHandler):
    """A rotating file that standard output and error follow."""

    def doRollover(self) -> None:
        super().doRollover()
        self.follow()

    def follow(self) -> None:
        """Lead file descriptors 1 and 2 here."""
        if self.stream is not None:
            for fd in (1, 2):
                os.dup2(self.stream.fileno(), fd)


def start(path: str | None) -> None:
    """Log to `path`, or to standard error. OSError: the file cannot be opened."""
    logging.raiseExceptions = False  # A full disk must not fill standard error, nor stop anything.
    handler: logging.Handler
    if path is None:
        handler = logging.StreamHandler(sys.stderr)
    else:
        handler = file = _LogFile(path, maxBytes=MAX_BYTES, backupCount=BACKUPS, encoding="utf-8")
        file.follow()
    handler.setFormatter(logging.Formatter(_FORMAT))
    logger = logging.getLogger("lb")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
