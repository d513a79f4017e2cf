"""The metrics for Prometheus: one more rendering of the picture, by Prometheus's own client library.

Names follow https://prometheus.io/docs/practices/naming/: base units (seconds, bytes), `_total` for what only grows. Counts come from
the load balancers' files and from `comet.checkpoint`, which outlive their writers: they never go back while a cluster runs, whichever
supervisor it has. After a `stop` a new `run` begins at zero, which Prometheus takes for a restart. Histograms carry the bounds of
`comet.rates` and `comet.recoveries`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from math import inf
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from comet.recoveries import REASONS
from comet.snapshot import FleetSnapshot, Row, SupervisorRow

STATES = ("starting", "ready", "unhealthy", "backoff", "stopping", "stopped")

Source = Callable[[], tuple[FleetSnapshot, dict[str, Any]] | None]


def renderer(source: Source) -> Callable[[], bytes]:
    """What renders the present picture in Prometheus's text format."""
    registry = CollectorRegistry()
    registry.register(SnapshotCollector(source))
    return lambda: generate_latest(registry)


class SnapshotCollector(Collector):
    """Reads everything from one picture. `comet_up` is 0, and all that is told, while there is none."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        seen = self._source()
        yield GaugeMetricFamily("comet_up", "Whether the supervisor shows a cluster.", value=float(seen is not None))
        if seen is None:
            return
        snapshot, told = seen
        yield InfoMetricFamily("comet_build", "The version that runs.", {"version": snapshot.supervisor.version})
        yield from _supervisor(snapshot.supervisor)
        yield from _replicas(snapshot.replicas)
        yield from _balancers([row for row in snapshot.replicas if row.role == "lb"], told["latency_bounds_s"])
        yield from _workers([row for row in snapshot.replicas if row.role == "worker"], told["latency_bounds_s"])
        yield from _edges(snapshot)
        yield from _recoveries(snapshot.replicas, told["recoveries"])


def _supervisor(me: SupervisorRow) -> Iterator[Metric]:
    yield GaugeMetricFamily("comet_supervisor_uptime_seconds", "Time since its start.", value=me.uptime_s or 0.0)
    if me.memory_bytes is not None:
        yield GaugeMetricFamily("comet_supervisor_memory_bytes", "Resident memory of the supervisor itself.", value=me.memory_bytes)
    ratio = _ratio(me.cpu_percent)
    if ratio is not None:
        yield GaugeMetricFamily("comet_supervisor_cpu_ratio", "Its share of one core in the last seconds.", value=ratio)


def _replicas(rows: Iterable[Row]) -> Iterator[Metric]:
    listed = list(rows)
    state = GaugeMetricFamily("comet_replica_state", "1 for the state that a replica is in.", labels=("replica", "role", "kind", "state"))
    for row in listed:
        for name in STATES:
            state.add_metric((row.name, row.role, row.kind, name), float(row.state == name))
    yield state
    gauges: list[tuple[str, str, Callable[[Row], float | None]]] = [
        ("comet_replica_uptime_seconds", "Time since the start of the present instance.", lambda row: row.uptime_s),
        ("comet_replica_memory_bytes", "Resident memory of the process tree.", lambda row: row.memory_bytes),
        ("comet_replica_cpu_ratio", "Share of one core since the last look.", lambda row: _ratio(row.cpu_percent)),
    ]
    for name, help, value in gauges:
        yield _per_replica(GaugeMetricFamily(name, help, labels=("replica", "role")), listed, value, lambda row: (row.name, row.role))


def _balancers(rows: list[Row], bounds: list[float]) -> Iterator[Metric]:
    yield _per_replica(CounterMetricFamily("comet_lb_requests", "Requests taken.", labels=("lb",)), rows, lambda row: row.requests)
    yield _answers(CounterMetricFamily("comet_lb_responses", "Answers given, by status class.", labels=("lb", "code")), rows)
    yield _per_replica(
        CounterMetricFamily("comet_lb_retries", "Requests sent to one more worker.", labels=("lb",)), rows, lambda row: row.retries
    )
    gauges: list[tuple[str, str, Callable[[Row], float | None]]] = [
        ("comet_lb_in_flight", "Requests being worked on.", lambda row: row.in_flight),
        ("comet_lb_queue_length", "Requests that wait for a worker with room.", lambda row: row.queued),
        ("comet_lb_connections", "Connections of clients.", lambda row: row.connections),
    ]
    for name, help, value in gauges:
        yield _per_replica(GaugeMetricFamily(name, help, labels=("lb",)), rows, value)
    help = "Time from a request's complete head to the last byte of its answer."
    yield _latency(HistogramMetricFamily("comet_lb_request_duration_seconds", help, labels=("lb",)), rows, bounds)


def _workers(rows: list[Row], bounds: list[float]) -> Iterator[Metric]:
    yield _answers(CounterMetricFamily("comet_worker_responses", "Answers by status class.", labels=("worker", "code")), rows)
    yield _per_replica(
        CounterMetricFamily("comet_worker_errors", "Answers of 5xx and attempts that broke.", labels=("worker",)),
        rows,
        lambda row: row.errors,
    )
    yield _per_replica(
        GaugeMetricFamily("comet_worker_in_flight", "Requests being worked on.", labels=("worker",)), rows, lambda row: row.in_flight
    )
    help = "The load balancers' time of the requests that this worker answered."
    yield _latency(HistogramMetricFamily("comet_worker_request_duration_seconds", help, labels=("worker",)), rows, bounds)


def _edges(snapshot: FleetSnapshot) -> Iterator[Metric]:
    healthy = GaugeMetricFamily("comet_edge_healthy", "Whether a load balancer may use a worker.", labels=("lb", "worker"))
    in_flight = GaugeMetricFamily("comet_edge_in_flight", "Requests of a load balancer at a worker.", labels=("lb", "worker"))
    requests = CounterMetricFamily("comet_edge_requests", "Requests sent by a load balancer to a worker.", labels=("lb", "worker"))
    errors = CounterMetricFamily("comet_edge_errors", "Those answered with 5xx, or broken.", labels=("lb", "worker"))
    for edge in snapshot.edges:
        labels = (edge.lb, edge.worker)
        healthy.add_metric(labels, float(edge.healthy))
        in_flight.add_metric(labels, edge.in_flight)
        requests.add_metric(labels, edge.requests)
        errors.add_metric(labels, edge.errors)
    return iter((healthy, in_flight, requests, errors))


def _recoveries(rows: Iterable[Row], told: Mapping[str, Any]) -> Iterator[Metric]:
    """Of those that never died as well: of a count that appears as 1 Prometheus sees no increase."""
    listed = list(rows)
    restarts = CounterMetricFamily("comet_replica_restarts", "Restarts after a death, by its reason.", labels=("replica", "reason"))
    for name in dict.fromkeys([*(row.name for row in listed), *told["restarts"]]):
        reasons = told["restarts"].get(name, {})
        for reason in dict.fromkeys([*REASONS, *reasons]):
            restarts.add_metric((name, reason), reasons.get(reason, 0))
    yield restarts
    times = HistogramMetricFamily("comet_recovery_duration_seconds", "Time from death to ready.", labels=("kind",))
    none = {"counts": [0] * (len(told["bounds_s"]) + 1), "sum_s": 0.0}
    for kind in dict.fromkeys([*(row.kind for row in listed), *told["times"]]):
        each = told["times"].get(kind, none)
        times.add_metric((kind,), _buckets(each["counts"], told["bounds_s"]), each["sum_s"])
    yield times


def _per_replica(
    family: Any,
    rows: Iterable[Row],
    value: Callable[[Row], float | None],
    labels: Callable[[Row], tuple[str, ...]] = lambda row: (row.name,),
) -> Metric:
    """Fill a family; what is unknown has no sample."""
    for row in rows:
        number = value(row)
        if number is not None:
            family.add_metric(labels(row), number)
    filled: Metric = family
    return filled


def _answers(family: CounterMetricFamily, rows: Iterable[Row]) -> Metric:
    for row in rows:
        for code, count in (row.responses or {}).items():
            family.add_metric((row.name, code), count)
    return family


def _latency(family: HistogramMetricFamily, rows: Iterable[Row], bounds: list[float]) -> Metric:
    for row in rows:
        if row.latency_counts is not None:
            family.add_metric((row.name,), _buckets(row.latency_counts, bounds), row.latency_sum_s or 0.0)
    return family


def _buckets(counts: Iterable[int], bounds: Iterable[float]) -> list[tuple[str, float]]:
    """Summed up, as Prometheus wants them."""
    return [
        ("+Inf" if bound == inf else repr(bound), float(count)) for bound, count in zip((*bounds, inf), accumulate(counts), strict=True)
    ]


def _ratio(percent: float | None) -> float | None:
    return None if percent is None else percent / 100
