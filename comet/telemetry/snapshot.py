"""A frozen snapshot of the cluster, the only data that `ps`, the page and the metrics render. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from comet.common.redaction import concealed
from comet.reconcile.replica import Replica, State, number_of, public_name
from comet.telemetry.columns import COLUMNS
from comet.telemetry.rates import Counted, Meter, Rates, bounds_s, histogram
from fault_rules import FRONT_COUNTED

T = TypeVar("T")


@dataclass(frozen=True)
class Usage:
    """CPU and memory use of a replica: percent of one core since the last sample, bytes of resident memory.

    A value is None where it could not be read.
    """

    cpu_percent: float | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True)
class Traffic:
    """The traffic of a replica: its counts (None where nothing counts them) and its present rates.

    For a worker, `health` is what each load balancer finds of it, `ejected` why each of those that have ejected it did,
    `faults` are its effective fault settings, and `fault_orders` what commands have ordered of them (see
    `comet.faults.files.effective`). `drained` says whether an operator has ordered that it gets no requests.
    """

    counted: Counted | None = None
    rates: Rates = field(default_factory=Rates)
    health: dict[str, dict[str, Any]] | None = None
    faults: dict[str, Any] | None = None
    ejected: dict[str, str] | None = None
    fault_orders: dict[str, Any] | None = None
    drained: bool | None = None


@dataclass(frozen=True)
class Row:
    """One replica; values that are unknown or do not apply are None, but name and port always have a value."""

    name: str
    role: str
    kind: str
    id: str | None
    pid: int | None
    port: int
    state: str
    restarts: int
    uptime_s: float | None
    cpu_percent: float | None
    memory_bytes: int | None
    last_exit: dict[str, Any] | None
    in_flight: int | None
    requests: int | None
    reason: str | None = None
    next_start_s: float | None = None
    orphan: bool = False
    node: str | None = None
    requests_per_s: float | None = None
    errors_per_s: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    errors: int | None = None
    responses: dict[str, int] | None = None
    retries: int | None = None
    queued: int | None = None
    connections: int | None = None
    tunnels: int | None = None
    latency_counts: list[int] | None = None
    latency_sum_s: float | None = None
    health: dict[str, dict[str, Any]] | None = None
    faults: dict[str, Any] | None = None
    ejected: dict[str, str] | None = None
    fault_orders: dict[str, Any] | None = None
    drained: bool | None = None
    injected: int | None = None
    injected_per_s: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, and what columns compute of them."""
        return {**{each.key: each.of(self) for each in COLUMNS if each.key not in vars(self)}, **vars(self)}


@dataclass(frozen=True)
class SupervisorRow:
    """The supervisor process itself, without its children.

    It measures its CPU share over the last seconds itself. `problem` says why nothing else is known of a running
    supervisor, or which replicas cannot be seen where no supervisor runs. `admin_port` is the port of the dashboard.
    """

    pid: int | None
    running: bool
    uptime_s: float | None
    version: str
    cpu_percent: float | None = None
    memory_bytes: int | None = None
    problem: str | None = None
    admin_port: int | None = None


@dataclass(frozen=True)
class Edge:
    """The traffic from one load balancer to one worker.

    `errors` are answers of 5xx and failed attempts, `injected` those of them that an injected fault caused; `reason`
    says why the load balancer considers the worker unhealthy.
    """

    lb: str
    worker: str
    requests_per_s: float
    errors_per_s: float
    p50_ms: float | None
    p99_ms: float | None
    requests: int
    errors: int
    in_flight: int
    healthy: bool
    reason: str | None = None
    ejected: bool = False
    injected: int = 0
    injected_per_s: float = 0.0


@dataclass(frozen=True)
class Total:
    """The traffic of all load balancers together, as their clients see it.

    `paused` says whether requests wait by order; `paused_s` is how much longer (None: until `resume`). `front_faults`
    and `front_fault_orders` are for the front what `faults` and `fault_orders` are for a worker; `front_injected` says
    how often each kind was injected there. Such requests are in none of the other counts unless a worker got them.
    """

    requests_per_s: float = 0.0
    errors_per_s: float = 0.0
    p50_ms: float | None = None
    p99_ms: float | None = None
    requests: int = 0
    errors: int = 0
    in_flight: int = 0
    queued: int = 0
    paused: bool = False
    paused_s: float | None = None
    injected: int = 0
    injected_per_s: float = 0.0
    front_injected: dict[str, int] = field(default_factory=dict)
    front_faults: dict[str, Any] | None = None
    front_fault_orders: dict[str, Any] | None = None


