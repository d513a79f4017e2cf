"""A replica: its specification, and what the supervisor knows of it. Pure.

Three facts are kept apart, and none is inferred from another: what is *wanted* (UP or DOWN, decided by commands and the
config), the actual *state* (decided by observations), and whether the replica is *ready* (it answers requests; existing
is not enough).

`instance` numbers the starts of a replica. Times are monotonic seconds.
"""

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from comet.common.values import url_host
from comet.events.event import Event
from comet.reconcile.observations import Endpoint, Exit
from comet.reconcile.recovery_timeline import Steps
from comet.reconcile.restart_policy import RestartPolicy


class Wanted(StrEnum):
    UP = "up"
    DOWN = "down"


class State(StrEnum):
    STARTING = "starting"
    READY = "ready"
    UNHEALTHY = "unhealthy"
    BACKOFF = "backoff"
    STOPPING = "stopping"
    STOPPED = "stopped"


class Stage(StrEnum):
    """The stages of a stop, in order."""

    DRAIN = "drain"
    TERMINATE = "terminate"
    KILL = "kill"
    REMOVE = "remove"


SERVING = (State.READY, State.UNHEALTHY)

FAULT_SIGNALS = frozenset({"SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV", "SIGSYS", "SIGTRAP"})
"""Signals by which a program ends because of a fault of its own."""

HERE = "{here}"
"""Placeholder for host and port in the URL of a replica whose driver reports its address."""


@dataclass(frozen=True)
class ReplicaSpec:
    """What a replica is; nothing here changes while it lives.

    `driver` names the driver that starts it; `launch` belongs to that driver and is opaque to all others. `rank` orders
    starts and stops: a replica starts for the first time once all of lower rank have been ready, and stops after all of
    higher rank that have to stop. Times are in seconds. A replica that fails its checks for `unhealthy_grace` is killed
    and thereby restarted (None: it is left alone).
    `spare`: it serves only while others are replaced.
    """

    name: str
    role: str
    kind: str
    driver: str
    port: int
    rank: int
    start_timeout: float = 60.0
    drain_grace: float = 10.0
    terminate_grace: float = 5.0
    unhealthy_grace: float | None = None
    restart: RestartPolicy = field(default_factory=RestartPolicy)
    launch: Any = None
    spare: bool = False


@dataclass(frozen=True)
class ManagedReplica:
    """A replica to supervise, and how to reach it.

    `probe` is the URL to poll until the replica is ready (None: it reports that itself). `endpoint` is the address for
    load balancers (None: they do not use it, or its driver reports the address and the URL contains HERE).
    `health_host` is the Host field of the checks (None: the address).
    """

    spec: ReplicaSpec
    probe: str | None = None
    endpoint: Endpoint | None = None
    health_host: str | None = None


def located(url: str, endpoint: Endpoint | None) -> str:
    """Return the URL with the reported address in the place of HERE."""
    if endpoint is None:
        return url
    return url.replace(HERE, f"{url_host(endpoint.host)}:{endpoint.port}", 1)


@dataclass(frozen=True)
class Replica:
    """What is known of a replica now.

    `endpoint` is the address that its driver reported (also of a dead instance). `remote`: it lives without a process
    on this host. `unreachable`: why its machine is unreachable. `since` is when it entered its state, `deadline` when
    the planner must look at it again. `recovery` collects the steps since the last death, each with its time: died
    (where known), noticed, decided, started, listening, ready. `recovered` keeps them from then on until the first
    response. `start_timed_out`: its last start took too long. `last_finding` is what the last failed check of this
    start found. `killed_for` is why the planner had it killed while it was to run.
    """

    spec: ReplicaSpec
    wanted: Wanted = Wanted.UP
    state: State = State.STOPPED
    stage: Stage | None = None
    instance: int = 0
    pid: int | None = None
    id: str | None = None
    endpoint: Endpoint | None = None
    remote: bool = False
    since: float = 0.0
    started: float = 0.0
    ready_since: float | None = None
    deadline: float | None = None
    was_ready: bool = False
    lost: bool = False
    unreachable: str = ""
    recovery: Steps = ()
    recovered: Steps = ()
    failures: int = 0
    restarts: int = 0
    reason: str = ""
    start_timed_out: bool = False
    last_finding: str = ""
    killed_for: str = ""
    last_exit: Exit | None = None

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def ready(self) -> bool:
        return self.state in SERVING

    @property
    def alive(self) -> bool:
        """Whether there is something to drain, terminate or kill."""
        return self.pid is not None or self.remote

    def enter(self, state: State, now: float, deadline: float | None = None, **changes: Any) -> "Replica":
        return replace(self, state=state, since=now, deadline=deadline, **changes)


NEXT_SUFFIX, FORMER_SUFFIX = "~next", "~former"
"""Suffixes for two replicas that share a name during a takeover; the replica of that name is the one without a
suffix.
"""


def public_name(name: str) -> str:
    return name.partition("~")[0]


def number_of(name: str) -> int:
    """Return the number in a replica's name; 0 where there is none."""
    digits = public_name(name).rpartition("-")[2]
    return int(digits) if digits.isascii() and digits.isdigit() else 0


def event(name: str, replica: Replica, **fields: Any) -> Event:
    """Return an event of one replica, with its kind, id and public name."""
    return Event(name, public_name(replica.name), {"kind": replica.spec.kind, "id": replica.id, **fields})


def is_ordered(replica: Replica, exit: Exit) -> bool:
    """Return whether a replica ended because it was to end, as opposed to a crash.

    From SIGTERM on, how it ends is up to the program: many exit with another code than 0. Before that, while requests
    drain or while others have to stop first, it may end well by itself, or by the SIGTERM that an operator or systemd
    sends to all processes at once.
    """
    if exit.oom or exit.signal in FAULT_SIGNALS:
        return False
    if replica.stage in (Stage.TERMINATE, Stage.KILL, Stage.REMOVE):
        return True
    is_to_end = replica.state is State.STOPPING or replica.wanted is Wanted.DOWN
    return is_to_end and (exit.code == 0 or exit.signal == "SIGTERM")


def exit_event(replica: Replica, exit: Exit) -> Event:
    ordered = is_ordered(replica, exit)
    fields: dict[str, Any] = {"code": exit.code, "signal": exit.signal, "oom": exit.oom, "ordered": ordered}
    fields |= {"died_at": exit.at} if exit.at is not None else {}
    fields |= {"detect_ms": exit.detect_ms} if exit.detect_ms is not None else {}
    if replica.killed_for and exit.signal == "SIGKILL" and not exit.oom:
        fields["reason"] = replica.killed_for
    return event("replica_exited", replica, **fields)
