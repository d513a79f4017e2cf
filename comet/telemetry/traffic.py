"""Reads the load balancers' counters from their files in `.comet/run/` for `comet.telemetry.rates`.

A load balancer and its successor write two files in turn (SLOTS): their sum is the count of that name. Gauges are read
only from files that have a writer now: those of a process that was killed keep their last values.
"""

import contextlib
from collections.abc import Collection, Iterable, Mapping

from comet.state.directory import Cluster
from comet.telemetry.rates import Counted, Reading, make_reading
from fault_rules import FRONT_COUNTED
from lb.interface import counters
from lb.interface.counters import (
    EDGE_ERRORS,
    EDGE_IN_FLIGHT,
    EDGE_INJECTED_ERRORS,
    EDGE_INJECTED_RESPONSES,
    EDGE_LATENCY,
    EDGE_US,
    FIELDS,
    GAUGES,
    LATENCY,
    LATENCY_BUCKETS,
    RESPONSES,
)

SLOTS = ("a", "b")
"""The two counter files of a name: a load balancer and its successor run alongside for a while, each with its own."""

_LATENCIES = slice(EDGE_LATENCY, EDGE_LATENCY + LATENCY_BUCKETS)
_INDEX = {name: FIELDS.index(name) for name in Counted.__slots__ if name in FIELDS}
"""The slots of the counts that the file has under the same name."""


def names(cluster: Cluster) -> list[str]:
    """Return the load balancers that have counted something, including those that no longer exist."""
    return sorted({path.name.partition(".")[0] for path in cluster.path("run").glob("lb-*.counters")})


def read(cluster: Cluster, names: Iterable[str], live_files: Collection[str], now: float) -> Reading:
    """Return a reading of the counts of these load balancers; `live_files` are the files that have a writer."""
    balancers: dict[str, Counted] = {}
    edges: dict[tuple[str, str], Counted] = {}
    for name in names:
        counts = Counted()
        for slot in SLOTS:
            file = f"{name}.{slot}.counters"
            with contextlib.suppress(OSError, ValueError):
                file_counts = counters.read_counters(cluster.socket_address(file))
                blocks = file_counts.edges()
                front = tuple(file_counts.front().get(kind, 0) for kind in FRONT_COUNTED)
                counts += _lb_counts(file_counts.own, blocks, front, live=file in live_files)
                for worker, block in blocks.items():
                    if worker:
                        counted, former = _edge_counts(block, live=file in live_files), edges.get((name, worker))
                        edges[name, worker] = counted if former is None else former + counted
        balancers[name] = counts
    return make_reading(now, balancers, edges)


def _lb_counts(own: memoryview, blocks: Mapping[str, list[int]], front: tuple[int, ...], live: bool) -> Counted:
    summed = [sum(column) for column in zip(*blocks.values(), strict=True)]
    responses = tuple(own[RESPONSES + digit] + summed[digit] for digit in range(1, 6))
    same = {name: own[slot] if live or name not in GAUGES else 0 for name, slot in _INDEX.items()}
    summed_up = {
        "responses": responses,
        "errors": responses[4],
        "injected": summed[EDGE_INJECTED_RESPONSES],
        "front_injected": front,
        "latency": tuple(own[LATENCY + bucket] + count for bucket, count in enumerate(summed[_LATENCIES])),
        "latency_us": same["latency_us"] + summed[EDGE_US],
    }
    return Counted(**(same | summed_up))


def _edge_counts(block: list[int], live: bool) -> Counted:
    responses = tuple(block[1:6])
    return Counted(
        requests=sum(responses[1:]) + block[EDGE_ERRORS],
        responses=responses,
        errors=responses[4] + block[EDGE_ERRORS],
        injected=block[EDGE_INJECTED_RESPONSES] + block[EDGE_INJECTED_ERRORS],
        latency=tuple(block[_LATENCIES]),
        latency_us=block[EDGE_US],
        in_flight=block[EDGE_IN_FLIGHT] if live else 0,
    )
