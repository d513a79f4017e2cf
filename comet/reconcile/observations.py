"""Observations: everything that drivers, probes, load balancers and the swarm report about a replica, as values. Pure.

What follows from an observation is decided in `comet.reconcile.transitions`. Times are monotonic seconds.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Exit:
    """How an instance ended; `code` and `signal` are None where that could not be read.

    `at` is the wall time of its death (ISO 8601), `detect_ms` the milliseconds until the supervisor noticed it; both
    are None where the time of death is unknown.
    """

    code: int | None = None
    signal: str | None = None
    oom: bool = False
    at: str | None = None
    detect_ms: float | None = None


@dataclass(frozen=True)
class Endpoint:
    """The address of a replica.

    `node` names its machine where that may be another one. Load balancers check its health at `health_path`, with
    `health_host` as the Host field (None: as their settings say).
    """

    host: str
    port: int
    node: str | None = None
    health_path: str | None = None
    health_host: str | None = None


@dataclass(frozen=True)
class Started:
    """The instance exists; it may not answer yet.

    `pid` is None where it has no process on this host. `endpoint` is set where only the driver knows the address.
    """

    pid: int | None
    id: str
    endpoint: Endpoint | None = None


@dataclass(frozen=True)
class Replaced:
    """The orchestrator (a swarm) has replaced the instance; `checked`: the new one has answered a health check."""

    id: str
    endpoint: Endpoint
    checked: bool = False


@dataclass(frozen=True)
class StartFailed:
    reason: str
    timed_out: bool = False


@dataclass(frozen=True)
class Ready:
    """It answers. `listening` is when it began to listen, where the replica reports that itself."""

    listening: float | None = None


@dataclass(frozen=True)
class NotReady:
    """A readiness check during its start has failed."""

    reason: str


@dataclass(frozen=True)
class Answered:
    """A client has received its first response, at `at`."""

    at: float


@dataclass(frozen=True)
class Health:
    healthy: bool
    reason: str = ""


@dataclass(frozen=True)
class Ejected:
    """A load balancer does not use it for a time, for its answers; `reason` is empty when it is readmitted."""

    balancer: str
    reason: str
    seconds: float = 0.0


@dataclass(frozen=True)
class Hung:
    """It exists but does nothing; only a kill helps."""

    reason: str


@dataclass(frozen=True)
class Unreachable:
    """Its machine is unreachable for this reason (empty: reachable again); the replica may still answer."""

    reason: str = ""


@dataclass(frozen=True)
class Drained:
    """No load balancer sends it requests any more."""


@dataclass(frozen=True)
class Exited:
    exit: Exit = field(default_factory=Exit)


@dataclass(frozen=True)
class Lost:
    """It is dead; an Exited with the exit status follows."""


@dataclass(frozen=True)
class Found:
    """It runs, contrary to what was known.

    It was started from outside, or a report of its death was about an earlier instance.
    """


@dataclass(frozen=True)
class Removed:
    """No process, container or socket of it is left."""


@dataclass(frozen=True)
class Revived:
    """The obstacle to starts is gone (the engine is back): the backoff need not be waited out."""


Observation = (
    Started
    | Replaced
    | StartFailed
    | Ready
    | NotReady
    | Answered
    | Health
    | Ejected
    | Hung
    | Unreachable
    | Drained
    | Lost
    | Found
    | Exited
    | Removed
    | Revived
)
