"""Logs what a worker or a trusted proxy sent and a load balancer refused: peer, subject, violated rule, bytes.

A peer may send anything, so the bytes are escaped and limited. A broken worker fails every request in the same way, so
the number of lines is limited too: lines above BURST per second are counted, and the next line contains that count.
"""

import logging
from time import monotonic
from typing import Final

logger = logging.getLogger("lb")

BURST: Final = 10
"""Lines per second."""

EXCERPT: Final = 120
"""Bytes of what was refused in a line."""

TARGET: Final = 200
"""Bytes of the subject in a line."""


class RefusalLog:
    """Writes the log lines and limits their rate."""

    def __init__(self) -> None:
        self._since = -1.0
        self._lines = 0
        self._dropped = 0

    def write(self, peer: str, subject: bytes, why: str, data: bytes = b"") -> None:
        """Log that what `peer` sent was refused or cut off: request line or protocol, the reason, the bytes."""
        now = monotonic()
        if now - self._since >= 1.0:
            self._since, self._lines = now, 0
        if self._lines >= BURST:
            self._dropped += 1
            return
        self._lines += 1
        more = f" ({self._dropped} similar lines were not logged)" if self._dropped else ""
        self._dropped = 0
        logger.warning(
            "%s: %s: %s%s%s",
            peer,
            excerpt(subject, TARGET)[2:-1],
            why,
            f": {excerpt(data, EXCERPT)}" if data else "",
            more,
        )


def excerpt(data: bytes, most: int) -> str:
    """Return at most `most` bytes as an escaped literal, followed by the total number if some are left out."""
    shown = repr(data[:most])
    return shown if len(data) <= most else f"{shown}… ({len(data)} bytes)"
