"""What each listing shows: the columns of `ps`, `stats`, `faults` and `scenario`, and how a figure is written for people."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from comet.events import exit_text
from comet.faults import SETTINGS, UNITS
from comet.listing import Column, Listing, listing
from comet.progress import styled
from comet.snapshot import FleetSnapshot, Row, SupervisorRow
from comet.told import columns

REPLICAS = {
    "NAME": 0,
    "KIND": 6,
    "ID": 3,
    "PID": 12,
    "PORT": 4,
    "STATE": 0,
    "HEALTH": 10,
    "RESTARTS": 1,
    "LAST EXIT": 2,
    "UPTIME": 1,
    "CPU": 7,
    "MEMORY": 8,
    "REQ/S": 2,
    "P50": 11,
    "P99": 5,
    "IN FLIGHT": 9,
}
"""The columns of `ps` and of the board, each with its rank: where it is narrow the highest goes first."""

TO_THE_LEFT = {"NAME", "KIND", "ID", "STATE", "HEALTH", "LAST EXIT"}

STATE_STYLES = {"ready": "green", "starting": "yellow", "unhealthy": "red", "backoff": "red", "stopping": "yellow", "stopped": "dim"}


def replicas(snapshot: FleetSnapshot) -> Listing:
    """The listing of `ps`: the supervisor, then what it keeps, processes and containers side by side."""
    numbers = [index for index, heading in enumerate(REPLICAS) if heading not in TO_THE_LEFT]
    table = listing(*REPLICAS, right=numbers, ranks=list(REPLICAS.values()))
    nodes = any(row.node is not None for row in snapshot.replicas)
    me = snapshot.supervisor
    state = _state("ready" if me.running else "stopped")
    table.add_row(
        "supervisor", "process", plain(me.pid), plain(me.pid), "-", state, "-", "-", "-", span(me.uptime_s), *_usage(me), *["-"] * 4
    )
    for row in snapshot.replicas:
        table.add_row(
            row.name,
            row.kind,
            plain(row.id),
            plain(row.pid),
            str(row.port),
            _state_of(row),
            _health_of(row, snapshot),
            str(row.restarts),
            _exit_of(row),
            span(row.uptime_s),
            *_usage(row),
            rate(row.requests_per_s),
            milliseconds(row.p50_ms),
            milliseconds(row.p99_ms),
            plain(row.in_flight),
        )
    return _with_nodes(table, snapshot) if nodes else table


def _with_nodes(table: Listing, snapshot: FleetSnapshot) -> Listing:
    """The listing with the machine of each replica, which is of interest where there are several."""
    at, cells = (list(REPLICAS).index("PORT"), ["-", *(plain(row.node) for row in snapshot.replicas)])
    columns = [*table.columns[:at], Column("NODE", rank=1), *table.columns[at:]]
    return Listing(columns, [[*row[:at], cell, *row[at:]] for row, cell in zip(table.rows, cells, strict=True)])


RARE = {"unplanned": "UNPLANNED", "disconnected": "BROKEN OFF"}


def statistics(report: Mapping[str, Any]) -> Listing:
    """The listing of `stats`: a worker a row, the totals first. What nobody planned has columns of its own where there is any: failures of
    the worker itself (among the failed), and exchanges that broke off before their answer (counted in no other column)."""
    rare = [name for name in RARE if report["total"].get(name)]
    rarities = (RARE[name] for name in rare)
    headings = ("WORKER", "REQUESTS", "SUCCESSFUL", "FAILED", "AVERAGE ms", "P50 ms", "P99 ms", *rarities, "INJECTED")
    right = set(range(1, len(headings) - 1))
    table = listing(*headings, right=right, ranks=(0, 0, 1, 1, 1, 3, 2, *(2 for _ in rare), 4))
    for row in ({"name": "total", **report["total"]}, *report["workers"]):
        counted = (row["successful"] + row["failed"], row["successful"], row["failed"])
        times = (f"{row[name]:.1f}" for name in ("mean_ms", "p50_ms", "p99_ms"))
        injected = ", ".join(f"{kind} {count}" for kind, count in row["injections"].items())
        table.add_row(row["name"], *map(str, counted), *times, *(str(row[name]) for name in rare), injected or "-")
    return table


def faults(workers: Iterable[Mapping[str, Any]]) -> Listing:
    """The listing of `faults`: what is in force, a setting a row; what is as harmless as can be is left out."""
    table = listing("WORKER", "SETTING", "VALUE", "FROM", right={2})
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


def scenario(report: Mapping[str, Any]) -> Listing:
    """What the clients of a scenario saw, a step a row, the total last."""
    headings = ("STEP", "SECONDS", "REQUESTS", "OK", "INJECTED", "REPEATED", "P50 ms", "P99 ms", "ERRORS")
    table = listing(*headings, right={1, 2, 3, 4, 5, 6, 7}, ranks=(0, 4, 0, 0, 1, 2, 3, 1, 0))
    for row in (*report["steps"], {"step": "total" if report["complete"] else "total (broken off)", **report["total"]}):
        errors = ", ".join(f"{kind} {count}" for kind, count in row["errors"].items())
        times = (plain(row[name]) for name in ("p50_ms", "p99_ms"))
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


def show(table: Listing) -> None:
    """Print it; as wide as it needs to be where the output is no terminal, so that a pipe never cuts a value."""
    console = Console(highlight=False)
    for line in table.lines(console.width if console.is_terminal else None):
        console.print(line, soft_wrap=True, end="\n")


def show_event(record: Mapping[str, Any]) -> None:
    """One event on a terminal: when, who, what; as long as it is."""
    Console(highlight=False).print(event(record), soft_wrap=True, end="\n")


def event(record: Mapping[str, Any], short: bool = False) -> Text:
    """One line, `short` without the fractions of the second."""
    at, subject, sentence = columns(record)
    line = Text(f"{at[:8]} " if short else f"{at}  ", style="dim")
    line.append(f"{subject:<10}  ", style="bold")
    return line + styled(sentence)


def _usage(of: Row | SupervisorRow) -> tuple[str, str]:
    """CPU and memory."""
    return "-" if of.cpu_percent is None else f"{of.cpu_percent:.1f}%", size(of.memory_bytes)


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


def rate(per_second: float | None) -> str:
    """Events a second; - where nobody counts."""
    return "-" if per_second is None else f"{per_second:.1f}" if per_second < 100 else f"{per_second:.0f}"


def milliseconds(value: float | None) -> str:
    """3.2ms, 512ms, 12.5s; - where nothing was measured."""
    if value is None:
        return "-"
    return f"{value:.1f}ms" if value < 10 else f"{value:.0f}ms" if value < 10000 else f"{value / 1000:.1f}s"


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
    return text


def _health_of(row: Row, snapshot: FleetSnapshot) -> Text:
    """What the load balancers find of a worker: ok, or how many of them would send it requests."""
    views = [edge.healthy for edge in snapshot.edges if edge.worker == row.name]
    if not views:
        return Text("-")
    return Text("ok", style="green") if all(views) else Text(f"{sum(views)} of {len(views)}", style="red")


def _exit_of(row: Row) -> str:
    last = row.last_exit
    return "-" if last is None else exit_text(last["code"], last["signal"], last["oom"])
