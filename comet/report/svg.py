"""Draws pictures as SVG, without any library, network or other file. Pure.

Colors come from classes: a picture of its own carries STYLE, a page has it once and adapts it to dark mode.
"""

from collections.abc import Iterator, Sequence
from html import escape
from math import floor, inf, log10

from comet.report.cells import text
from comet.report.model import Bars, Lines, Picture, Steps

WIDTH, TOP = 900, 74
COLORS = ("#2563eb", "#f59e0b", "#10b981", "#8b5cf6", "#6b7280", "#ef4444", "#0e7490", "#a16207")
STYLE = (
    "svg text{font:12px 'DejaVu Sans',Helvetica,sans-serif;fill:#1b1f24}svg .title{font-size:16px;font-weight:bold}"
    "svg .soft{fill:#5c6670}svg .end{text-anchor:end}svg .middle{text-anchor:middle}svg .rule{stroke:#d5dae0}"
    "svg .paper{fill:#fff}"
    + "".join(f"svg .c{n}{{fill:{color};stroke:{color}}}" for n, color in enumerate(COLORS))
    + "svg .line{fill:none;stroke-width:2.5}"
)
ROOM = 125
"""Number of letters that fit into a line."""

LETTER = 7.5
"""Width of a letter of a legend."""


def draw(picture: Picture, alone: bool = True) -> str:
    """Return a picture as one element; `alone` as a document of its own."""
    match picture:
        case Bars():
            names, height, body = picture.series, *_bars(picture)
        case Lines():
            names, height, body = list(picture.lines), *_lines(picture)
        case Steps():
            drawn = {step for row in picture.rows.values() for step in row}
            names, height, body = [step if step in drawn else "" for step in picture.order], *_steps(picture)
    namespace = 'xmlns="http://www.w3.org/2000/svg" ' if alone else ""
    return "".join(
        [
            f'<svg {namespace}viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(picture.title)}">',
            f"<style>{STYLE}</style>" if alone else "",
            f'<rect width="{WIDTH}" height="{height:g}" class="paper"/>',
            _text(12, 24, picture.title, "title"),
            _text(12, 42, fitted(picture.note), "soft"),
            *_legend(names),
            *body,
            "</svg>\n",
        ]
    )


def fitted(note: str) -> str:
    """Truncate a line to the picture's width; the tables have all of it."""
    return note if len(note) <= ROOM else note[: ROOM - 1].rstrip(" ,;") + "…"


def nice(limit: float) -> float:
    """Return the smallest round number that is not below `limit`: one digit, or 1.5, times a power of ten."""
    if limit <= 0:
        return 1.0
    base = 10.0 ** floor(log10(limit))
    return next((base * step for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if base * step >= limit * 0.999), base * 10.0)


def _text(x: float, y: float, words: str, kind: str = "") -> str:
    return f'<text x="{x:.4g}" y="{y:.4g}"{f" class={kind!r}" if kind else ""}>{escape(words)}</text>'


def _legend(names: Sequence[str]) -> Iterator[str]:
    """Draw each series' color; one without a name is left out, and keeps its color."""
    x = 12.0
    for number, name in enumerate(names):
        if name:
            yield f'<rect x="{x:.0f}" y="52" width="10" height="10" class="c{_color(number)}"/>'
            yield _text(x + 14, 61, name)
            x += 34 + LETTER * len(name)


def _color(number: int) -> int:
    return number % len(COLORS)


# Bars.

LEFT, RIGHT, BAR, GAP = 290, 90, 14, 12


def _bars(chart: Bars) -> tuple[float, list[str]]:
    parts, y = [], TOP
    common = _largest([value for values in chart.values for value in values]) if len(chart.series) == 1 else None
    for group, values in zip(chart.groups, chart.values, strict=True):
        scale = common or _largest(values)
        parts.append(_text(LEFT - 10, y + len(values) * BAR / 2 + 4, group, "end"))
        for number, value in enumerate(values):
            top = y + number * BAR
            if value is None:
                parts.append(_text(LEFT, top + 11, "none", "soft"))
                continue
            # A bar that never ended is as long as there is room.
            wide = min(1.0, value / scale if value < inf else 1.0) * (WIDTH - LEFT - RIGHT) if scale else 0.0
            box = f'x="{LEFT}" y="{top + 1}" width="{max(wide, 1):.1f}" height="{BAR - 2}"'
            parts.append(f'<rect {box} class="c{_color(number)}"/>')
            parts.append(_text(LEFT + wide + 6, top + 11, text(int(value) if value % 1 == 0 else value)))
        y += len(values) * BAR + GAP
    return y + 10, parts


def _largest(values: Sequence[float | None]) -> float:
    return max((value for value in values if value is not None and value < inf), default=0.0)


# Lines.

HEIGHT, SIDE, FOOT = 360, 80, 40
MARKED = 12
"""Points of a line up to which each has a mark with its figure."""


def _lines(chart: Lines) -> tuple[float, list[str]]:
    points = [point for line in chart.lines.values() for point in line]
    right = max((x for x, _ in points), default=1.0) or 1.0
    top = nice(max((y for _, y in points), default=1.0))
    wide, high = WIDTH - 2 * SIDE, HEIGHT - TOP - FOOT
    floor_ = TOP + high
    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = floor_ - share * high
        parts.append(f'<line x1="{SIDE}" x2="{SIDE + wide}" y1="{y:.1f}" y2="{y:.1f}" class="rule"/>')
        parts.append(_text(SIDE - 8, y + 4, f"{top * share:,.4g} {chart.unit}", "end soft"))
    parts += [_text(SIDE + x / right * wide, floor_ + 18, word, "middle soft") for x, word in chart.ticks.items()]
    for number, (name, line) in enumerate(chart.lines.items()):
        places = [(SIDE + x / right * wide, floor_ - y / top * high) for x, y in line]
        drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{drawn}" class="c{_color(number)} line"/>')
        for (x, y), (_, value) in zip(places, line, strict=True) if len(line) <= MARKED else ():
            title = f"<title>{escape(name)}: {value:,.4g} {chart.unit}</title>"
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" class="c{_color(number)}">{title}</circle>')
    return HEIGHT, parts


# Steps.

ROW, NAMES = 44, 130


def _steps(chart: Steps) -> tuple[float, list[str]]:
    top = nice(max((at for row in chart.rows.values() for at in row.values()), default=1.0))
    height, scale = TOP + ROW * len(chart.rows) + 24, (WIDTH - 60 - NAMES) / top
    parts = []
    for index, (name, row) in enumerate(chart.rows.items()):
        y, before = TOP + ROW * index, 0.0
        ordered = sorted(row.items(), key=lambda item: item[1])
        parts.append(_text(NAMES - 8, y + 16, name, "end"))
        for step, at in ordered:
            color = _color(chart.order.index(step)) if step in chart.order else len(COLORS) - 1
            box = f'x="{NAMES + before * scale:.1f}" y="{y}" width="{max(0.0, at - before) * scale:.1f}" height="22"'
            title = f"<title>{escape(step)} at {at:,.1f} {chart.unit}</title>"
            parts.append(f'<rect {box} class="c{color}">{title}</rect>')
            before = at
        parts.append(_text(NAMES, y + 36, " · ".join(f"{step} {at:,.0f}" for step, at in ordered), "soft"))
    marks = [share * top for share in (0.0, 0.5, 1.0)]
    parts += [_text(NAMES + at * scale, height - 6, f"{at:,.4g} {chart.unit}", "middle soft") for at in marks]
    return height, parts
