"""Renders the board as lines: a function of the known state and the terminal's size.

It uses no clock and no terminal.

From top to bottom: the supervisor, the total load, the unhealthy replicas; the replicas that fit, the rest by
scrolling; the last events; the keys. On a low terminal the events are dropped first; on a narrow one the listing omits
columns. No line is wider than requested.
"""

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.cells import chop_cells
from rich.text import Text

from comet.common.figures import figure
from comet.events.recovery_groups import LOAD_BALANCER, medians
from comet.telemetry.snapshot import FleetSnapshot, Total
from comet.terminal.table_layout import printable
from comet.terminal.tables import event, milliseconds, replicas, span

MIN_EVENTS = 4
"""Minimum lines for events when there are many replicas, if the terminal has 16 lines or more."""

HELP = (
    ("q", "leave the board"),
    ("?  h", "this help"),
    ("↑ ↓  k j", "choose a replica"),
    ("x r d l", "kill it, restart it, drain or undrain it, show its log"),
    ("Esc", "choose none"),
    ("p", "pause: let requests wait, or go on"),
    ("PgUp PgDn", "scroll by a page"),
    ("g  G", "to the first, to the last"),
    ("Ctrl-Z", "suspend (fg comes back)"),
)

UNHEALTHY_STATES = {"unhealthy", "backoff", "stopped"}


@dataclass(frozen=True)
class BoardState:
    """Everything that the board shows.

    `foreground` means that the supervisor is a job of this terminal and ends with it.
    """

    folder: str
    foreground: bool = False
    snapshot: FleetSnapshot | None = None
    events: Sequence[dict[str, Any]] = field(default_factory=tuple)
    admin: str | None = None
    note: str = ""
    log: Sequence[str] = field(default_factory=tuple)


@dataclass(frozen=True)
class Mode:
    """The view state that keys change; `page` is board, help, leave, confirm or log.

    `selected` is the name of the chosen replica, and `order` what is to be confirmed for it, or for the cluster.
    """

    page: str = "board"
    offset: int = 0
    selected: str = ""
    order: str = ""

    @property
    def of_cluster(self) -> bool:
        return self.order in ("pause", "resume")


def frame(state: BoardState, mode: Mode, width: int, height: int) -> list[Text]:
    """Render exactly `height` lines of at most `width` cells."""
    body = height - 1
    if mode.page == "help":
        lines = _help(state, width)
    elif mode.page == "log":
        lines = _log(state, mode, body)
    elif state.snapshot is None:
        lines = [
            Text(f"comet  {state.folder}", style="bold"),
            Text(state.note or "waiting for the first snapshot …", style="yellow"),
        ]
    else:
        lines = _board(state, state.snapshot, mode, width, body)
    lines = [*lines[:body], *[Text("")] * (body - len(lines)), _footer(state, mode)]
    for line in lines:
        line.no_wrap, line.overflow, line.end = True, "crop", "\n"
        line.truncate(width, overflow="ellipsis")
    return lines


def scroll_range(state: BoardState, width: int, height: int) -> tuple[int, int]:
    """Return how many replica lines there are, and how many fit at once."""
    if state.snapshot is None:
        return 0, 0
    count = len(state.snapshot.replicas) + 1
    fixed = len(_summary(state, state.snapshot, width)) + 2  # An empty line, and the heading of the listing.
    events = 2 + MIN_EVENTS if height >= 16 else 0
    return count, max(1, min(count, height - 1 - fixed - events))


def _board(state: BoardState, snapshot: FleetSnapshot, mode: Mode, width: int, body: int) -> list[Text]:
    heading, *rows = replicas(snapshot, reasons=False).lines(width)
    count, fitting = scroll_range(state, width, body + 1)
    offset = max(0, min(mode.offset, count - fitting))
    names = ["supervisor", *(row.name for row in snapshot.replicas)]
    if mode.selected in names:
        rows[names.index(mode.selected)].stylize("reverse")
    lines = [*_summary(state, snapshot, width), Text(""), heading, *rows[offset : offset + fitting]]
    if fitting < count:
        lines[-fitting - 2] = Text(f"replicas {offset + 1} to {offset + fitting} of {count} (↑ ↓ scroll)", style="dim")
    left = body - len(lines) - 2
    if left > 0 and state.events:
        lines += [
            Text(""),
            Text("LAST EVENTS", style="bold"),
            *(event(record, short=width < 72) for record in state.events[-left:]),
        ]
    return lines


def _summary(state: BoardState, snapshot: FleetSnapshot, width: int) -> list[Text]:
    lines = [_heading(snapshot, narrow=width < 84), _totals(snapshot.total, gap=3 if width >= 72 else 2)]
    unhealthy = [row for row in snapshot.replicas if row.state in UNHEALTHY_STATES and not row.orphan]
    if unhealthy:
        lines.append(_unhealthy_line([(row.name, row.state, row.reason) for row in unhealthy]))
    if snapshot.total.paused:
        left = "" if snapshot.total.paused_s is None else f", {snapshot.total.paused_s:g} s left"
        lines.append(Text(f"paused{left}: requests wait", style="yellow"))
    if recovered := medians(state.events):
        lines.append(_recoveries(recovered))
    if state.note:
        lines.append(Text(printable(state.note), style="yellow"))
    return lines


