"""Lines over percentiles as SVG: how latency grows towards the slowest requests. Pure.

The x axis is logarithmic in what is left to 100 % (HDR's own way to draw it), so that 99 %, 99.9 % and 99.99 % lie equally far apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import log10

from comet.compare.svg import nice
from scripts.bench.chart import COLOURS, FONT, WIDTH, fitted, key

HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 380, 80, 110, 84, 46
MARKS = (0.0, 50.0, 90.0, 99.0, 99.9, 99.99)


@dataclass(frozen=True)
class Curve:
    """`lines` by name: percent and milliseconds, in order."""

    title: str
    note: str
    lines: Sequence[tuple[str, Sequence[tuple[float, float]]]]


def nines(percent: float) -> float:
    """0 at 0 %, 1 at 90 %, 2 at 99 %."""
    return -log10(max(1e-4, 1 - percent / 100))


def svg(curve: Curve) -> str:
    points = [point for _, line in curve.lines for point in line]
    right = max((nines(percent) for percent, _ in points), default=1.0) or 1.0
    top = nice(max((value for _, value in points), default=1.0))
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def place(percent: float, value: float) -> tuple[float, float]:
        return LEFT + nines(percent) / right * wide, TOP + high - value / top * high

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="{FONT}" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="12" y="24" font-size="16" font-weight="bold">{escape(curve.title)}</text>',
        f'<text x="12" y="42" fill="#555555">{escape(fitted(curve.note))}</text>',
        *key([name for name, _ in curve.lines]),
    ]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = TOP + high - share * high
        parts.append(f'<line x1="{LEFT}" x2="{LEFT + wide}" y1="{y:.1f}" y2="{y:.1f}" stroke="#d5dae0"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{top * share:,.4g} ms</text>')
    for mark in MARKS:
        if nines(mark) <= right * 1.001:
            x, _ = place(mark, 0.0)
            parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{TOP + high}" stroke="#eef1f4"/>')
            parts.append(f'<text x="{x:.1f}" y="{TOP + high + 18}" text-anchor="middle">{mark:g} %</text>')
    parts.append(
        f'<text x="{LEFT + wide / 2:.0f}" y="{HEIGHT - 8}" text-anchor="middle" fill="#555555">of the requests were answered within</text>'
    )
    for number, (_, line) in enumerate(curve.lines):
        colour = COLOURS[number % len(COLOURS)]
        drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in line))
        parts.append(f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="{4 - 2 * number}" stroke-opacity="0.85"/>')
    return "\n".join([*parts, "</svg>"]) + "\n"
