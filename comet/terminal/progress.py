"""Shows on a terminal how a cluster starts or stops.

Finished steps and events scroll by; below them spinners show what is in progress. One bar counts the layers of an image
while it is built, others the replicas that are ready. Each finished step shows how long it took.
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

from comet.report.console import OutputConsole
from comet.terminal.messages import Message, lines
from comet.terminal.table_layout import printable

LAYER = re.compile(r"Step (\d+)/(\d+) : ")
LISTING = re.compile(r"starting ((?:worker|lb)-\d+(?:, (?:worker|lb)-\d+)*)$")

MAX_NAMED = 8
"""Maximum number of starting replicas that get a line of their own."""

BAR = 24
"""Width of a bar in cells."""


class LiveDisplay:
    """A display of steps, events and progress bars; not thread-safe."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or OutputConsole(highlight=False)
        self._live: Live | None = None
        self._step = ""
        self._started_at = 0.0
        self._layers: tuple[int, int] | None = None
        self._starting: dict[str, str] = {}
        self._ready: set[str] = set()
        self._expected: set[str] = set()

    def show(self, message: Message) -> None:
        kind = message["kind"]
        if kind == "step":
            self._begin(message["text"])
        elif kind == "event":
            self._apply_event(message["record"])
        if kind in ("ready", "failed"):
            self._finish_step(failed=kind == "failed")
            self._expected.clear()
            self.close()
        if kind == "failed":
            print(message["text"], file=sys.stderr, flush=True)
        elif kind != "step":
            for line in lines(message):
                self._console.print(styled(line), soft_wrap=True)
        if kind not in ("ready", "failed"):
            self._refresh()

    def print_line(self, text: str) -> None:
        """Print a line that is no message of the supervisor."""
        self._console.print(text, soft_wrap=True, style="yellow", markup=False)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _begin(self, text: str) -> None:
        self._finish_step()
        self._step, self._started_at = text, time.monotonic()
        layer, listing = LAYER.match(text), LISTING.match(text)
        self._layers = (int(layer[1]), int(layer[2])) if layer else None
        if listing:
            self._expected = set(listing[1].split(", "))

    def _finish_step(self, failed: bool = False) -> None:
        if self._step and not LISTING.match(self._step):
            seconds = time.monotonic() - self._started_at
            mark = Text("✗ ", style="red") if failed else Text("✓ ", style="green")
            end = Text(f"  {seconds:.1f} s" if seconds >= 0.1 else "", style="dim")
            step = Text(printable(self._step))
            # One line, however narrow the terminal: only the step is truncated, never its mark or its time.
            step.truncate(max(1, self._console.width - mark.cell_len - end.cell_len), overflow="ellipsis")
            self._console.print(mark + step + end, soft_wrap=True)
        self._step = ""

    def _apply_event(self, record: Message) -> None:
        name, replica = record["event"], str(record.get("replica"))
        if name in ("replica_starting", "replica_restarting"):
            self._starting[replica] = "starting"
        elif name == "backoff_entered":
            self._starting[replica] = "in backoff"
        elif name in ("replica_ready", "replica_stopped"):
            self._starting.pop(replica, None)
        if name == "replica_ready":
            self._ready.add(replica)
        elif name == "replica_exited":
            self._ready.discard(replica)

    def _refresh(self) -> None:
        shown = self._in_progress()
        if not shown:
            self.close()
            return
        if self._live is None:
            self._live = Live(
                console=self._console,
                refresh_per_second=8,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        self._live.update(Group(*shown))

    def _in_progress(self) -> list[RenderableType]:
        shown: list[RenderableType] = []
        if self._step and not LISTING.match(self._step):
            shown.append(_spinner(self._step))
        if self._layers and self._step:
            done, of = self._layers
            shown.append(_bar("layers", done - 1, of))
        if self._expected and self._expected - self._ready:
            for role, word in (("worker", "workers ready"), ("lb", "load balancers ready")):
                mine = {name for name in self._expected if name.startswith(role)}
                if mine:
                    shown.append(_bar(word, len(mine & self._ready), len(mine)))
        named = sorted(self._starting.items())
        shown += [_spinner(f"{name} {what}") for name, what in named[:MAX_NAMED]]
        if len(named) > MAX_NAMED:
            shown.append(Text(f"  and {len(named) - MAX_NAMED} more", style="dim"))
        return shown


def _spinner(text: str) -> RenderableType:
    return Spinner("dots", Text(printable(text), style="yellow", no_wrap=True, overflow="ellipsis"))


def _bar(word: str, done: int, of: int) -> RenderableType:
    row = Table.grid(padding=(0, 1))
    row.add_row(Text(f"  {word}"), ProgressBar(total=of, completed=done, width=BAR), Text(f"{done}/{of}"))
    return row


def styled(line: str) -> Text:
    """Return a plain line with its important parts colored."""
    text = Text(printable(line))
    text.highlight_regex(r"\bready\b", "green")
    # A backoff with its length alone is a step of a recovery.
    text.highlight_regex(r"\b(crashed|exited|unhealthy|backoff(?! [0-9])|lost|could not)\b.*", "red")
    text.highlight_regex(r"https?://\S+", "cyan")
    return text
