"""What the load balancers counted, read from their files in `.comet/run/` as `comet.rates` wants it.

A load balancer and its successor write two files in turn (SLOTS): their sum is what was counted under the name. Gauges are read only
from files that somebody writes now: those of a process that was killed stay as they were.
"""

import contextlib
from collections.abc import Collection, Iterable, Mapping

from comet.cluster import Cluster
from comet.rates import Counted, Look, look
from lb import counters
from lb.counters import EDGE_ERRORS, EDGE_IN_FLIGHT, EDGE_LATENCY, EDGE_US, FIELDS, LATENCY, LATENCY_BUCKETS, RESPONSES

SLOTS = ("a", "b")
"""A load balancer and its successor live side by side for a while: each writes counters of its own."""

_LATENCIES = slice(EDGE_LATENCY, EDGE_LATENCY + LATENCY_BUCKETS)
_INDEX = {name: FIELDS.index(name) for name in ("requests", "retries", "latency_us", "in_flight", "queued", "connections")}


def names(cluster: Cluster) -> list[str]:
    """The load balancers that have counted something, also those that are no more."""
    return sorted({path.name.partition(".")[0] for path in cluster.path("run").glob("lb-*.counters")})


def read(cluster: Cluster, names: Iterable[str], writing: Collection[str], now: float) -> Look:
    """A look at all that the load balancers of these names counted; `writing` are the files that have a writer."""
    balancers: dict[str, Counted] = {}
    edges: dict[tuple[str, str], Counted] = {}
    for name in names:
        found = Counted()
        for slot in SLOTS:
            file = f"{name}.{slot}.counters"
            with contextlib.suppress(OSError, ValueError):
                reading = counters.look(cluster.path("run", file))
                blocks = reading.edges()
                found += _of_lb(reading.own, blocks, live=file in writing)
                for worker, block in blocks.items():
                    if worker:
                        edges[name, worker] = edges.get((name, worker), Counted()) + _of_edge(block, live=file in writing)
        balancers[name] = found
    return look(now, balancers, edges)


def _of_lb(own: memoryview, blocks: Mapping[str, list[int]], live: bool) -> Counted:
    summed = [sum(column) for column in zip(*blocks.values(), strict=True)]
    responses = tuple(own[RESPONSES + digit] + summed[digit] for digit in range(1, 6))
    gauges = {name: own[_INDEX[name]] if live else 0 for name in ("in_flight", "queued", "connections")}
    return Counted(
        requests=own[_INDEX["requests"]],
        responses=responses,
        errors=responses[4],
        retries=own[_INDEX["retries"]],
        latency=tuple(own[LATENCY + bucket] + count for bucket, count in enumerate(summed[_LATENCIES])),
        latency_us=own[_INDEX["latency_us"]] + summed[EDGE_US],
        **gauges,
    )


def _of_edge(block: list[int], live: bool) -> Counted:
    responses = tuple(block[1:6])
    return Counted(
        requests=sum(responses[1:]) + block[EDGE_ERRORS],
        responses=responses,
        errors=responses[4] + block[EDGE_ERRORS],
        latency=tuple(block[_LATENCIES]),
        latency_us=block[EDGE_US],
        in_flight=block[EDGE_IN_FLIGHT] if live else 0,
    )
