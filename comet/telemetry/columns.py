"""Declares the columns of the list of replicas, once for `ps`, the board, the page, `ps --json` and the documentation.

Pure. A column is a field of a `Row` (`comet.telemetry.snapshot`), or it computes its value from one; then `ps --json`
has it under its key too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from comet.common import figures

Format = Callable[[Any, str], str]
"""Takes a value that is known and what stands before its unit; returns it as text."""

FORMATS: dict[str, Format] = {
    "text": lambda value, space: str(value),
    "number": lambda value, space: str(value),
    "count": lambda value, space: f"{value:,}" if space else str(value),
    "figure": lambda value, space: figures.figure(value),
    "percent": lambda value, space: f"{figures.figure(value)}{space}%",
    "ms": figures.milliseconds,
    "bytes": figures.size,
    "span": figures.span,
}
"""The formats of columns; `comet/admin/page/table.js` has the same."""


@dataclass(frozen=True)
class Column:
    """A column.

    `heading` is that of the terminal, `label` that of the page; a column without one is not shown there. On a narrow
    terminal the columns of the highest `rank` are dropped first. An `optional` column is shown where any replica has
    such a value, with a `style` for it. `css` is the class of its cells, where that is not the key.
    """

    key: str
    heading: str = ""
    rank: int = 0
    meaning: str = ""
    format: str = "text"
    label: str = ""
    css: str = ""
    value: Callable[[Any], Any] | None = None
    optional: bool = False
    style: str = ""

    def of(self, row: Any) -> Any:
        return getattr(row, self.key) if self.value is None else self.value(row)

    def text(self, value: Any, space: str = " ") -> str:
        return figures.NONE if value is None else FORMATS[self.format](value, space)


def _reason(row: Any) -> Any:
    if row.state in ("starting", "unhealthy", "backoff") and not row.orphan:
        return row.reason
    return "; ".join(f"ejected by {lb}: {reason}" for lb, reason in (row.ejected or {}).items()) or None


def _unplanned(row: Any) -> int:
    return (row.errors or 0) - (row.injected or 0)


COLUMNS = [
    Column(
        "name", "NAME", 0, "`supervisor`, `lb-N` or `worker-N`. A restarted `lb-0` is still `lb-0`, on the same port",
        label="Name",
    ),
    Column("kind", "KIND", 1, "`process`, `container` or `task` (of a swarm)", label="Kind"),
    Column("id", "ID", 3, "the container's or task's short id; for a process its PID", label="Id"),
    Column("pid", "PID", 12, "the PID on this machine", "number"),
    Column("node", "NODE", 1, "with `runtime: swarm`, the machine that runs the task", optional=True),
    Column("port", "PORT", 4, "the port on this machine", "number", "Port"),
    Column(
        "state", "STATE", 0,
        "`starting`, `ready`, `unhealthy`, `backoff`, `stopping` or `stopped`; of the supervisor also `not answering`",
        label="State",
    ),
    Column(
        "health", "HEALTH", 10,
        "what the load balancers find: `ok`, or how many of them send requests to the worker",
    ),
    Column("restarts", "RESTARTS", 1, "restarts after a death since the cluster started", "count", "Restarts"),
    Column("last_exit", "LAST EXIT", 2, "exit code or signal of the previous life", label="Last exit", css="exit"),
    Column("uptime_s", "UPTIME", 2, "time since the start of this life", "span", "Uptime", "uptime"),
    Column("cpu_percent", "CPU", 7, "percent of one core in the last seconds", "percent", "CPU", "cpu"),
    Column("memory_bytes", "MEMORY", 8, "resident memory with all child processes", "bytes", "Memory", "memory"),
    Column("requests_per_s", "REQ/S", 1, "requests per second", "figure", "Requests/s", "rate"),
    Column("errors_per_s", format="figure", label="Errors/s", css="errors"),
    Column("p50_ms", "P50", 11, "median of the latency in the last seconds", "ms", "p50", "p50"),
    Column("p99_ms", "P99", 5, "its 99th percentile", "ms", "p99", "p99"),
    Column("in_flight", "IN FLIGHT", 9, "requests that wait for an answer", "count", "In flight", "flight"),
    Column("requests", format="count", label="Requests"),
    Column("faults", label="Faults"),
    Column(
        "errors", "ERRORS", 9, "errors so far that were not injected, where there are any", "count",
        value=_unplanned, optional=True, style="red",
    ),
    Column(
        "injected", "INJECTED", 10, "errors so far that were injected, where there are any", "count",
        value=lambda row: row.injected or 0, optional=True, style="yellow",
    ),
    Column("reason", "REASON", 0, "why a replica is not ready, where one is not", value=_reason, optional=True),
]  # fmt: skip
"""The columns, in the order of the terminal."""

PAGE = (
    "name", "kind", "id", "state", "port", "uptime_s", "cpu_percent", "memory_bytes", "requests_per_s", "errors_per_s",
    "p50_ms", "p99_ms", "in_flight", "requests", "restarts", "last_exit", "faults",
)  # fmt: skip
"""The order of the page; columns that do not stand here come last."""


def on_page() -> list[Column]:
    """Return the columns of the page, in its order."""
    places = {key: place for place, key in enumerate(PAGE)}
    return sorted((each for each in COLUMNS if each.label), key=lambda each: places.get(each.key, len(places)))
