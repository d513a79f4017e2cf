"""Draws docs/board-calm.svg and docs/board-chaos.svg: the board of a real cluster under load, undisturbed and while
replicas are killed.

    .venv/bin/python scripts/picture_board.py

Runs three containers and two load balancers on free ports in a temporary folder, with `run` in its own terminal; a
picture is that terminal's screen, cell by cell. In the second, one replica after another is killed.
"""

import re
import sys
import tempfile
import threading
import time
from contextlib import suppress
from itertools import cycle, groupby, islice
from pathlib import Path

import pyte
import requests
from pyte.screens import Char
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.cluster import TestCluster, open_cluster  # noqa: E402
from tests.support.terminal import Terminal, terminal  # noqa: E402

FORMAT = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"
 font-family="DejaVu Sans Mono, Menlo, Consolas, monospace">
<style>.{unique_id}-matrix {{ font-size: {char_height}px; line-height: {line_height}px; white-space: pre; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; }}
{styles}</style>
<defs><clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/></clipPath>{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">{backgrounds}
<g class="{unique_id}-matrix">
{matrix}</g></g></svg>
"""

WIDTH, HEIGHT = 142, 30
CLIENTS = 6
COLOURS = {"brown": "yellow"}
HEX = re.compile(r"[0-9a-f]{6}")


class Load:
    """Clients that send requests to both load balancers as fast as they are answered, until closed."""

    def __init__(self, cluster: TestCluster) -> None:
        self._finished = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(cluster.lb(number % 2),), daemon=True) for number in range(CLIENTS)
        ]
        for thread in self._threads:
            thread.start()

    def _ask(self, url: str) -> None:
        with requests.Session() as session:
            while not self._finished.is_set():
                with suppress(requests.RequestException):
                    session.get(f"{url}/api/v1/hello", timeout=10)

    def close(self) -> None:
        self._finished.set()
        for thread in self._threads:
            thread.join(15)


def styled(screen: pyte.Screen) -> list[Text]:
    """Return the lines of a screen with their colors."""
    lines = []
    for number in range(screen.lines):
        line = Text(no_wrap=True)
        cells = [screen.buffer[number][column] for column in range(screen.columns)]
        for style, run in groupby(cells, key=style_of):
            line.append("".join(cell.data for cell in run), style)
        lines.append(line)
    return lines


def style_of(cell: Char) -> str:
    colour = COLOURS.get(cell.fg, f"#{cell.fg}" if HEX.fullmatch(cell.fg) else cell.fg)
    return f"{'bold ' if cell.bold else ''}{'reverse ' if cell.reverse else ''}{colour}"


def draw(shown: Terminal, name: str, title: str) -> None:
    with open("/dev/null", "w") as nowhere:
        console = Console(record=True, width=WIDTH, file=nowhere, force_terminal=True, color_system="truecolor")
        for line in shown.picture(styled):
            console.print(line, soft_wrap=True)
        console.save_svg(str(ROOT / "docs" / name), title=title, code_format=FORMAT)


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        open_cluster(Path(folder), worker=3, pool=2, avg_delay=40, failure=2) as cluster,
        terminal([*cluster.command, "run"], Path(folder), WIDTH, HEIGHT) as shown,
    ):
        shown.shows("LAST EVENTS", 300)
        load = Load(cluster)
        time.sleep(8)  # The rates are of the last five seconds.
        draw(shown, "board-calm.svg", "python supervisor.py")
        for name in islice(cycle(["worker-1", "lb-0", "worker-2", "worker-0", "lb-1"]), 12):
            cluster.comet("kill", name)
            time.sleep(0.4)
        cluster.comet("kill", "worker-1")
        shown.shows(lambda text: "backoff" in text or "starting" in text, 30)
        draw(shown, "board-chaos.svg", "python supervisor.py, replicas killed one after another")
        load.close()
        shown.type("\x03")
        shown.shows("supervisor stopped")


if __name__ == "__main__":
    main()
