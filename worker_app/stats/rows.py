"""Renders rows of the database as the JSON of `/worker/stats` (pure).

The format is that of docs/http.md: four keys in this order, each a list of one-key objects, `total` first, then the
workers in order of first start. Total = successful + failed holds in every response, because it is computed here from
one snapshot. Most rows belong to former workers and never change, so the text of a row is cached by its values.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple


class StatsRow(NamedTuple):
    """One worker as `/worker/stats` shows it; `duration_us` is the sum over its counted requests."""

    name: str
    successful: int
    failed: int
    duration_us: int


def checked_count(value: object, row: object, column: str) -> int:
    """Return a count from the database; raise ValueError if it is not one (SQLite stores any value in any column)."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63:
        return value
    raise ValueError(
        f"the row of {str(row)[:60]!r} has {str(value)[:60]!r} in {column}, which is not a count: "
        "repair it with sqlite3, or set all to zero with: python supervisor.py stats --reset"
    )


def rows_from(values: object) -> list[StatsRow]:
    """Return the rows of a database; raise ValueError, which names the first invalid value."""
    if not isinstance(values, list) or not all(isinstance(each, list) and len(each) == 4 for each in values):
        raise ValueError("not rows of statistics")
    return [
        StatsRow(str(name), *map(checked_count, counts, [name] * 3, StatsRow._fields[1:])) for name, *counts in values
    ]


def mean_ms(duration_us: int, requests: int) -> float:
    """Return the mean time in ms, rounded to 0.001; 0 without requests."""
    return round(duration_us / requests / 1000.0, 3) if requests else 0


def render(rows: Sequence[StatsRow]) -> str:
    """Return the compact JSON text of `/worker/stats` for workers in order of first start."""
    total = StatsRow(
        "total",
        sum(row.successful for row in rows),
        sum(row.failed for row in rows),
        sum(row.duration_us for row in rows),
    )
    good, bad, both, mean = zip(*map(_cells, (total, *rows)), strict=True)
    return (
        f'{{"SuccessfulRequests":[{",".join(good)}],"FailedRequests":[{",".join(bad)}],'
        f'"TotalRequests":[{",".join(both)}],"AverageResponseTime":[{",".join(mean)}]}}'
    )


@lru_cache(maxsize=4096)  # up to 1000 former workers, and the latest values of the running ones
def _cells(row: StatsRow) -> tuple[str, str, str, str]:
    """Return a row's entry in each of the four lists."""
    # Formatted by hand: the general encoder takes several times as long, and only names need escaping.
    name = json.dumps(row.name)
    requests = row.successful + row.failed
    return (
        f"{{{name}:{row.successful}}}",
        f"{{{name}:{row.failed}}}",
        f"{{{name}:{requests}}}",
        f"{{{name}:{mean_ms(row.duration_us, requests)}}}",
    )
