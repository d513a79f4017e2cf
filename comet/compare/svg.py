"""Small pictures for the report, as inline SVG: strips of raw values, bars of a recovery's steps, lines of growth. Pure.

Colours come from the page's style sheet by class, so that dark and light both work; every mark has a title that says its figure.
"""

from collections.abc import Mapping, Sequence
from html import escape
from math import floor, log10
from statistics import median

WIDTH = 760
LEFT = 130
ROW = 22
STEPS = ("died", "noticed", "decided", "started", "listening", "ready", "first answer")
"""In the order in which they come as a rule; each has its colour."""


def nice(limit: float) -> float:
    """The smallest round number, of one digit or 1.5 times a power of ten, that is not below `limit`."""
    if limit <= 0:
        return 1.0
    base = 10.0 ** floor(log10(limit))
    return next((base * step for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if base * step >= limit * 0.999), base * 10.0)


def strip(values: Mapping[str, Sequence[float | None]], unit: str) -> str:
    """One row a way: every raw value as a mark, the median as a bar."""
    rows = {name: [value for value in listed if value is not None] for name, listed in values.items()}
    top = nice(max((value for listed in rows.values() for value in listed), default=1.0))
    height = ROW * len(rows) + 22
    parts = [_open(height, f"raw values in {unit}")]
    for index, (name, listed) in enumerate(rows.items()):
        y = ROW * index + 14
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4}" class="label">{escape(name)}</text>')
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - 10}" y1="{y}" y2="{y}" class="rule"/>')
        parts += [_mark(_x(value, top), y, name, f"{value:,.3g} {unit}") for value in listed]
        if listed:
            x = _x(median(listed), top)
            parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y - 8}" y2="{y + 8}" class="median {_class(name)}"/>')
    parts.append(_axis(top, unit, height))
    return "".join([*parts, "</svg>"])


def steps(rows: Mapping[str, Mapping[str, float]], unit: str = "ms") -> str:
    """One row a kind: a recovery's steps as segments on a common scale, each named with its moment."""
    top = nice(max((at for row in rows.values() for at in row.values()), default=1.0))
    tall = 44
    height = tall * len(rows) + 44
    parts = [_open(height, "steps of a recovery"), _legend([step for step in STEPS if any(step in row for row in rows.values())])]
    for index, (name, row) in enumerate(rows.items()):
        y = tall * index + 26
        parts.append(f'<text x="{LEFT - 8}" y="{y + 18}" class="label">{escape(name)}</text>')
        before = 0.0
        for step, at in sorted(row.items(), key=lambda item: item[1]):
            x, wide = _x(before, top), max(0.0, _x(at, top) - _x(before, top))
            told = f"{escape(step)} at {at:,.1f} {unit}"
            parts.append(
                f'<rect x="{x:.1f}" y="{y + 4}" width="{wide:.1f}" height="22" class="step s{_number(step)}"><title>{told}</title></rect>'
            )
            before = at
        told = " · ".join(f"{step} {at:,.0f}" for step, at in sorted(row.items(), key=lambda item: item[1]))
        parts.append(f'<text x="{LEFT}" y="{y + 39}" class="tick start">{escape(told)}</text>')
    parts.append(_axis(top, unit, height))
    return "".join([*parts, "</svg>"])


def _legend(names: Sequence[str]) -> str:
    """What the colours of steps mean: each ends at the moment of that name."""
    parts = []
    for index, name in enumerate(names):
        x = LEFT + index * 88
        parts.append(f'<rect x="{x}" y="4" width="12" height="12" class="step s{_number(name)}"/>')
        parts.append(f'<text x="{x + 17}" y="14" class="tick start">{escape(name)}</text>')
    return "".join(parts)


