"""Builds the listings of `ps`, `stats`, `faults` and `scenario`, and formats figures for people."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.text import Text

from comet.common import figures
from comet.common.figures import figure
from comet.config.fault_settings import FRONT, UNITS, settings_of
from comet.events import text
from comet.events.event import exit_text
from comet.inspection.tree import lines
from comet.report.console import OutputConsole
from comet.telemetry import columns
from comet.telemetry.columns import COLUMNS
from comet.telemetry.snapshot import FleetSnapshot, Row, Total
from comet.terminal.progress import styled
from comet.terminal.table_layout import Cell, Column, Listing, listing, printable

if TYPE_CHECKING:
    from comet.inspection.cluster_tree import ClusterTree

STATE_STYLES = {
    "ready": "green",
    "starting": "yellow",
    "unhealthy": "red",
    "backoff": "red",
    "stopping": "yellow",
    "stopped": "dim",
    "not answering": "red",
}


def replicas(snapshot: FleetSnapshot, reasons: bool = True) -> Listing:
    """Build the listing of `ps`: the supervisor, then its replicas, processes and containers in one table.

    With `reasons`, a column says why a replica is not ready, if there is any such reason.
    """
    shown = [each for each in COLUMNS if each.heading and (reasons or each.key != "reason")]
    shown = [each for each in shown if not each.optional or any(map(each.of, snapshot.replicas))]
    me = _supervisor(snapshot)
    rows: list[Sequence[Cell]] = [[me[each.key] for each in shown]]
    rows += [[_cell(each, row, snapshot) for each in shown] for row in snapshot.replicas]
    columns = [Column(each.heading, each.format != "text", each.rank) for each in shown]
    return Listing(columns, rows)


def _supervisor(snapshot: FleetSnapshot) -> dict[str, Cell]:
    """Return the supervisor's cells, by column; the others have a dash."""
    me = snapshot.supervisor
    state = _state(("not answering" if me.problem else "ready") if me.running else "stopped")
    if snapshot.total.paused:
        state.append(f" (paused{_paused_for(snapshot.total)})", style="yellow")
    known = vars(me) | {"id": me.pid, "port": me.admin_port}
    figures = {each.key: each.text(known.get(each.key), "") for each in COLUMNS}
    return {**figures, "name": "supervisor", "kind": "process", "state": state, "reason": ""}


def _cell(column: columns.Column, row: Row, snapshot: FleetSnapshot) -> Cell:
    match column.key:
        case "state":
            return _state_of(row)
        case "health":
            return _health_of(row, snapshot)
        case "last_exit":
            return _exit_of(row)
    value = column.of(row)
    if column.key == "reason":
        return value or ""
    return Text(column.text(value, ""), style=column.style if value else "")


RARE = {"unplanned": "UNPLANNED", "disconnected": "BROKEN OFF"}


def statistics(report: Mapping[str, Any]) -> Listing:
    """Build the listing of `stats`: the totals first, then one row per worker.

    Unplanned results have columns of their own where they occur: failures of the worker itself (part of the failed
    requests), and exchanges that ended before their answer (counted in no other column).
    """
    rare = [name for name in RARE if report["total"].get(name)]
    rarities = (RARE[name] for name in rare)
    headings = ("WORKER", "REQUESTS", "SUCCESSFUL", "FAILED", "AVERAGE ms", "P50 ms", "P99 ms", *rarities, "INJECTED")
    right = set(range(1, len(headings) - 1))
    table = listing(*headings, right=right, ranks=(0, 0, 1, 1, 1, 3, 2, *(2 for _ in rare), 4))
    for row in ({"name": "total", **report["total"]}, *report["workers"]):
        counted = (row["successful"] + row["failed"], row["successful"], row["failed"])
        times = (figure(row[name]) for name in ("mean_ms", "p50_ms", "p99_ms"))
        injected = ", ".join(f"{kind} {count}" for kind, count in row["injections"].items())
        name = f"{row['name']} ({row['lives']} lives)" if row.get("lives", 1) > 1 else row["name"]
        table.add_row(name, *map(str, counted), *times, *(str(row[name]) for name in rare), injected or "-")
    return table


def tree(found: "ClusterTree") -> Listing:
    """Build the listing of `ps --tree`: a line per process of the cluster and its ancestors."""
    headings = ("PROCESS", "PID", "INSIDE", "UID", "ROLE", "REPLICA", "KIND", "COMMAND")
    table = listing(*headings, right={1, 2, 3}, ranks=(0, 0, 3, 4, 1, 0, 2, 5))
    for branch, node in lines(found.roots):
        about = node.about
        inside = about.inside if about.inside != node.pid else None
        numbers = (str(node.pid), plain(inside), plain(about.uid))
        name = Text(branch, style="dim").append(printable(about.name), style="bold" if about.replica else "")
        words = (about.role or "-", plain(about.replica), plain(about.kind), about.command)
        table.add_row(name, *numbers, *words)
    return table


