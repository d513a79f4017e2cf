"""Renders the state of the cluster as metrics, with Prometheus's own client library.

Names follow https://prometheus.io/docs/practices/naming/: base units (seconds, bytes), `_total` for what only grows.
Counts come from the load balancers' files and from `comet.events.checkpoint`, which outlive their writers: they never
decrease while a cluster runs, whichever supervisor it has. After a `stop` a new `run` starts at zero, which Prometheus
treats as a restart. Histograms have the bounds of `comet.telemetry.rates` and `comet.events.restart_history`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from math import inf
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from comet.events.restart_history import REASONS
from comet.telemetry.snapshot import FleetSnapshot, Row

COUNTER, GAUGE, HISTOGRAM = CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
STATES = ("starting", "ready", "unhealthy", "backoff", "stopping", "stopped")

Source = Callable[[], tuple[FleetSnapshot, dict[str, Any]] | None]


def renderer(source: Source) -> Callable[[], bytes]:
    """Return a function that renders the current state in Prometheus's text format."""
    registry = CollectorRegistry()
    registry.register(SnapshotCollector(source))
    return lambda: generate_latest(registry)


@dataclass(frozen=True)
class Metric:
    """One metric: what its samples are of (see `_things`), and the value of each: a field, or what a function reads.

    A value of None gives no sample. With a `label`, the value maps its values to numbers; a histogram's is its counts
    below each bound and its sum.
    """

    name: str
    help: str
    of: str
    value: str | Callable[[Any], Any]
    family: type[Family] = GAUGE
    label: str = ""


def _ratio(percent: float | None) -> float | None:
    return None if percent is None else percent / 100


def _latencies(row: Row) -> tuple[list[int], float] | None:
    return None if row.latency_counts is None else (row.latency_counts, row.latency_sum_s or 0.0)


METRICS = [
    Metric(
        "comet_supervisor_uptime_seconds", "Time since the supervisor's start.", "supervisor",
        lambda it: it.uptime_s or 0,
    ),
    Metric("comet_supervisor_memory_bytes", "Resident memory of the supervisor.", "supervisor", "memory_bytes"),
    Metric(
        "comet_supervisor_cpu_ratio", "Share of one core that the supervisor used in the last seconds.", "supervisor",
        lambda it: _ratio(it.cpu_percent),
    ),
    Metric(
        "comet_replica_state", "1 for the replica's current state, 0 for the others.", "replica of a kind",
        lambda row: {state: row.state == state for state in STATES}, label="state",
    ),
    Metric("comet_replica_uptime_seconds", "Time since the start of the current instance.", "replica", "uptime_s"),
    Metric("comet_replica_memory_bytes", "Resident memory of the process tree.", "replica", "memory_bytes"),
    Metric(
        "comet_replica_cpu_ratio", "Share of one core since the previous measurement.", "replica",
        lambda row: _ratio(row.cpu_percent),
    ),
    Metric("comet_paused", "Whether requests wait by the order `pause`.", "total", "paused"),
    Metric(
        "comet_front_injected_faults", "Faults injected at the front.", "total", "front_injected", COUNTER, "fault",
    ),
    Metric("comet_lb_requests", "Requests accepted.", "lb", "requests", COUNTER),
    Metric("comet_lb_responses", "Responses by status class.", "lb", "responses", COUNTER, "code"),
    Metric("comet_lb_retries", "Requests sent to another worker after a failed attempt.", "lb", "retries", COUNTER),
    Metric("comet_lb_injected_errors", "Responses with 5xx because of an injected fault.", "lb", "injected", COUNTER),
    Metric("comet_lb_in_flight", "Requests in flight.", "lb", "in_flight"),
    Metric("comet_lb_queue_length", "Requests that wait for a worker below its limit.", "lb", "queued"),
    Metric("comet_lb_connections", "Client connections.", "lb", "connections"),
    Metric("comet_lb_tunnels", "Upgraded connections, such as WebSockets.", "lb", "tunnels"),
    Metric(
        "comet_lb_request_duration_seconds", "Time from a request's complete head to the last byte of its response.",
        "lb", _latencies, HISTOGRAM,
    ),
    Metric("comet_worker_responses", "Responses by status class.", "worker", "responses", COUNTER, "code"),
    Metric("comet_worker_errors", "Responses with 5xx, and failed attempts.", "worker", "errors", COUNTER),
    Metric(
        "comet_worker_injected_errors", "Those errors that an injected fault caused.", "worker", "injected", COUNTER,
    ),
    Metric("comet_worker_in_flight", "Requests in flight.", "worker", "in_flight"),
    Metric("comet_worker_drained", "Whether an operator has drained this worker.", "worker", "drained"),
    Metric(
        "comet_worker_request_duration_seconds",
        "Request duration, measured by the load balancers, of the requests that this worker answered.", "worker",
        _latencies, HISTOGRAM,
    ),
    Metric(
        "comet_edge_healthy", "Whether a load balancer sends requests to a worker, unless that is drained.", "edge",
        "healthy",
    ),
    Metric("comet_edge_ejected", "Whether a load balancer has ejected a worker for its answers.", "edge", "ejected"),
    Metric("comet_edge_in_flight", "Requests in flight from a load balancer to a worker.", "edge", "in_flight"),
    Metric("comet_edge_requests", "Requests sent by a load balancer to a worker.", "edge", "requests", COUNTER),
    Metric("comet_edge_errors", "Requests answered with 5xx, and failed attempts.", "edge", "errors", COUNTER),
    Metric("comet_edge_injected_errors", "Those errors that an injected fault caused.", "edge", "injected", COUNTER),
]  # fmt: skip
"""The metrics that are read from a snapshot."""


