"""Draws docs/demo.svg, an animated picture: the board of a real cluster under load, in which a load balancer is killed
and comes back, then the same worker as process and as container, both at one moment.

    .venv/bin/python scripts/picture_demo.py

The screen is looked at several times a second. Each line that stays the same between two looks is drawn once and shown
for that time by a CSS animation, so that the picture is small, refers to no other file and runs no script. A reader who
wants less motion sees the last screen.
"""

import sys
import tempfile
import time
from html import escape
from pathlib import Path

from rich.style import Style
from rich.terminal_theme import SVG_EXPORT_THEME
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.picture_board import Load, styled  # noqa: E402
from tests.support.cluster import open_cluster  # noqa: E402
from tests.support.terminal import terminal  # noqa: E402

WIDTH, HEIGHT = 138, 25
CELL, LINE = 8.43, 19
INTERVAL = 0.25
ACTS = ((2.0, ("lb-0",)), (5.0, ("worker-0", "worker-1")))
"""Seconds from the first look, and what is killed then."""

LENGTH = 12.0
MARGIN = 14


def spans(line: Text) -> str:
    """Return a line as SVG text: a piece for each color, at its column."""
    pieces = []
    for span in line.spans:
        words = line.plain[span.start : span.end]
        if not words.strip():
            continue
        style = span.style if isinstance(span.style, Style) else Style.parse(span.style)
        color = style.color.get_truecolor(SVG_EXPORT_THEME) if style.color else SVG_EXPORT_THEME.foreground_color
        weight = ' font-weight="bold"' if style.bold else ""
        kept = words.rstrip()
        indent = len(kept) - len(kept.lstrip())
        kept = kept.lstrip()
        pieces.append(
            f'<tspan x="{(span.start + indent) * CELL:.1f}" textLength="{len(kept) * CELL:.1f}" '
            f'fill="rgb({color[0]},{color[1]},{color[2]})"{weight}>{escape(kept)}</tspan>'
        )
    return "".join(pieces)


def intervals(frames: list[list[str]]) -> dict[tuple[int, int], list[tuple[int, str]]]:
    """Return, by first look and the look after the last, the rows that are the same from the one to the other."""
    found: dict[tuple[int, int], list[tuple[int, str]]] = {}
    for row in range(HEIGHT):
        begin = 0
        for index in range(1, len(frames) + 1):
            if index == len(frames) or frames[index][row] != frames[begin][row]:
                if frames[begin][row]:
                    found.setdefault((begin, index), []).append((row, frames[begin][row]))
                begin = index
    return found


def picture(frames: list[list[str]]) -> str:
    """Return the animated SVG of these screens, each a list of lines."""
    count, rules, groups = len(frames), [], []
    for number, ((begin, end), rows) in enumerate(sorted(intervals(frames).items())):
        texts = "".join(f'<text y="{(row + 1) * LINE}">{text}</text>' for row, text in rows)
        if end - begin == count:
            groups.append(f"<g>{texts}</g>")
            continue
        first, last = 100 * begin / count, 100 * end / count
        before = f"0%{{visibility:hidden}}{first:.3f}%{{visibility:visible}}" if begin else "0%{visibility:visible}"
        after = f"{last:.3f}%,100%{{visibility:hidden}}" if end < count else "100%{visibility:visible}"
        rules.append(f"@keyframes k{number}{{{before}{after}}}.k{number}{{animation-name:k{number}}}")
        groups.append(f'<g class="k k{number}{" last" if end == count else ""}">{texts}</g>')
    width, height = WIDTH * CELL + 2 * MARGIN, HEIGHT * LINE + 2 * MARGIN
    seconds = count * INTERVAL
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        'font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="14">\n'
        "<title>Under load, a load balancer is killed, then a worker of each kind; all come back</title>\n"
        f"<style>text{{white-space:pre}}.k{{animation-duration:{seconds:g}s;animation-timing-function:step-end;"
        f"animation-iteration-count:infinite}}{''.join(rules)}"
        "@media(prefers-reduced-motion:reduce){.k{animation:none;visibility:hidden}.last{visibility:visible}}</style>\n"
        f'<rect width="{width:.0f}" height="{height:.0f}" rx="8" fill="#1b1d23"/>\n'
        f'<g transform="translate({MARGIN} {MARGIN - 4})">' + "\n".join(groups) + "</g></svg>\n"
    )


def main() -> None:
    frames: list[list[str]] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        open_cluster(Path(folder), worker=4, pool=2, runtime="mixed", avg_delay=40, failure=0) as cluster,
        terminal([*cluster.command, "run"], Path(folder), WIDTH, HEIGHT) as shown,
    ):
        shown.shows("LAST EVENTS", 300)
        load = Load(cluster)
        time.sleep(8)  # The rates are of the last five seconds.
        acts, began = list(ACTS), time.monotonic()
        while (now := time.monotonic() - began) < LENGTH:
            if acts and now >= acts[0][0]:
                cluster.comet("kill", *acts.pop(0)[1])
            frames.append([spans(line) for line in shown.picture(styled)])
            time.sleep(max(0.0, len(frames) * INTERVAL - (time.monotonic() - began)))
        load.close()
        shown.type("\x03")
        shown.shows("supervisor stopped")
    (ROOT / "docs/demo.svg").write_text(picture(frames))


if __name__ == "__main__":
    main()
