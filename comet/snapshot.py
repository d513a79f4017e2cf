"""One frozen picture of the cluster: what `ps`, the page and the metrics render, and all they get to see. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from comet.rates import Counted, Meter, Rates, histogram
from comet.replica import Replica, State, public_name

T = TypeVar("T")


@dataclass(frozen=True)
class Usage:
    """What a replica uses: percent of one core since the last look, bytes of resident memory; None where it could not be read."""

    cpu_percent: float | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True)
class Traffic:
    """What a replica carries: what was counted of it (None where nobody counts) and what happens now. Of a worker also what each load
    balancer finds wrong with it (None: nothing), and the fault settings in force."""

    counted: Counted | None = None
    rates: Rates = field(default_factory=Rates)
    health: dict[str, str | None] | None = None
    faults: dict[str, Any] | None = None


@dataclass(frozen=True)
class Row:
    """One replica. What is unknown or does not apply is None; name and port never are."""

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
    latency_counts: list[int] | None = None
    latency_sum_s: float | None = None
    health: dict[str, str | None] | None = None
    faults: dict[str, Any] | None = None


@dataclass(frozen=True)
class SupervisorRow:
    """The supervisor itself, without what it has started. Its CPU's share is of the last seconds, as it measures it itself."""

    pid: int | None
    running: bool
    uptime_s: float | None
    version: str
    cpu_percent: float | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True)
class Edge:
    """What one load balancer sends to one worker. `errors` are answers of 5xx and attempts that broke; `reason` says why it is not
    healthy in the load balancer's eyes."""

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


@dataclass(frozen=True)
class Total:
    """What all load balancers together give their clients."""

    requests_per_s: float = 0.0
    errors_per_s: float = 0.0
    p50_ms: float | None = None
    p99_ms: float | None = None
    requests: int = 0
    errors: int = 0
    in_flight: int = 0
    queued: int = 0


@dataclass(frozen=True)
class FleetSnapshot:
    supervisor: SupervisorRow
    replicas: tuple[Row, ...] = field(default_factory=tuple)
    edges: tuple[Edge, ...] = field(default_factory=tuple)
    total: Total = field(default_factory=Total)

    def as_dict(self) -> dict[str, Any]:
        """The object of `ps --json`."""
        return {
            "supervisor": asdict(self.supervisor),
            "replicas": [vars(row) for row in self.replicas],
            "edges": [vars(edge) for edge in self.edges],
            "total": vars(self.total),
        }


def from_dict(data: Mapping[str, Any]) -> FleetSnapshot:
    """The snapshot that `as_dict` was made of; fields of a newer version are passed over."""
    return FleetSnapshot(
        _made(SupervisorRow, data["supervisor"]),
        tuple(_made(Row, row) for row in data["replicas"]),
        tuple(_made(Edge, edge) for edge in data.get("edges", ())),
        _made(Total, data.get("total", {})),
    )


def _made(cls: type[T], data: Mapping[str, Any]) -> T:
    return cls(**{key: value for key, value in data.items() if key in cls.__dataclass_fields__})  # type: ignore[attr-defined]


def row(replica: Replica, now: float, usage: Usage, traffic: Traffic) -> Row:
    """The replica as it is at `now` (monotonic seconds)."""
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
        state=replica.state.value,
        restarts=replica.restarts,
        uptime_s=round(now - replica.started, 1) if alive else None,
        cpu_percent=usage.cpu_percent,
        memory_bytes=usage.memory_bytes,
        last_exit=last_exit(replica),
        in_flight=counted.in_flight if counted else None,
        requests=counted.requests if counted else None,
        reason=replica.reason or None,
        node=replica.endpoint.node if replica.endpoint is not None and replica.alive else None,
        next_start_s=round(max(0.0, (replica.deadline or now) - now), 1) if waits else None,
        health=traffic.health,
        faults=traffic.faults,
        **(_figures(counted, traffic.rates) if counted else {}),
        **(_doorway(counted) if counted and traffic.health is None else {}),
    )


def _doorway(counted: Counted) -> dict[str, Any]:
    """What only a load balancer has."""
    return {"retries": counted.retries, "queued": counted.queued, "connections": counted.connections}


def _figures(counted: Counted, rates: Rates) -> dict[str, Any]:
    return {
        "requests_per_s": rates.requests_per_s,
        "errors_per_s": rates.errors_per_s,
        "p50_ms": rates.p50_ms,
        "p99_ms": rates.p99_ms,
        "errors": counted.errors,
        "responses": {f"{digit}xx": count for digit, count in enumerate(counted.responses, 1)},
        "latency_counts": histogram(counted),
        "latency_sum_s": round(counted.latency_us / 1e6, 6),
    }


def rows(replicas: Iterable[Replica], now: float, usage: Mapping[str, Usage], traffic: Mapping[str, Traffic]) -> tuple[Row, ...]:
    """Load balancers first, as requests meet them; each role in the order of its numbers."""
    ordered = sorted(
        (replica for replica in replicas if replica.name == public_name(replica.name)),
        key=lambda replica: (-replica.spec.rank, replica.spec.port),
    )
    return tuple(row(replica, now, usage.get(replica.name, Usage()), traffic.get(replica.name, Traffic())) for replica in ordered)


def edges(
    meter: Meter, balancers: Iterable[str], workers: Mapping[str, str | None], views: Mapping[str, Mapping[str, str | None]]
) -> tuple[Edge, ...]:
    """Every way from a load balancer to a worker. `workers` are those in rotation, each with why it is not to be used (None: it is),
    `views` what single load balancers find wrong with them."""
    counted = meter.latest.edges
    return tuple(
        _edge(lb, worker, counted.get((lb, worker), Counted()), meter.along((lb, worker)), word or views.get(lb, {}).get(worker))
        for lb in balancers
        for worker, word in workers.items()
    )


def _edge(lb: str, worker: str, counted: Counted, rates: Rates, reason: str | None) -> Edge:
    figures = (rates.requests_per_s, rates.errors_per_s, rates.p50_ms, rates.p99_ms)
    return Edge(lb, worker, *figures, counted.requests, counted.errors, counted.in_flight, reason is None, reason)


def total(meter: Meter) -> Total:
    """What the load balancers together do, by the last look at them."""
    rates, counted = meter.total(), meter.latest.total
    figures = (rates.requests_per_s, rates.errors_per_s, rates.p50_ms, rates.p99_ms)
    return Total(*figures, counted.requests, counted.errors, counted.in_flight, counted.queued)


def last_exit(replica: Replica) -> dict[str, Any] | None:
    last = replica.last_exit
    return None if last is None else {"code": last.code, "signal": last.signal, "oom": last.oom, "at": last.at}
