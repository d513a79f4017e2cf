"""Formats and parses wall time, and detects jumps of the wall clock."""

from datetime import UTC, datetime


def iso(seconds: float) -> str:
    """Return seconds since the epoch as ISO 8601 in UTC with milliseconds: 2026-11-23T10:00:00.123Z."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


class ClockWatch:
    """Detects that the wall clock was set or that the machine has slept.

    In both cases the wall clock moves against the monotonic one. All values are in seconds.
    """

    TOLERANCE = 1.0
    """The smallest change that is reported.

    A correction in small steps (adjtime(3), at most 0.5 ms a second) stays below it between two polls.
    """

    def __init__(self, wall: float, monotonic: float) -> None:
        self._offset = wall - monotonic

    def moved(self, wall: float, monotonic: float) -> float | None:
        """Return by how much the wall clock has moved since the last poll; None below the tolerance."""
        by = wall - monotonic - self._offset
        self._offset += by
        return round(by, 3) if abs(by) >= self.TOLERANCE else None


def parse(text: str) -> float | None:
    """Return seconds since the epoch from ISO 8601, with or without Docker's nanoseconds.

    Return None for Docker's zero time and for text that is not a time.
    """
    head, _, tail = text.rstrip("Z").partition(".")
    try:
        whole = datetime.fromisoformat(head).replace(tzinfo=UTC)
        if tail and not (tail.isascii() and tail.isdigit()):
            return None
        fraction = float(f"0.{tail}") if tail else 0.0
    except (ValueError, OverflowError):
        return None
    return whole.timestamp() + fraction if whole.year > 1970 else None
