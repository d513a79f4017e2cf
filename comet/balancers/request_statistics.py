"""Request statistics of workers that keep none themselves, from the load balancers' counters.

The reports have the shape of the built-in workers' own statistics. The counters are in `.comet/run/` and end with the
cluster; a reset records their present values. A request counts for the worker that answered it: as successful with a
status below 500, else as failed. Its time runs from the complete head at the load balancer to the last byte of the
answer.
"""

import contextlib
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from comet.common.json_values import decode, has_shape
from comet.host import files
from comet.state.directory import Cluster
from comet.telemetry.rates import percentile
from lb.interface.counters import (
    EDGE_ERRORS,
    EDGE_LATENCY,
    EDGE_SLOTS,
    EDGE_US,
    INJECTED,
    INJECTED_SLOTS,
    LATENCY_BUCKETS,
    read_counters,
)

BASELINE = "stats-reset.json"

Edges = dict[str, list[int]]


def report(cluster: Cluster) -> dict[str, Any]:
    """Return the statistics in the shape of the workers' database report: `total`, and `workers` by name."""
    counted = _since_reset(cluster)
    total = [sum(column) for column in zip(*counted.values(), strict=True)] if counted else [0] * EDGE_SLOTS
    return {
        "total": _figures(total),
        "workers": [{"name": name, **_figures(edge)} for name, edge in sorted(counted.items(), key=_by_number)],
    }


def worker_stats(cluster: Cluster) -> dict[str, Any]:
    """Return the statistics in the shape of `/worker/stats`: four lists, `total` first."""
    statistics = report(cluster)
    rows = [("total", statistics["total"]), *((worker["name"], worker) for worker in statistics["workers"])]
    return {
        "SuccessfulRequests": [{name: row["successful"]} for name, row in rows],
        "FailedRequests": [{name: row["failed"]} for name, row in rows],
        "TotalRequests": [{name: row["successful"] + row["failed"]} for name, row in rows],
        "AverageResponseTime": [{name: row["mean_ms"]} for name, row in rows],
    }


def reset(cluster: Cluster) -> None:
    """Reset the statistics: record the counters' present values as the baseline."""
    files.write(cluster.path(BASELINE), json.dumps(_counted(cluster)) + "\n")


def front(cluster: Cluster) -> dict[str, int]:
    """Return how often each fault was injected at the front since the start of the cluster."""
    found = Counter[str]()
    for path in cluster.path("run").glob("lb-*.counters"):
        with contextlib.suppress(OSError, ValueError):
            found.update(read_counters(path).front())
    return {f"front {kind}": count for kind, count in found.items() if count}


def _since_reset(cluster: Cluster) -> Edges:
    counted = _counted(cluster)
    before: Mapping[str, list[int]] = {}
    with contextlib.suppress(OSError, ValueError):
        kept = decode(files.read(cluster.path(BASELINE)))
        before = kept if has_shape(kept, dict[str, list[int]]) else {}
    return {name: _subtract(edge, before.get(name)) for name, edge in counted.items()}


def _subtract(edge: list[int], before: list[int] | None) -> list[int]:
    """Return what was counted since `before`.

    Counters that are smaller than in `before` belong to a later run of the cluster and count in full.
    """
    if (
        before is None
        or len(before) != len(edge)
        or any(now < then for now, then in zip(_growing_slots(edge), _growing_slots(before), strict=True))
    ):
        return edge
    return [now - then for now, then in zip(edge, before, strict=True)]


def _growing_slots(edge: list[int]) -> list[int]:
    return edge[EDGE_ERRORS : EDGE_US + 1]


def _counted(cluster: Cluster) -> Edges:
    """Return the counters of all load balancers by worker, including those of processes that have ended."""
    found: Edges = {}
    for path in cluster.path("run").glob("lb-*.counters"):
        with contextlib.suppress(OSError, ValueError):
            for name, edge in read_counters(path).edges().items():
                if name:
                    known = found.get(name, [0] * EDGE_SLOTS)
                    found[name] = [a + b for a, b in zip(known, edge, strict=True)]
    return found


def _figures(edge: list[int]) -> dict[str, Any]:
    successful, failed = sum(edge[1:5]), edge[5]
    buckets = edge[EDGE_LATENCY : EDGE_LATENCY + LATENCY_BUCKETS]
    injected = [edge[slot] for slot in INJECTED_SLOTS]
    requests = successful + failed
    return {
        "successful": successful,
        "failed": failed,
        "unplanned": 0,
        "disconnected": edge[EDGE_ERRORS],
        "mean_ms": round(edge[EDGE_US] / requests / 1000, 3) if requests else 0,
        "p50_ms": percentile(buckets, 0.5) or 0.0,
        "p99_ms": percentile(buckets, 0.99) or 0.0,
        "injections": {kind: count for kind, count in zip(INJECTED, injected, strict=True) if count},
    }


def _by_number(item: tuple[str, Any]) -> tuple[int, str]:
    number = item[0].rpartition("-")[2]
    return (int(number) if number.isdecimal() else 0, item[0])
