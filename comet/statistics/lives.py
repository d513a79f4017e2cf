"""Adds up the statistics of a worker's lives.

The database has a row per life: a new container or process has a new id. The journal says which replica had which id.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from comet.reconcile.replica import number_of, public_name

COUNTS = ("successful", "failed", "unplanned", "disconnected")

LAST_BOUND_MS = 100 * 2 ** (94 / 4) / 1000
"""What stands for the latency bucket without an upper bound: its lower one."""

Lives = dict[str, list[str]]
"""The replicas that have had an id, in order: PIDs are used again."""


def lives(records: Iterable[Mapping[str, Any]]) -> Lives:
    """Return which workers have had which ids, by the journal."""
    found: Lives = {}
    for record in records:
        name, identity = record.get("replica"), record.get("id")
        if record.get("event") not in ("replica_ready", "adopted", "replica_moved") or not name or not identity:
            continue
        former = found.setdefault(str(identity), [])
        # A PID, unlike a container's id, is used again.
        is_new = record["event"] == "replica_ready" and str(identity).isdigit()
        if is_new or public_name(name) not in former:
            former.append(public_name(name))
    return found


def folded(report: Mapping[str, Any], known: Lives) -> dict[str, Any]:
    """Return the report with one entry per worker; rows of unknown origin keep their names and come last."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in report["workers"]:
        groups.setdefault(_worker(row["name"], known) or row["name"], []).append(row)
    names = {name for of in known.values() for name in of}
    ordered = sorted(groups, key=lambda name: (name not in names, number_of(name) if name in names else 0))
    return {**report, "workers": [_sum(name, groups[name]) for name in ordered]}


def _worker(row: str, known: Lives) -> str | None:
    """Return the worker whose life a row is: `17.2` is the second one that had the PID 17."""
    identity, _, number = row.partition(".")
    names = known.get(identity)
    return names[min(int(number or 1), len(names)) - 1] if names and (number or "1").isdecimal() else None


def _sum(name: str, rows: list[Mapping[str, Any]]) -> dict[str, Any]:
    if len(rows) == 1:
        return {**rows[0], "name": name, "lives": 1}
    summed = {count: sum(row[count] for row in rows) for count in COUNTS}
    requests = [row["successful"] + row["failed"] for row in rows]
    spent = sum(row["mean_ms"] * number for row, number in zip(rows, requests, strict=True))
    buckets: dict[float, int] = {}
    injections: dict[str, int] = {}
    for row in rows:
        for bound, number in row["latency"]:
            key = LAST_BOUND_MS if bound is None else bound
            buckets[key] = buckets.get(key, 0) + number
        for kind, number in row["injections"].items():
            injections[kind] = injections.get(kind, 0) + number
    return {
        "name": name,
        "lives": len(rows),
        **summed,
        "mean_ms": spent / sum(requests) if any(requests) else 0.0,
        "p50_ms": _percentile(buckets, 50),
        "p99_ms": _percentile(buckets, 99),
        "injections": injections,
    }


def _percentile(buckets: Mapping[float, int], percent: int) -> float:
    """Return the upper bound of the bucket with this percentile; 0 without samples."""
    wanted, seen = max(1, -(-sum(buckets.values()) * percent // 100)), 0
    for bound in sorted(buckets):
        seen += buckets[bound]
        if seen >= wanted:
            return bound
    return 0.0
