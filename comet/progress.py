"""On a terminal, while a cluster comes up or goes: finished steps and events scroll by, what is under way turns below them.

A bar counts an image's layers while it is built, another the replicas that are ready; each step that is done says how long it took.
"""

import re
import sys
import time

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from comet.display import Message, lines
from comet.listing import printable

LAYER = re.compile(r"Step (\d+)/(\d+) : ")
LISTING = re.compile(r"starting ((?:worker|lb)-\d+(?:, (?:worker|lb)-\d+)*)$")

NAMED_AT_MOST = 8
"""Replicas under way that get a line of their own."""

BAR = 24
"""Width of a bar in cells."""


class LiveDisplay:
    """Not for concurrent use."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._live: Live | None = None
        self._step = ""
        self._began = 0.0
        self._layers: tuple[int, int] | None = None
        self._starting: dict[str, str] = {}
        self._ready: set[str] = set()
        self._expected: set[str] = set()

    def show(self, message: Message) -> None:
        kind = message["kind"]
        if kind == "step":
            self._begin(message["text"])
        elif kind == "event":
            self._follow(message["record"])
        if kind in ("ready", "failed"):
            self._finish_step()
            self._expected.clear()
            self.close()
        if kind == "failed":
            print(message["text"], file=sys.stderr, flush=True)
        elif kind != "step":
            for line in lines(message):
                self._console.print(styled(line), soft_wrap=True)
        if kind not in ("ready", "failed"):
            self._refresh()

    def say(self, text: str) -> None:
        """A line of our own."""
        self._console.print(text, soft_wrap=True, style="yellow")

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _begin(self, text: str) -> None:
        self._finish_step()
        self._step, self._began = text, time.monotonic()
        layer, listing = LAYER.match(text), LISTING.match(text)
        self._layers = (int(layer[1]), int(layer[2])) if layer else None
        if listing:
            self._expected = set(listing[1].split(", "))

    def _finish_step(self) -> None:
        if self._step and not LISTING.match(self._step):
            took = time.monotonic() - self._began
            line = Text("✓ ", style="green") + Text(printable(self._step))
            self._console.print(line + Text(f"  {took:.1f} s" if took >= 0.1 else "", style="dim"), soft_wrap=True)
        self._step = ""

    def _follow(self, record: Message) -> None:
        name, replica = record["event"], str(record.get("replica"))
        if name in ("replica_starting", "replica_restarting"):
            self._starting[replica] = "starting"
        elif name == "backoff_entered":
            self._starting[replica] = "waiting to be restarted"
        elif name in ("replica_ready", "replica_stopped"):
            self._starting.pop(replica, None)
        if name == "replica_ready":
            self._ready.add(replica)
        elif name == "replica_exited":
            self._ready.discard(replica)

    def _refresh(self) -> None:
        shown = self._under_way()
        if not shown:
            self.close()
            return
        if self._live is None:
            self._live = Live(console=self._console, refresh_per_second=8, transient=True, redirect_stdout=False, redirect_stderr=False)
            self._live.start()
        self._live.update(Group(*shown))

    def _under_way(self) -> list[RenderableType]:
        shown: list[RenderableType] = []
        if self._step and not LISTING.match(self._step):
            shown.append(_turning(self._step))
        if self._layers and self._step:
            done, of = self._layers
            shown.append(_bar("layers", done - 1, of))
        if self._expected and self._expected - self._ready:
            for role, word in (("worker", "workers ready"), ("lb", "load balancers ready")):
                mine = {name for name in self._expected if name.startswith(role)}
                if mine:
                    shown.append(_bar(word, len(mine & self._ready), len(mine)))
        named = sorted(self._starting.items())
        shown += [_turning(f"{name} {what}") for name, what in named[:NAMED_AT_MOST]]
        if len(named) > NAMED_AT_MOST:
            shown.append(Text(f"  and {len(named) - NAMED_AT_MOST} more", style="dim"))
        return shown


def _turning(text: str) -> RenderableType:
    return Spinner("dots", Text(printable(text), style="yellow", no_wrap=True, overflow="ellipsis"))


def _bar(word: str, done: int, of: int) -> RenderableType:
    row = Table.grid(padding=(0, 1))
    row.add_row(Text(f"  {word}"), ProgressBar(total=of, completed=done, width=BAR), Text(f"{done}/{of}"))
    return row


def styled(line: str) -> Text:
    """A plain line of a display, with what matters in it in colour."""
    text = Text(printable(line))
    text.highlight_regex(r"\bready\b", "green")
    text.highlight_regex(r"\b(exited|unhealthy|lost|could not)\b.*", "red")
    text.highlight_regex(r"https?://\S+", "cyan")
    return text