def _things(snapshot: FleetSnapshot, of: str) -> tuple[tuple[str, ...], list[tuple[Any, tuple[str, ...]]]]:
    """Return what the samples of a metric are of: the names of its labels, and each thing with its labels."""
    rows = snapshot.replicas
    match of:
        case "supervisor":
            return (), [(snapshot.supervisor, ())]
        case "total":
            return (), [(snapshot.total, ())]
        case "edge":
            return ("lb", "worker"), [(edge, (edge.lb, edge.worker)) for edge in snapshot.edges]
        case "replica":
            return ("replica", "role"), [(row, (row.name, row.role)) for row in rows]
        case "replica of a kind":
            return ("replica", "role", "kind"), [(row, (row.name, row.role, row.kind)) for row in rows]
    return (of,), [(row, (row.name,)) for row in rows if row.role == of]


class SnapshotCollector(Collector):
    """Collects all metrics from one snapshot; while there is none, the only metric is `comet_up` with 0."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def describe(self) -> list[Family]:
        return []

    def collect(self) -> Iterator[Family]:
        found = self._source()
        yield GAUGE("comet_up", "Whether the supervisor shows a cluster.", value=float(found is not None))
        if found is None:
            return
        snapshot, state = found
        yield InfoMetricFamily("comet_build", "The running version.", {"version": snapshot.supervisor.version})
        for metric in METRICS:
            family = _filled(metric, snapshot, state["latency_bounds_s"])
            if family.samples or metric.of != "supervisor":
                yield family
        yield from _recoveries(snapshot.replicas, state["recoveries"])


def _filled(metric: Metric, snapshot: FleetSnapshot, bounds: list[float]) -> Any:
    names, things = _things(snapshot, metric.of)
    make: Any = metric.family
    family = make(metric.name, metric.help, labels=(*names, metric.label) if metric.label else names)
    for thing, labels in things:
        value = getattr(thing, metric.value) if isinstance(metric.value, str) else metric.value(thing)
        if value is None:
            continue
        if metric.label:
            for each, number in value.items():
                family.add_metric((*labels, each), float(number))
        elif metric.family is HISTOGRAM:
            family.add_metric(labels, _buckets(value[0], bounds), value[1])
        else:
            family.add_metric(labels, float(value))
    return family


def _recoveries(rows: Iterable[Row], state: Mapping[str, Any]) -> Iterator[Family]:
    """Yield restarts and recovery times, including those of replicas that never died.

    Prometheus sees no increase in a count that first appears as 1.
    """
    listed = list(rows)
    restarts = COUNTER("comet_replica_restarts", "Restarts after a death, by reason.", labels=("replica", "reason"))
    for name in dict.fromkeys([*(row.name for row in listed), *state["restarts"]]):
        reasons = state["restarts"].get(name, {})
        for reason in dict.fromkeys([*REASONS, *reasons]):
            restarts.add_metric((name, reason), reasons.get(reason, 0))
    yield restarts
    times = HISTOGRAM("comet_recovery_duration_seconds", "Time from death to ready.", labels=("kind",))
    none = {"counts": [0] * (len(state["bounds_s"]) + 1), "sum_s": 0.0}
    for kind in dict.fromkeys([*(row.kind for row in listed), *state["times"]]):
        each = state["times"].get(kind, none)
        times.add_metric((kind,), _buckets(each["counts"], state["bounds_s"]), each["sum_s"])
    yield times


def _buckets(counts: Iterable[int], bounds: Iterable[float]) -> list[tuple[str, float]]:
    """Return cumulative buckets, as Prometheus requires."""
    return [
        ("+Inf" if bound == inf else repr(bound), float(count))
        for bound, count in zip((*bounds, inf), accumulate(counts), strict=True)
    ]