@dataclass(frozen=True)
class FleetSnapshot:
    supervisor: SupervisorRow
    replicas: tuple[Row, ...] = field(default_factory=tuple)
    edges: tuple[Edge, ...] = field(default_factory=tuple)
    total: Total = field(default_factory=Total)

    def as_dict(self) -> dict[str, Any]:
        """Return the object of `ps --json`."""
        return {
            "supervisor": asdict(self.supervisor),
            "replicas": [row.as_dict() for row in self.replicas],
            "edges": [vars(edge) for edge in self.edges],
            "total": vars(self.total),
            "latency_bounds_s": bounds_s(),
        }


def from_dict(data: Mapping[str, Any]) -> FleetSnapshot:
    """Return the snapshot that `as_dict` rendered; unknown fields of a newer version are ignored."""
    return FleetSnapshot(
        _build(SupervisorRow, data["supervisor"]),
        tuple(_build(Row, row) for row in data["replicas"]),
        tuple(_build(Edge, edge) for edge in data.get("edges", ())),
        _build(Total, data.get("total", {})),
    )


def _build(cls: type[T], data: Mapping[str, Any]) -> T:
    return cls(**{key: value for key, value in data.items() if key in cls.__dataclass_fields__})  # type: ignore[attr-defined]


_OF_BALANCERS = set(Row.__dataclass_fields__) - {"requests", "responses", "errors", "injected", "in_flight"}
"""Fields of a row that are counts of a load balancer alone, where `Counted` has them."""


def row(replica: Replica, now: float, usage: Usage, traffic: Traffic) -> Row:
    """Return the row of a replica at `now` (monotonic seconds)."""
    alive = replica.alive or replica.state in (State.READY, State.UNHEALTHY)
    waits = replica.state is State.BACKOFF and replica.deadline is not None
    counted = traffic.counted
    return Row(
        name=replica.name,
        role=replica.spec.role,
        kind=replica.spec.kind,
        id=replica.id,
        pid=replica.pid,
        port=replica.endpoint.port if replica.endpoint is not None else replica.spec.port,
        # A replica that is known to be dead serves no requests, even before its exit is known.
        state=State.UNHEALTHY.value if replica.lost and replica.state is State.READY else replica.state.value,
        restarts=replica.restarts,
        uptime_s=round(now - replica.started, 1) if alive else None,
        cpu_percent=usage.cpu_percent,
        memory_bytes=usage.memory_bytes,
        last_exit=last_exit(replica),
        in_flight=counted.in_flight if counted else None,
        requests=counted.requests if counted else None,
        reason=concealed((replica.last_finding if replica.state is State.STARTING else "") or replica.reason) or None,
        node=replica.endpoint.node if replica.endpoint is not None and replica.alive else None,
        next_start_s=round(max(0.0, (replica.deadline or now) - now), 1) if waits else None,
        health=traffic.health,
        faults=traffic.faults,
        ejected=traffic.ejected,
        fault_orders=traffic.fault_orders,
        drained=traffic.drained,
        **(_figures(counted, traffic.rates) if counted else {}),
        **(_balancer_figures(counted) if counted and traffic.health is None else {}),
    )


def _balancer_figures(counted: Counted) -> dict[str, Any]:
    """Return the figures that only a load balancer has."""
    return {name: getattr(counted, name) for name in counted.__slots__ if name in _OF_BALANCERS}


def _figures(counted: Counted, rates: Rates) -> dict[str, Any]:
    return {
        "requests_per_s": rates.requests_per_s,
        "errors_per_s": rates.errors_per_s,
        "p50_ms": rates.p50_ms,
        "p99_ms": rates.p99_ms,
        "errors": counted.errors,
        "injected": counted.injected,
        "injected_per_s": rates.injected_per_s,
        "responses": {f"{digit}xx": count for digit, count in enumerate(counted.responses, 1)},
        "latency_counts": histogram(counted),
        "latency_sum_s": round(counted.latency_us / 1e6, 6),
    }


