"""The board as lines: a function of what is known and of the terminal's size. No clock, no terminal.

From top to bottom: who runs, what all carry, who is sick; the replicas, as many as fit, the rest by scrolling; the last events; the
keys. Where it is low the events give way first, where it is narrow the listing leaves out columns. No line is ever wider than asked.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.text import Text

from comet.listing import printable
from comet.snapshot import FleetSnapshot, Total
from comet.tables import event, milliseconds, rate, replicas, span

LEAST_EVENTS = 4
"""Lines that the events keep when there are many replicas, where the terminal has sixteen lines or more."""

HELP = (
    ("q", "leave the board"),
    ("?  h", "this help"),
    ("↑ ↓  k j", "scroll the replicas by a line"),
    ("PgUp PgDn", "by a page"),
    ("g  G", "to the first, to the last"),
    ("Ctrl-Z", "suspend (fg comes back)"),
)

SICK = {"unhealthy", "backoff", "stopped"}


@dataclass(frozen=True)
class Known:
    """All that is shown. `foreground`: the supervisor ends with this terminal's job."""

    folder: str
    foreground: bool = False
    snapshot: FleetSnapshot | None = None
    events: Sequence[dict[str, Any]] = field(default_factory=tuple)
    admin: str | None = None
    note: str = ""


@dataclass(frozen=True)
class Mode:
    """What the keys have made of it: `page` is board, help or leave."""

    page: str = "board"
    offset: int = 0


def frame(known: Known, mode: Mode, width: int, height: int) -> list[Text]:
    """Exactly `height` lines of at most `width` cells."""
    body = height - 1
    if mode.page == "help":
        lines = _help(known)
    elif known.snapshot is None:
        lines = [Text(f"comet  {known.folder}", style="bold"), Text(known.note or "looking …", style="yellow")]
    else:
        lines = _board(known, known.snapshot, mode, width, body)
    lines = [*lines[:body], *[Text("")] * (body - len(lines)), _footer(known, mode)]
    for line in lines:
        line.no_wrap, line.overflow, line.end = True, "crop", "\n"
        line.truncate(width, overflow="ellipsis")
    return lines


def room(known: Known, width: int, height: int) -> tuple[int, int]:
    """How many replica lines there are, and how many fit at once."""
    if known.snapshot is None:
        return 0, 0
    count = len(known.snapshot.replicas) + 1
    fixed = len(_summary(known, known.snapshot, width)) + 2  # an empty line, and the listing's heading
    events = 2 + LEAST_EVENTS if height >= 16 else 0
    return count, max(1, min(count, height - 1 - fixed - events))


def _board(known: Known, snapshot: FleetSnapshot, mode: Mode, width: int, body: int) -> list[Text]:
    heading, *rows = replicas(snapshot).lines(width)
    count, fitting = room(known, width, body + 1)
    offset = max(0, min(mode.offset, count - fitting))
    lines = [*_summary(known, snapshot, width), Text(""), heading, *rows[offset : offset + fitting]]
    if fitting < count:
        lines[-fitting - 2] = Text(f"replicas {offset + 1} to {offset + fitting} of {count} (↑ ↓ scroll)", style="dim")
    left = body - len(lines) - 2
    if left > 0 and known.events:
        lines += [Text(""), Text("LAST EVENTS", style="bold"), *(event(record, short=width < 72) for record in known.events[-left:])]
    return lines


def _summary(known: Known, snapshot: FleetSnapshot, width: int) -> list[Text]:
    lines = [_heading(snapshot, narrow=width < 84), _totals(snapshot.total, gap=3 if width >= 72 else 2)]
    sick = [row for row in snapshot.replicas if row.state in SICK and not row.orphan]
    if sick:
        lines.append(_sick([(row.name, row.state, row.reason) for row in sick]))
    if known.note:
        lines.append(Text(printable(known.note), style="yellow"))
    return lines


def _heading(snapshot: FleetSnapshot, narrow: bool) -> Text:
    me, rows = snapshot.supervisor, snapshot.replicas
    line = Text().append("comet  ", "bold cyan")
    if not me.running:
        told = ": orphans serve on (run adopts them, stop ends them)" if rows else " and nothing else runs"
        return line.append(f"○ no supervisor{told}", "red")
    line.append("● " if narrow else "● running  ", "green") if me.uptime_s is not None else line.append("● does not answer  ", "red")
    line.append(f"PID {me.pid}" + (f"  up {span(me.uptime_s)}" if me.uptime_s is not None else ""))
    line.append("   ")
    for role, word in (("worker", "workers"), ("lb", "LBs" if narrow else "load balancers")):
        mine = [row.state for row in rows if row.role == role]
        ready = mine.count("ready")
        line.append(" · " if role == "lb" else "")
        line.append(f"{ready}/{len(mine)} {word}", style="green" if ready == len(mine) else "yellow")
    return line.append(" ready")


def _totals(total: Total, gap: int) -> Text:
    line = Text()
    for word, figure in (
        ("req/s", rate(total.requests_per_s)),
        ("errors/s", rate(total.errors_per_s)),
        ("p50", milliseconds(total.p50_ms)),
        ("p99", milliseconds(total.p99_ms)),
        ("in flight", str(total.in_flight)),
        ("queued", str(total.queued)),
    ):
        line.append(f"{word} ", style="dim")
        line.append(f"{figure}{' ' * gap}", style="red" if word == "errors/s" and total.errors_per_s else "bold")
    return line


def _sick(rows: list[tuple[str, str, str | None]]) -> Text:
    if len(rows) <= 3:
        told = "; ".join(f"{name} {state}" + (f" ({reason})" if reason else "") for name, state, reason in rows)
    else:
        counts = Counter(state for _, state, _ in rows)
        told = ", ".join(f"{count} {state}" for state, count in counts.items()) + f": {', '.join(name for name, _, _ in rows)}"
    return Text(printable(told), style="red")


def _help(known: Known) -> list[Text]:
    lines = [Text("Keys", style="bold"), Text("")]
    for keys, what in HELP:
        lines.append(Text(f"  {keys:<11}", style="cyan") + Text(what))
    ends = "drains, stops and removes the cluster" if known.foreground else "leaves the board; the cluster goes on"
    lines += [Text(f"  {'Ctrl-C':<11}", style="cyan") + Text(ends), Text("")]
    lines += [Text("HEALTH is what the load balancers find of a worker; rates and percentiles are of the last 5 s.", style="dim")]
    lines += [Text(f"In a second terminal: ps, events --follow, logs NAME --follow, kill NAME. Folder: {known.folder}", style="dim")]
    return lines


def _footer(known: Known, mode: Mode) -> Text:
    if mode.page == "leave":
        return Text(" Leave the board?  l lines instead, the cluster goes on · s stop the cluster · Esc back ", style="bold reverse")
    if mode.page == "help":
        return Text(" any key: back to the board ", style="reverse")
    told = " q leave · ? help"
    told += " · Ctrl-C stop the cluster" if known.foreground else ""
    return Text(told + (f" · {known.admin}" if known.admin else "") + " ", style="reverse")
