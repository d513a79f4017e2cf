"""One frozen picture of the cluster: what `ps`, the page and the metrics render, and all they get to see. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from comet.replica import Replica, State, public_name


@dataclass(frozen=True)
class Usage:
    """What a replica uses: percent of one core since the last look, bytes of resident memory; None where it could not be read."""

    cpu_percent: float | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True)
class Traffic:
    """What a replica carries: requests in flight and requests since its first start; None where nobody counts."""

    in_flight: int | None = None
    requests: int | None = None


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


@dataclass(frozen=True)
class SupervisorRow:
    pid: int | None
    running: bool
    uptime_s: float | None
    version: str


@dataclass(frozen=True)
class FleetSnapshot:
    supervisor: SupervisorRow
    replicas: tuple[Row, ...] = field(default_factory=tuple)

    def as_dict(self) -> dict[str, Any]:
        """The object of `ps --json`."""
        return {"supervisor": asdict(self.supervisor), "replicas": [asdict(row) for row in self.replicas]}


def from_dict(data: Mapping[str, Any]) -> FleetSnapshot:
    """The snapshot that `as_dict` was made of; fields of a newer version are passed over."""
    names = Row.__dataclass_fields__
    rows = tuple(Row(**{key: value for key, value in row.items() if key in names}) for row in data["replicas"])
    return FleetSnapshot(SupervisorRow(**data["supervisor"]), rows)


def row(replica: Replica, now: float, usage: Usage, traffic: Traffic) -> Row:
    """The replica as it is at `now` (monotonic seconds)."""
    alive = replica.pid is not None or replica.state in (State.READY, State.UNHEALTHY)
    waits = replica.state is State.BACKOFF and replica.deadline is not None
    return Row(
        name=replica.name,
        role=replica.spec.role,
        kind=replica.spec.kind,
        id=replica.id,
        pid=replica.pid,
        port=replica.spec.port,
        state=replica.state.value,
        restarts=replica.restarts,
        uptime_s=round(now - replica.started, 1) if alive else None,
        cpu_percent=usage.cpu_percent,
        memory_bytes=usage.memory_bytes,
        last_exit=_last_exit(replica),
        in_flight=traffic.in_flight,
        requests=traffic.requests,
        reason=replica.reason or None,
        next_start_s=round(max(0.0, (replica.deadline or now) - now), 1) if waits else None,
    )


def rows(replicas: Iterable[Replica], now: float, usage: Mapping[str, Usage], traffic: Mapping[str, Traffic]) -> tuple[Row, ...]:
    """Load balancers first, as requests meet them; each role in the order of its numbers."""
    ordered = sorted(
        (replica for replica in replicas if replica.name == public_name(replica.name)),
        key=lambda replica: (-replica.spec.rank, replica.spec.port),
    )
    return tuple(row(replica, now, usage.get(replica.name, Usage()), traffic.get(replica.name, Traffic())) for replica in ordered)


def _last_exit(replica: Replica) -> dict[str, Any] | None:
    last = replica.last_exit
    return None if last is None else {"code": last.code, "signal": last.signal, "oom": last.oom, "at": last.at}
