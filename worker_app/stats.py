"""Rows of the database -> the JSON of `/worker/stats` (pure).

The shape is the contract's: four keys in this order, each a list of one-key objects, `total` first, then the workers in order
of first start. Total = successful + failed holds in every answer because it is computed here, from one snapshot. Most rows are
those of former workers and never change again: the text of a row is made once per value.
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


def mean_ms(duration_us: int, requests: int) -> float:
    """Mean time in ms to a thousandth; 0 without requests."""
    return round(duration_us / requests / 1000.0, 3) if requests else 0


def render(rows: Sequence[StatsRow]) -> str:
    """The compact JSON text of `/worker/stats` for workers in order of first start."""
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


@lru_cache(maxsize=4096)  # a thousand former workers, and the living ones' last values
def _cells(row: StatsRow) -> tuple[str, str, str, str]:
    """A row's place in each of the four lists."""
    # Text by hand: the general encoder takes several times as long, and nothing here but names needs escaping.
    name = json.dumps(row.name)
    requests = row.successful + row.failed
    return (
        f"{{{name}:{row.successful}}}",
        f"{{{name}:{row.failed}}}",
        f"{{{name}:{requests}}}",
        f"{{{name}:{mean_ms(row.duration_us, requests)}}}",
    )
