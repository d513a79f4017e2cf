"""Wall time as people and other programs read it."""

from datetime import UTC, datetime


def iso(seconds: float) -> str:
    """Seconds since the epoch as ISO 8601 in UTC with milliseconds: 2026-11-23T10:00:00.123Z."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def parse(text: str) -> float | None:
    """Seconds since the epoch from ISO 8601, with Docker's nanoseconds or without; None for Docker's zero time or what is no time."""
    head, _, tail = text.rstrip("Z").partition(".")
    try:
        whole = datetime.fromisoformat(head).replace(tzinfo=UTC)
        fraction = float(f"0.{tail}") if tail else 0.0
    except ValueError:
        return None
    return whole.timestamp() + fraction if whole.year > 1970 else None
