"""Statistics of workers that keep none themselves: what the load balancers counted of each, in the words of the workers' own.

The counters lie in `.comet/run/` and end with the cluster; a reset notes where they stood. A request counts for the worker that
answered it: with a status below 500 as successful, else as failed. Its time runs from the complete head at the load balancer to the last
byte of the answer.
"""

import contextlib
import json
from collections.abc import Mapping
from typing import Any

from comet.cluster import Cluster, write_atomically
from lb.counters import EDGE_ERRORS, EDGE_INJECTED, EDGE_LATENCY, EDGE_SLOTS, EDGE_US, INJECTED, LATENCY_BUCKETS, latency_bound, look

BASELINE = "stats-reset.json"

Edges = dict[str, list[int]]


def report(cluster: Cluster) -> dict[str, Any]:
    """The same shape as the report of the workers' database: `total`, and `workers` by name."""
    counted = _since_reset(cluster)
    whole = [sum(column) for column in zip(*counted.values(), strict=True)] if counted else [0] * EDGE_SLOTS
    return {
        "total": _figures(whole),
        "workers": [{"name": name, **_figures(edge)} for name, edge in sorted(counted.items(), key=_by_number)],
    }


def contract(cluster: Cluster) -> dict[str, Any]:
    """The shape of `/worker/stats`: four lists, `total` first."""
    told = report(cluster)
    rows = [("total", told["total"]), *((worker["name"], worker) for worker in told["workers"])]
    return {
        "SuccessfulRequests": [{name: row["successful"]} for name, row in rows],
        "FailedRequests": [{name: row["failed"]} for name, row in rows],
        "TotalRequests": [{name: row["successful"] + row["failed"]} for name, row in rows],
        "AverageResponseTime": [{name: row["mean_ms"]} for name, row in rows],
    }


def reset(cluster: Cluster) -> None:
    """Begin anew from here."""
    write_atomically(cluster.path(BASELINE), json.dumps(_counted(cluster)) + "\n")


def _since_reset(cluster: Cluster) -> Edges:
    counted = _counted(cluster)
    before: Mapping[str, list[int]] = {}
    with contextlib.suppress(OSError, ValueError):
        before = json.loads(cluster.path(BASELINE).read_text())
    return {name: _less(edge, before.get(name)) for name, edge in counted.items()}


def _less(edge: list[int], before: list[int] | None) -> list[int]:
    """Counted since; counters that are smaller than they were belong to a later life of the cluster."""
    if before is None or len(before) != len(edge) or any(now < then for now, then in zip(_counting(edge), _counting(before), strict=True)):
        return edge
    return [now - then for now, then in zip(edge, before, strict=True)]


def _counting(edge: list[int]) -> list[int]:
    return edge[EDGE_ERRORS : EDGE_US + 1]


def _counted(cluster: Cluster) -> Edges:
    """Every load balancer's counters, those of former processes too, by worker."""
    found: Edges = {}
    for path in cluster.path("run").glob("lb-*.counters"):
        with contextlib.suppress(OSError, ValueError):
            for name, edge in look(path).edges().items():
                if name:
                    known = found.get(name, [0] * EDGE_SLOTS)
                    found[name] = [a + b for a, b in zip(known, edge, strict=True)]
    return found


def _figures(edge: list[int]) -> dict[str, Any]:
    successful, failed = sum(edge[1:5]), edge[5]
    buckets = edge[EDGE_LATENCY : EDGE_LATENCY + LATENCY_BUCKETS]
    requests = successful + failed
    return {
        "successful": successful,
        "failed": failed,
        "unplanned": 0,
        "disconnected": edge[EDGE_ERRORS],
        "mean_ms": round(edge[EDGE_US] / requests / 1000, 3) if requests else 0,
        "p50_ms": _percentile(buckets, 50),
        "p99_ms": _percentile(buckets, 99),
        "injections": {kind: count for kind, count in zip(INJECTED, edge[EDGE_INJECTED:], strict=True) if count},
    }


def _percentile(buckets: list[int], percent: float) -> float:
    """The upper edge, in ms, of the bucket that holds it (the last has none: its lower one); 0 of nothing."""
    wanted, seen = sum(buckets) * percent / 100, 0
    for number, count in enumerate(buckets):
        seen += count
        if count and seen >= wanted:
            return round(latency_bound(min(number, LATENCY_BUCKETS - 2)) * 1000, 3)
    return 0.0


def _by_number(item: tuple[str, Any]) -> tuple[int, str]:
    number = item[0].rpartition("-")[2]
    return (int(number) if number.isdigit() else 0, item[0])