def faults(workers: Iterable[Mapping[str, Any]]) -> Listing:
    """Build the listing of `faults`: one row per effective setting; settings at their harmless default are omitted."""
    table = listing("WORKER", "SETTING", "VALUE", "FROM", right={2})
    for worker in workers:
        neutral = settings_of(worker["name"])
        always = () if worker["name"] == FRONT else ("avg-delay", "failure")
        for name, value in worker["settings"].items():
            if (
                name in always
                or worker["from"][name] != "config"
                or value != neutral[name].check(neutral[name].default)
            ):
                table.add_row(worker["name"], name, _with_unit(name, value), _origin(worker, name))
        for lease in worker["leases"]:
            if lease["count"] is not None:
                limit = _count(lease) + _left(lease)
                for name, value in lease["settings"].items():
                    table.add_row(worker["name"], name, _with_unit(name, value), limit)
    return table


def scenario(report: Mapping[str, Any]) -> Listing:
    """Build the listing of what a scenario's clients observed: one row per step, the total last."""
    headings = ("STEP", "SECONDS", "REQUESTS", "OK", "INJECTED", "REPEATED", "P50 ms", "P99 ms", "ERRORS")
    table = listing(*headings, right={1, 2, 3, 4, 5, 6, 7}, ranks=(0, 4, 0, 0, 1, 2, 3, 1, 0))
    for row in (*report["steps"], {"step": "total" if report["complete"] else "total (broken off)", **report["total"]}):
        errors = ", ".join(f"{kind} {count}" for kind, count in row["errors"].items())
        times = (figure(row[name]) for name in ("p50_ms", "p99_ms"))
        counted = (str(row[name]) for name in ("requests", "ok", "injected", "repeated"))
        table.add_row(row["step"], f"{row['seconds']:.1f}", *counted, *times, errors or "-")
    return table


def chaos(report: Mapping[str, Any]) -> Listing:
    """Build the listing of what a chaos run did: one row per kind and replica."""
    table = listing("ACTION", "REPLICA", "TIMES", "MEDIAN ms UNTIL READY", "LONGEST ms", right={2, 3, 4})
    for row in report["actions"]:
        times = sorted(row["recovery_ms"])
        middle, last = (f"{times[len(times) // 2]:.1f}", f"{times[-1]:.1f}") if times else ("-", "-")
        table.add_row(row["kind"], row["replica"], str(row["times"]), middle, last)
    return table


def _origin(worker: Mapping[str, Any], name: str) -> str:
    if worker["from"][name] != "lease":
        return "config.yaml" if worker["from"][name] == "config" else "command"
    lease = [lease for lease in worker["leases"] if lease["count"] is None and name in lease["settings"]][-1]
    return (f"scenario {lease['owner']}" if lease["owner"] else "command") + _left(lease)


def _count(lease: Mapping[str, Any]) -> str:
    if lease["count_left"] is None:
        return f"the first {lease['count']} requests since {lease['age_s']:g} s ago"
    return f"{lease['count_left']} of {lease['count']} requests left"


def _left(lease: Mapping[str, Any]) -> str:
    return "" if lease["left_s"] is None else f", {lease['left_s']:g} s left"


def _with_unit(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(value)
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{shown} {UNITS[name]}" if name in UNITS else shown


def show(table: Listing) -> None:
    """Print a listing, at full width where the output is no terminal, so that a pipe never truncates a value."""
    console = OutputConsole(highlight=False)
    for line in table.lines(console.width if console.is_terminal else None):
        console.print(line, soft_wrap=True, end="\n")


def show_event(record: Mapping[str, Any]) -> None:
    """Print one event on a terminal: time, subject, sentence; never truncated."""
    OutputConsole(highlight=False).print(event(record), soft_wrap=True, end="\n")


def event(record: Mapping[str, Any], short: bool = False) -> Text:
    """Return an event as one line; `short` omits the fractions of the second."""
    at, subject, sentence = text.columns(record)
    line = Text(f"{at[:8]} " if short else f"{at}  ", style="dim")
    line.append(f"{subject:<10}  ", style="bold")
    return line + styled(sentence)


def span(seconds: float | None) -> str:
    """Format a time as 12s, 3m05s, 2h10m or 4d07h; - if it is unknown."""
    return figures.span(seconds, space="")


def milliseconds(value: float | None) -> str:
    """Format milliseconds as 3.20ms, 512ms or 12.5s; - where nothing was measured."""
    return figures.milliseconds(value, space="")


def plain(value: Any) -> str:
    return "-" if value is None else str(value)


def _state(word: str) -> Text:
    return Text(word, style=STATE_STYLES.get(word, ""))


def _state_of(row: Row) -> Text:
    text = _state(row.state)
    if row.orphan:
        text.append(" (orphan)", style="yellow")
    elif row.next_start_s is not None:
        text.append(f" (next in {row.next_start_s:.1f}s)")
    if row.drained:
        text.append(" (drained)", style="yellow")
    return text


def _paused_for(total: Total) -> str:
    return "" if total.paused_s is None else f", {total.paused_s:g}s left"


def _health_of(row: Row, snapshot: FleetSnapshot) -> Text:
    """Return a worker's health as its load balancers see it: ok, or how many of them would send it requests."""
    views = [edge.healthy for edge in snapshot.edges if edge.worker == row.name]
    if not views:
        return Text("-")
    return Text("ok", style="green") if all(views) else Text(f"{sum(views)} of {len(views)}", style="red")


def _exit_of(row: Row) -> str:
    last = row.last_exit
    return "-" if last is None else exit_text(last["code"], last["signal"], last["oom"])
