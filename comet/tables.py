"""Tables for people, in the manner of kubectl and docker: no frames, one row a thing, readable at 80 columns and in a pipe."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from comet.display import STATE_STYLES
from comet.events import exit_text
from comet.faults import SETTINGS, UNITS
from comet.snapshot import FleetSnapshot, Row


def replicas(snapshot: FleetSnapshot) -> Table:
    """The listing of `ps`."""
    headings = ("NAME", "KIND", "ID", "PID", "PORT", "STATE", "RESTARTS", "LAST EXIT", "UPTIME", "CPU", "MEMORY")
    table = _table(*headings, right={3, 4, 6, 8, 9, 10})
    me = snapshot.supervisor
    state = _state("ready" if me.running else "stopped")
    table.add_row("supervisor", "process", "-", _plain(me.pid), "-", state, "-", "-", span(me.uptime_s), "-", "-")
    for row in snapshot.replicas:
        table.add_row(
            row.name,
            row.kind,
            _plain(row.id),
            _plain(row.pid),
            str(row.port),
            _state_of(row),
            str(row.restarts),
            _exit_of(row),
            span(row.uptime_s),
            "-" if row.cpu_percent is None else f"{row.cpu_percent:.1f}%",
            size(row.memory_bytes),
        )
    return table


def statistics(report: Mapping[str, Any]) -> Table:
    """The listing of `stats`: a worker a row, the totals first."""
    table = _table("WORKER", "REQUESTS", "SUCCESSFUL", "FAILED", "AVERAGE ms", "P50 ms", "P99 ms", "INJECTED", right={1, 2, 3, 4, 5, 6})
    for row in ({"name": "total", **report["total"]}, *report["workers"]):
        counted = (row["successful"] + row["failed"], row["successful"], row["failed"])
        times = (f"{row[name]:.1f}" for name in ("mean_ms", "p50_ms", "p99_ms"))
        injected = ", ".join(f"{kind} {count}" for kind, count in row["injections"].items())
        table.add_row(row["name"], *map(str, counted), *times, injected or "-")
    return table


def faults(workers: Iterable[Mapping[str, Any]]) -> Table:
    """The listing of `faults`: what is in force, a setting a row; what is as harmless as can be is left out."""
    table = _table("WORKER", "SETTING", "VALUE", "FROM", right={2})
    for worker in workers:
        for name, value in worker["settings"].items():
            if name in ("avg-delay", "failure") or worker["from"][name] != "config" or value != SETTINGS[name].default:
                table.add_row(worker["name"], name, _with_unit(name, value), _origin(worker, name))
        for lease in worker["leases"]:
            if lease["count"] is not None:
                limit = f"the first {lease['count']} requests since {lease['age_s']:g} s ago" + _left(lease)
                for name, value in lease["settings"].items():
                    table.add_row(worker["name"], name, _with_unit(name, value), limit)
    return table


def scenario(report: Mapping[str, Any]) -> Table:
    """What the clients of a scenario saw, a step a row, the total last."""
    table = _table("STEP", "SECONDS", "REQUESTS", "OK", "INJECTED", "REPEATED", "P50 ms", "P99 ms", "ERRORS", right={1, 2, 3, 4, 5, 6, 7})
    for row in (*report["steps"], {"step": "total" if report["complete"] else "total (broken off)", **report["total"]}):
        errors = ", ".join(f"{kind} {count}" for kind, count in row["errors"].items())
        times = (_plain(row[name]) for name in ("p50_ms", "p99_ms"))
        counted = (str(row[name]) for name in ("requests", "ok", "injected", "repeated"))
        table.add_row(row["step"], f"{row['seconds']:.1f}", *counted, *times, errors or "-")
    return table


def _origin(worker: Mapping[str, Any], name: str) -> str:
    if worker["from"][name] != "lease":
        return "config.yaml" if worker["from"][name] == "config" else "command"
    lease = [lease for lease in worker["leases"] if lease["count"] is None and name in lease["settings"]][-1]
    return (f"scenario {lease['owner']}" if lease["owner"] else "command") + _left(lease)


def _left(lease: Mapping[str, Any]) -> str:
    return "" if lease["left_s"] is None else f", {lease['left_s']:g} s left"


def _with_unit(name: str, value: Any) -> str:
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{shown} {UNITS[name]}" if name in UNITS else shown


def show(table: Table) -> None:
    """Print it; as wide as it needs to be where the output is no terminal, so that a pipe never cuts a value."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200)
    console.print(table)


def watch(look: Callable[[], Table], pause: float) -> None:
    """On a terminal: show what `look` gives, anew every `pause` seconds, until interrupted. Elsewhere it returns at once."""
    console = Console(highlight=False)
    if not console.is_terminal:
        return
    with Live(look(), console=console, auto_refresh=False, screen=True) as live:
        while True:
            time.sleep(pause)
            live.update(look(), refresh=True)


def span(seconds: float | None) -> str:
    """12s, 3m05s, 2h10m, 4d07h; - where it is unknown."""
    if seconds is None:
        return "-"
    whole = int(seconds)
    for unit, length, lesser, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= length:
            return f"{whole // length}{unit}{whole % length // part:02d}{lesser}"
    return f"{whole}s"


def size(count: int | None) -> str:
    """Bytes as MiB."""
    return "-" if count is None else f"{count / 1024**2:.1f}MiB"


def _table(*headings: str, right: Iterable[int] = ()) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    aligned = set(right)
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index in aligned else "left", no_wrap=True)
    return table


def _plain(value: Any) -> str:
    return "-" if value is None else str(value)


def _state(word: str) -> Text:
    return Text(word, style=STATE_STYLES.get(word, ""))


def _state_of(row: Row) -> Text:
    text = _state(row.state)
    if row.orphan:
        text.append(" (orphan)", style="yellow")
    elif row.next_start_s is not None:
        text.append(f" (next in {row.next_start_s:.1f}s)")
    return text


def _exit_of(row: Row) -> str:
    last = row.last_exit
    return "-" if last is None else exit_text(last["code"], last["signal"], last["oom"])