def _heading(snapshot: FleetSnapshot, narrow: bool) -> Text:
    supervisor, rows = snapshot.supervisor, snapshot.replicas
    line = Text().append("comet  ", "bold cyan")
    if not supervisor.running:
        text = ": orphans keep serving (run adopts them, stop ends them)" if rows else " and nothing else runs"
        return line.append(f"○ no supervisor{text}", "red")
    line.append("● " if narrow else "● running  ", "green") if supervisor.uptime_s is not None else line.append(
        "● does not answer  ", "red"
    )
    line.append(
        f"PID {supervisor.pid}" + (f"  up {span(supervisor.uptime_s)}" if supervisor.uptime_s is not None else "")
    )
    line.append("   ")
    for role, word in (("worker", "workers"), ("lb", "LBs" if narrow else "load balancers")):
        states = [row.state for row in rows if row.role == role]
        ready = states.count("ready")
        line.append(" · " if role == "lb" else "")
        line.append(f"{ready}/{len(states)} {word}", style="green" if ready == len(states) else "yellow")
    return line.append(" ready")


def _totals(total: Total, gap: int) -> Text:
    line = Text()
    unplanned = max(0.0, total.errors_per_s - total.injected_per_s)
    styles = {"errors/s": "red" if unplanned else "bold", "injected/s": "yellow"}
    for word, shown in (
        ("req/s", figure(total.requests_per_s)),
        ("errors/s", figure(unplanned)),
        *((("injected/s", figure(total.injected_per_s)),) if total.injected_per_s else ()),
        ("p50", milliseconds(total.p50_ms)),
        ("p99", milliseconds(total.p99_ms)),
        ("in flight", str(total.in_flight)),
        ("queued", str(total.queued)),
    ):
        line.append(f"{word} ", style="dim")
        line.append(f"{shown}{' ' * gap}", style=styles.get(word, "bold"))
    return line


def _recoveries(recovered: Mapping[str, tuple[float, int]]) -> Text:
    """Return the median from death to ready, and of how many: a worker in its forms, and apart from it the rest."""
    line = Text().append("death to ready, median  ", "dim")
    for number, (group, (middle, count)) in enumerate(recovered.items()):
        line.append(" · " if number else "").append("apart: " if number and group == LOAD_BALANCER else "", "dim")
        line.append(f"{group} ").append(milliseconds(middle), "bold").append(f" ({count})", "dim")
    return line


def _unhealthy_line(rows: list[tuple[str, str, str | None]]) -> Text:
    if len(rows) <= 3:
        text = "; ".join(f"{name} {state}" + (f" ({reason})" if reason else "") for name, state, reason in rows)
    else:
        counts = Counter(state for _, state, _ in rows)
        text = (
            ", ".join(f"{count} {state}" for state, count in counts.items())
            + f": {', '.join(name for name, _, _ in rows)}"
        )
    return Text(printable(text), style="red")


def _help(state: BoardState, width: int) -> list[Text]:
    effect = (
        "drains, stops and removes the cluster" if state.foreground else "leaves the board; the cluster keeps running"
    )
    lines = [Text("Keys", style="bold"), Text("")]
    for keys, meaning in (*HELP, ("Ctrl-C", effect)):
        first, *rest = textwrap.wrap(meaning, max(width - 13, 10))
        lines += [Text(f"  {keys:<11}", style="cyan") + Text(first), *(Text(f"{'':<13}{each}") for each in rest)]
    for paragraph in ("HEALTH is what the load balancers report of a worker; rates and percentiles cover the last 5 s.",
                      "In a second terminal: ps, events --follow, logs NAME --follow, kill NAME."):  # fmt: skip
        lines += [Text(""), *(Text(each, style="dim") for each in textwrap.wrap(paragraph, width))]
    return lines + [Text(each, style="dim") for each in chop_cells(printable(f"Folder: {state.folder}"), width)]


def _log(state: BoardState, mode: Mode, body: int) -> list[Text]:
    """Show the end of the chosen replica's log."""
    lines = [Text(f"Log of {mode.selected}", style="bold"), Text("")]
    shown = state.log[-(body - len(lines)) :] if body > len(lines) else []
    return lines + ([Text(printable(line)) for line in shown] or [Text("nothing was logged", style="dim")])


def _footer(state: BoardState, mode: Mode) -> Text:
    if mode.page == "confirm":
        what = "all requests" if mode.of_cluster else mode.selected
        return Text(f" {mode.order} {what}?  y yes · any other key: no ", style="bold reverse")
    if mode.page == "log":
        return Text(" any key: back to the board ", style="reverse")
    if mode.page == "leave":
        return Text(
            " Leave the board?  l show lines, the cluster keeps running · s stop the cluster · Esc back ",
            style="bold reverse",
        )
    if mode.page == "help":
        return Text(" any key: back to the board ", style="reverse")
    text = f" {mode.selected}: x kill · r restart · d drain · l log ·" if mode.selected else ""
    paused = state.snapshot is not None and state.snapshot.total.paused
    text += " q leave · ? help" + ("" if mode.selected else f" · ↑ ↓ choose · p {'resume' if paused else 'pause'}")
    text += " · Ctrl-C stop the cluster" if state.foreground else ""
    return Text(text + (f" · {state.admin}" if state.admin else "") + " ", style="reverse")
