"""Describes what a cluster did during a test: its events, what each replica did, and what they printed last."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from comet.api.running_cluster import RunningCluster
from comet.common.errors import UserError
from comet.events import journal, text
from comet.events.event import exit_text, line
from comet.telemetry.snapshot import Row

MOST_EVENTS = 40
LOG_LINES = 12
"""Last lines quoted of each replica's log."""

MOST_LOGS = 12
"""Replicas whose logs are quoted."""

HEADINGS = (
    "REPLICA",
    "STATE",
    "REQUESTS",
    "2xx",
    "3xx",
    "4xx",
    "5xx",
    "ERRORS",
    "RETRIES",
    "RESTARTS",
    "LAST EXIT",
    "FAULTS",
)


def describe(cluster: RunningCluster, since: int, before: Mapping[str, Row]) -> str:
    """Return what has happened after the event number `since`, and what the replicas did beyond what `before` says.

    Of a cluster that the test has stopped there is nothing left to see.
    """
    try:
        return _description(cluster, since, before)
    except UserError as error:
        return f"{cluster!r}\n\n{error.message}"


def _description(cluster: RunningCluster, since: int, before: Mapping[str, Row]) -> str:
    parts = [f"{cluster!r} in {cluster.folder}", "", *_events(cluster, since)]
    try:
        rows = cluster.replicas()
    except UserError as error:
        return "\n".join([*parts, "", error.message])
    parts += ["", *table(HEADINGS, [_figures(row, before.get(row.name)) for row in rows.values()])]
    for name in list(rows)[:MOST_LOGS]:
        lines = _log(cluster, name)
        if lines:
            parts += ["", f"{name} printed last:", *(f"  {each}" for each in lines)]
    return "\n".join(parts)


def _events(cluster: RunningCluster, since: int) -> Iterator[str]:
    records = [record for record in cluster.events() if journal.number(record) > since]
    yield "events since the test got the cluster:" if records else "no event since the test got the cluster"
    if len(records) > MOST_EVENTS:
        yield f"  ({len(records) - MOST_EVENTS} earlier ones)"
    for record in records[-MOST_EVENTS:]:
        yield f"  {text.clock(record)}  {line(record)}"


def _log(cluster: RunningCluster, name: str) -> list[str]:
    try:
        return cluster.logs(name, LOG_LINES).splitlines()
    except (UserError, OSError) as error:
        return [f"({error})"]


def _figures(row: Row, before: Row | None) -> list[str]:
    """Return the cells of a replica: what it did since `before`. Counts never go back while a cluster runs."""
    answers = [(row.responses or {}).get(kind, 0) - _earlier(before, kind) for kind in HEADINGS[3:7]]
    counts = (
        (row.requests or 0) - (before.requests or 0 if before else 0),
        *answers,
        (row.errors or 0) - (before.errors or 0 if before else 0),
        (row.retries or 0) - (before.retries or 0 if before else 0),
        row.restarts - (before.restarts if before else 0),
    )
    last = row.last_exit
    ended = "-" if last is None else exit_text(last["code"], last["signal"], last["oom"])
    faults = ", ".join(f"{name} {value}" for name, value in (row.faults or {}).items() if value) or "-"
    state = row.state if row.reason is None or row.state == "ready" else f"{row.state} ({row.reason})"
    return [row.name, state, *map(str, counts), ended, faults]


def _earlier(before: Row | None, kind: str) -> int:
    return (before.responses or {}).get(kind, 0) if before is not None else 0


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table with aligned columns."""
    cells = [list(headings), *map(list, rows)]
    widths = [max(len(row[index]) for row in cells) for index in range(len(headings))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