def rows(
    replicas: Iterable[Replica], now: float, usage: Mapping[str, Usage], traffic: Mapping[str, Traffic]
) -> tuple[Row, ...]:
    """Return the rows: load balancers first, as requests pass them, and each role in the order of its numbers."""
    ordered = sorted(
        (replica for replica in replicas if replica.name == public_name(replica.name)),
        key=lambda replica: (-replica.spec.rank, number_of(replica.name)),
    )
    return tuple(
        row(replica, now, usage.get(replica.name, Usage()), traffic.get(replica.name, Traffic())) for replica in ordered
    )


def health(
    worker: str,
    balancers: Iterable[str],
    out: str | None,
    views: Mapping[str, Mapping[str, str | None]],
    check_times: Mapping[str, Mapping[str, float]],
) -> dict[str, dict[str, Any]]:
    """Return what every load balancer finds of a worker: `healthy`, the reason why it is not, and the check's duration.

    `out` is why no load balancer uses it, whatever each finds; None where that is no matter of health.
    """
    reasons = {lb: views.get(lb, {}).get(worker) or out for lb in balancers}
    return {
        lb: {"healthy": reason is None, "reason": reason, "check_ms": check_times.get(lb, {}).get(worker)}
        for lb, reason in reasons.items()
    }


def edges(
    meter: Meter,
    balancers: Iterable[str],
    workers: Mapping[str, str | None],
    views: Mapping[str, Mapping[str, str | None]],
    ejections: Mapping[str, Mapping[str, str]],
) -> tuple[Edge, ...]:
    """Return every edge from a load balancer to a worker.

    `workers` are those in rotation, each with the reason why it is not to be used (None: it is). `views` are what the
    load balancers find wrong with them, `ejections` are those that they have ejected.
    """
    counted = meter.latest.edges
    return tuple(
        _edge(
            lb,
            worker,
            counted.get((lb, worker), Counted()),
            meter.edge_rates((lb, worker)),
            reason or views.get(lb, {}).get(worker),
            worker in ejections.get(lb, {}),
        )
        for lb in balancers
        for worker, reason in workers.items()
    )


def _edge(lb: str, worker: str, counted: Counted, rates: Rates, reason: str | None, ejected: bool) -> Edge:
    figures = (rates.requests_per_s, rates.errors_per_s, rates.p50_ms, rates.p99_ms)
    counts = (counted.requests, counted.errors, counted.in_flight)
    injected = (counted.injected, rates.injected_per_s)
    return Edge(lb, worker, *figures, *counts, reason is None, reason, ejected, *injected)


def total(meter: Meter, paused_s: float | None = 0.0, front: Mapping[str, Any] | None = None) -> Total:
    """Return the traffic of all load balancers together, by the last reading; `paused_s` is 0 without a pause.

    `front` has the `settings` that are effective at the front, and what was ordered of them (`faults.files.effective`).
    """
    rates, counted = meter.total(), meter.latest.total
    figures = (rates.requests_per_s, rates.errors_per_s, rates.p50_ms, rates.p99_ms)
    counts = (counted.requests, counted.errors, counted.in_flight, counted.queued)
    injected = (counted.injected, rates.injected_per_s)
    kinds = {kind: count for kind, count in zip(FRONT_COUNTED, counted.front_injected, strict=True) if count}
    return Total(*figures, *counts, paused_s != 0, paused_s or None, *injected, kinds, *fault_fields(front))


def fault_fields(effective: Mapping[str, Any] | None) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Return the fields `faults` and `fault_orders` of what `faults.files.effective` says of one target."""
    if not effective:
        return None, None
    return effective["settings"], {key: effective[key] for key in ("from", "leases")}


def last_exit(replica: Replica) -> dict[str, Any] | None:
    last = replica.last_exit
    return None if last is None else {"code": last.code, "signal": last.signal, "oom": last.oom, "at": last.at}