def percentiles(series: Mapping[str, Mapping[float, float]], unit: str) -> str:
    """One line a way: latency over the percentile, at even distances, so that the slowest have room."""
    known = sorted({percent for row in series.values() for percent in row})
    place = {percent: float(index) for index, percent in enumerate(known)}
    points = {name: [(place[percent], row[percent]) for percent in sorted(row)] for name, row in series.items()}
    return lines(points, "percentile", unit, {place[percent]: f"{percent:g}" for percent in known})


FLOOR, TALL = 190, 170
PLOT_LEFT, PLOT_RIGHT = 70, WIDTH - 150
APART = 15
"""Between the names at the ends of two lines."""


def lines(series: Mapping[str, Sequence[tuple[float, float]]], x_name: str, unit: str, ticks: Mapping[float, str] | None = None) -> str:
    """One line a name; `ticks` are words for the places on the x axis, else their figures stand there."""
    points = [point for listed in series.values() for point in listed]
    right, top = max((x for x, _ in points), default=1.0) or 1.0, nice(max((y for _, y in points), default=1.0))
    words = ticks if ticks is not None else {x: f"{x:g}" for x, _ in points}
    parts = [_open(FLOOR + 36, f"{unit} by {x_name}")]
    for share in (0.0, 0.5, 1.0):
        y = FLOOR - share * TALL
        parts.append(f'<line x1="{PLOT_LEFT}" x2="{PLOT_RIGHT}" y1="{y}" y2="{y}" class="rule"/>')
        parts.append(f'<text x="{PLOT_LEFT - 6}" y="{y + 4}" class="label">{_plain(top * share)}</text>')
    ends: dict[str, float] = {}
    for name, listed in series.items():
        places = [(PLOT_LEFT + x / right * (PLOT_RIGHT - PLOT_LEFT), FLOOR - y / top * TALL) for x, y in listed]
        drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{drawn}" class="line {_class(name)}"/>')
        parts += [
            _mark(x, y, name, f"{name}, {words.get(n, n)}: {value:,.4g} {unit}") for (x, y), (n, value) in zip(places, listed, strict=True)
        ]
        if places:
            ends[name] = places[-1][1]
    parts += [f'<text x="{PLOT_RIGHT + 8}" y="{y + 4:.1f}" class="tick start">{escape(name)}</text>' for name, y in _apart(ends).items()]
    across = (PLOT_RIGHT - PLOT_LEFT) / right
    parts += [f'<text x="{PLOT_LEFT + x * across:.1f}" y="{FLOOR + 16}" class="tick">{escape(word)}</text>' for x, word in words.items()]
    parts.append(f'<text x="{PLOT_LEFT}" y="{FLOOR + 33}" class="tick start">{escape(unit)}, by {escape(x_name)}</text>')
    return "".join([*parts, "</svg>"])


def _apart(ends: Mapping[str, float]) -> dict[str, float]:
    """The heights of names that would be written over one another, moved up until each has room."""
    moved: dict[str, float] = {}
    below = float("inf")
    for name, y in sorted(ends.items(), key=lambda item: -item[1]):
        moved[name] = below = min(y, below - APART)
    return moved


def _mark(x: float, y: float, name: str, told: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" class="{_class(name)}"><title>{escape(told)}</title></circle>'


def _open(height: float, told: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" aria-label="{escape(told)}">'


def _x(value: float, top: float) -> float:
    return LEFT + value / top * (WIDTH - 20 - LEFT)


def _axis(top: float, unit: str, height: float) -> str:
    marks = "".join(
        f'<text x="{_x(top * share, top):.1f}" y="{height - 4}" class="tick">{_plain(top * share)}</text>'
        for share in (0.0, 0.25, 0.5, 0.75)
    )
    return marks + f'<text x="{WIDTH - 4}" y="{height - 4}" class="tick end">{_plain(top)} {escape(unit)}</text>'


def _plain(value: float) -> str:
    """Never with an exponent."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:,.4g}"


def _number(step: str) -> int:
    return STEPS.index(step) if step in STEPS else 0


def _class(name: str) -> str:
    return {"process": "process", "container": "container"}.get(name, "other")
