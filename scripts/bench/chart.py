"""Bar charts as SVG, drawn by hand: no library, no network, nothing outside the file. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from scripts.bench.table import text

COLOURS = ("#2563eb", "#f59e0b", "#10b981", "#8b5cf6", "#6b7280", "#ef4444")
FONT = "DejaVu Sans, Helvetica, sans-serif"
WIDTH, LEFT, RIGHT, BAR, GAP, TOP = 900, 290, 90, 14, 12, 74

ROOM = 125
"""Letters that surely fit into a line."""


@dataclass(frozen=True)
class Chart:
    """Groups of horizontal bars: `values[group][series]`, None where there is none. `note` is the line below the title. Bars of one group
    have one scale; where there is one series, all bars have."""

    title: str
    note: str
    series: Sequence[str]
    groups: Sequence[str]
    values: Sequence[Sequence[float | None]]


def svg(chart: Chart) -> str:
    """The chart as one self-contained SVG document."""
    largest = max((value for values in chart.values for value in values if value is not None and value < float("inf")), default=0.0)
    height = TOP + len(chart.groups) * (len(chart.series) * BAR + GAP) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="{FONT}" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="12" y="24" font-size="16" font-weight="bold">{escape(chart.title)}</text>',
        f'<text x="12" y="42" fill="#555555">{escape(fitted(chart.note))}</text>',
        *key(chart.series),
    ]
    y = TOP
    for group, values in zip(chart.groups, chart.values, strict=True):
        parts.extend(_group(group, values, y, largest if len(chart.series) == 1 else None))
        y += len(chart.series) * BAR + GAP
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def fitted(note: str) -> str:
    """A line that does not leave the picture; the whole of it stands in the result."""
    return note if len(note) <= ROOM else note[: ROOM - 1].rstrip(" ,;") + "…"


def key(names: Sequence[str]) -> list[str]:
    """Which colour is whose, in a line below the title."""
    parts, x = [], 12.0
    for name, colour in zip(names, COLOURS, strict=False):
        parts.append(
            f'<rect x="{x:.0f}" y="52" width="10" height="10" fill="{colour}"/><text x="{x + 14:.0f}" y="61">{escape(name)}</text>'
        )
        x += 34 + 7.5 * len(name)
    return parts


def _group(group: str, values: Sequence[float | None], y: int, scale: float | None) -> list[str]:
    largest = max((value for value in values if value is not None and value < float("inf")), default=0.0) if scale is None else scale
    middle = y + len(values) * BAR / 2 + 4
    parts = [f'<text x="{LEFT - 10}" y="{middle:.0f}" text-anchor="end">{escape(group)}</text>']
    for number, value in enumerate(values):
        top = y + number * BAR
        colour = COLOURS[number % len(COLOURS)]
        if value is None:
            parts.append(f'<text x="{LEFT}" y="{top + 11}" fill="#888888">none</text>')
            continue
        # A bar that never ended is as long as there is room.
        width = min(1.0, value / largest if value < float("inf") else 1.0) * (WIDTH - LEFT - RIGHT) if largest else 0.0
        parts.append(f'<rect x="{LEFT}" y="{top + 1}" width="{max(width, 1):.1f}" height="{BAR - 2}" fill="{colour}"/>')
        parts.append(f'<text x="{LEFT + width + 6:.1f}" y="{top + 11}">{text(_whole(value))}</text>')
    return parts


def _whole(value: float) -> float:
    """A count as a count: 40, not 40.0."""
    return int(value) if value < float("inf") and value == int(value) else value
