"""Wall time as people and other programs read it."""

from datetime import UTC, datetime


def iso(seconds: float) -> str:
    """Seconds since the epoch as ISO 8601 in UTC with milliseconds: 2026-11-23T10:00:00.123Z."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


class ClockWatch:
    """Notices when somebody sets the wall clock, or when the machine has slept: then it moves against the monotonic one. Seconds."""

    TOLERANCE = 1.0
    """What corrects a clock by small steps (adjtime(3), at most 0.5 ms a second) stays below it between two looks."""

    def __init__(self, wall: float, monotonic: float) -> None:
        self._offset = wall - monotonic

    def moved(self, wall: float, monotonic: float) -> float | None:
        """By how much the wall clock has moved since the last look, where that is worth a word."""
        by = wall - monotonic - self._offset
        self._offset += by
        return round(by, 3) if abs(by) >= self.TOLERANCE else None


def parse(text: str) -> float | None:
    """Seconds since the epoch from ISO 8601, with Docker's nanoseconds or without; None for Docker's zero time or what is no time."""
    head, _, tail = text.rstrip("Z").partition(".")
    try:
        whole = datetime.fromisoformat(head).replace(tzinfo=UTC)
        fraction = float(f"0.{tail}") if tail else 0.0
    except ValueError:
        return None
    return whole.timestamp() + fraction if whole.year > 1970 else None
