"""The list of replicas as rows of an HTML table: what the page shows before its script runs, and all it shows without one. Pure."""

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from comet.events import exit_text

PLACE = "<!--rows-->"
"""Where the page wants its rows."""

NONE = "-"
NUMERIC = ("port", "uptime_s", "cpu_percent", "memory_bytes", "requests_per_s", "p50_ms", "p99_ms", "in_flight", "requests", "restarts")
COLUMNS = ("name", "kind", "id", "state", *NUMERIC, "last_exit")


def fill(page: str, replicas: Iterable[Mapping[str, Any]]) -> str:
    """The page with a row for each replica of `ps --json`."""
    return page.replace(PLACE, "".join(_row(replica) for replica in replicas), 1)


def _row(replica: Mapping[str, Any]) -> str:
    cells = "".join(f"<td{' class=n' if key in NUMERIC else ''}>{escape(_told(key, replica.get(key)))}</td>" for key in COLUMNS[1:])
    return f'<tr><th scope="row">{escape(str(replica["name"]))}</th>{cells}<td class="js"></td></tr>\n'


def _told(key: str, value: Any) -> str:
    if value is None:
        return NONE
    match key:
        case "last_exit":
            return exit_text(value["code"], value["signal"], value["oom"])
        case "memory_bytes":
            return f"{value / 2**20:.0f} MiB"
        case "uptime_s":
            return f"{value:.0f} s"
        case "cpu_percent":
            return f"{value:g} %"
        case "p50_ms" | "p99_ms":
            return f"{value:.1f} ms"
        case "requests_per_s":
            return f"{value:.1f}"
    return str(value)
