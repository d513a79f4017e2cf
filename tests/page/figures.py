"""The list of replicas as the page shows it, held against `ps --json`: every column, within what its rounding and its
age allow.

What the page shows was true a moment ago, what `ps` says is true now: of figures that move, both are of about the same
seconds only.
"""

import re
from collections.abc import Callable
from typing import Any

from playwright.sync_api import Page

COLUMNS = (
    "Name", "Kind", "Id", "State", "Port", "Uptime", "CPU", "Memory", "Requests/s", "Errors/s", "p50", "p99",
    "In flight", "Requests", "Restarts", "Last exit", "Faults",
)  # fmt: skip
UNKNOWN = ("\N{EN DASH}", "-")
UNITS = {
    "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "ms": 1, "%": 1, "": 1,
    "s": 1, "m": 60, "h": 3600, "d": 86400,
}  # fmt: skip


KEEP_ANSWERS = """
const json = Response.prototype.json;
Response.prototype.json = async function () {
    const data = await json.call(this);
    if (this.url.endsWith("/api/v1/cluster")) [window.answer, window.answeredAt] = [data, performance.now()];
    return data;
};
"""
"""Keep what the page was last answered; it is drawn before any other task of the browser runs."""

PICTURE = """() => ({
    answer: window.answer, age: (performance.now() - window.answeredAt) / 1000 + (window.answer?.silent_s ?? 0),
    rows: [...document.querySelectorAll("#rows tr")].map(row => [...row.children].map(cell => cell.innerText.trim())),
    workers: [...document.querySelectorAll("#flow .node")].map(node => node.dataset.key),
})"""
"""What is drawn, and the answer that it is drawn from, at one moment."""


def shown(page: Page) -> dict[str, dict[str, str]]:
    """By name: each cell's text under its column's heading."""
    heads = page.eval_on_selector_all("section.list thead th", "cells => cells.map(cell => cell.textContent.trim())")
    assert tuple(heads[: len(COLUMNS)]) == COLUMNS
    rows = page.eval_on_selector_all(
        "#rows tr", "rows => rows.map(row => [...row.children].map(cell => cell.innerText.trim()))"
    )
    return by_name(rows)


def by_name(rows: list[list[str]]) -> dict[str, dict[str, str]]:
    return {row[0]: dict(zip(COLUMNS, row[: len(COLUMNS)], strict=True)) for row in rows}


def number(text: str) -> float | None:
    """The figure of a cell, in seconds, bytes or as it stands; of latencies (`ms`) see `latency`."""
    if text in UNKNOWN:
        return None
    parts = re.findall(r"<?([0-9][0-9.,]*)\s*([A-Za-z%]*)", text)
    assert parts, text
    return sum(float(value.replace(",", "")) * UNITS[unit] for value, unit in parts)


def latency(text: str) -> float | None:
    """In milliseconds."""
    value = number(text)
    return None if value is None else value * (1 if text.endswith("ms") else 1000)


def exit_text(last: dict[str, Any] | None) -> str:
    if last is None:
        return "none"
    return (last["signal"] or f"exit {last['code']}") + (" (out of memory)" if last["oom"] else "")


def near(share: float, absolute: float) -> Callable[[float, float], bool]:
    return lambda seen, true: abs(seen - true) <= absolute + share * abs(true)


TEXTS: dict[str, Callable[[dict[str, Any]], str]] = {
    "Kind": lambda row: row["kind"],
    "Id": lambda row: row["id"],
    "State": lambda row: row["state"],
    "Port": lambda row: str(row["port"]),
    "Restarts": lambda row: str(row["restarts"]),
    "Last exit": lambda row: exit_text(row["last_exit"]),
}
NUMBERS: dict[str, tuple[str, Callable[[str], float | None], Callable[[float, float], bool]]] = {
    "Uptime": ("uptime_s", number, near(0, 4)),
    "CPU": ("cpu_percent", number, near(0.5, 4)),
    "Memory": ("memory_bytes", number, near(0.05, 0)),
    "Requests/s": ("requests_per_s", number, near(0.1, 0.6)),
    "Errors/s": ("errors_per_s", number, near(0.1, 0.6)),
    "p50": ("p50_ms", latency, near(0.2, 0.6)),
    "p99": ("p99_ms", latency, near(0.4, 0.6)),
    "In flight": ("in_flight", number, near(0, 0)),
    "Requests": ("requests", number, near(0, 0)),
}
"""By column: the key of `ps --json`, how the cell is read, and whether two values are the same."""


def differences(cells: dict[str, dict[str, str]], listed: dict[str, dict[str, Any]], moving: float = 0) -> list[str]:
    """What the page tells otherwise than `ps` does. `moving`: by how many requests the two may differ while there are
    some.
    """
    if list(cells) != list(listed):
        return [f"the page lists {list(cells)}, ps {list(listed)}"]
    told = []
    for name, row in listed.items():
        for column, text in TEXTS.items():
            seen = "none" if column == "Last exit" and cells[name][column] in UNKNOWN else cells[name][column]
            if seen != text(row):
                told.append(f"{name} {column}: {seen!r}, ps says {text(row)!r}")
        for column, (key, read, same) in NUMBERS.items():
            if moving and column in ("Requests", "In flight"):
                same = near(0, moving)
            seen_value, true = read(cells[name][column]), row[key]
            agreed = same(seen_value, true) if seen_value is not None and true is not None else seen_value is true
            if not agreed:
                told.append(f"{name} {column}: {cells[name][column]!r}, ps says {true!r}")
    return told
