"""Formats figures for people: three significant digits, and the unit; also the percentile of values. Pure.

Trailing zeros stay, so that a figure that changes keeps its width. The page has the same rules
(`comet/admin/page/format.js`).
"""

from collections.abc import Sequence
from math import ceil, floor, log10

NONE = "-"
LEAST = 0.001
"""What is smaller has no digits left."""


def figure(value: float | None) -> str:
    """Format as 0.512, 1.92, 14.3, 447, 1,240; from 1,000 on with every digit of the whole number; - if unknown."""
    if value is None:
        return NONE
    size = abs(float(f"{value:.3g}"))
    if size == 0:
        return "0"
    if size < LEAST:
        return f"<{LEAST}"
    decimals = min(3, max(0, 2 - floor(log10(size))))
    return f"{value:,.{decimals}f}"


def milliseconds(value: float | None, space: str = " ") -> str:
    """Format milliseconds, from a second on as seconds: 0.512 ms, 14.3 ms, 447 ms, 1.24 s."""
    if value is None:
        return NONE
    return f"{figure(value)}{space}ms" if abs(float(f"{value:.3g}")) < 1000 else f"{figure(value / 1000)}{space}s"


def size(count: float | None, space: str = " ") -> str:
    """Format bytes in the largest unit of which there is one: 512 B, 34.3 MiB, 1.50 GiB."""
    if count is None:
        return NONE
    units = ("B", "KiB", "MiB", "GiB")
    unit = 0
    while count >= 1024 and unit < len(units) - 1:
        count, unit = count / 1024, unit + 1
    return f"{figure(count) if unit else f'{count:.0f}'}{space}{units[unit]}"


def span(seconds: float | None, space: str = " ") -> str:
    """Format seconds as the two largest units: 12 s, 3 m 05 s, 2 h 10 m, 4 d 03 h."""
    if seconds is None:
        return NONE
    whole = max(0, int(seconds))
    for unit, length, lesser, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= length:
            return f"{whole // length}{space}{unit}{space}{whole % length // part:02d}{space}{lesser}"
    return f"{whole}{space}s"


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Return the smallest value that `percent` % of the values do not exceed (nearest rank); None without values."""
    ordered = sorted(values)
    return ordered[max(0, ceil(len(ordered) * percent / 100) - 1)] if ordered else None
