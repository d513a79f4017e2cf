"""One supervised thing: what it is, and what is known of it. Pure.

Three facts are kept apart and never inferred from one another: what is *wanted* (UP or DOWN: commands and config decide), the actual
*state* (observations decide), and whether it is *ready* (it answers; existing is not enough).

A replica carries the number of its present `instance` (it counts the starts). Moments are monotonic seconds.
"""

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from comet.backoff import RestartPolicy
from comet.events import Event
from comet.observation import Endpoint, Exit
from comet.timeline import Steps


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
    """The rungs of the stop ladder, in order."""

    DRAIN = "drain"
    TERMINATE = "terminate"
    KILL = "kill"
    REMOVE = "remove"


SERVING = (State.READY, State.UNHEALTHY)


@dataclass(frozen=True)
class ReplicaSpec:
    """What a replica is: nothing in here changes while it lives.

    `driver` names who can start it; `launch` is that driver's business and opaque to all others. `rank` orders start and stop: a
    replica first starts when all of lower rank have been ready, and stops after all of higher rank that are to stop. Times in seconds;
    after `unhealthy_grace` without a good check it is killed and so restarted (None: it is left to itself).
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


@dataclass(frozen=True)
class Replica:
    """A replica's present. `endpoint` is where its driver said that it runs (of a dead one: ran), `remote` whether it lives without a
    process of this host, `unheard` why nobody hears of its machine. `since` is when it entered its state, `deadline` when the plan must
    look at it again. `recovery` collects the steps from its last death on, each with its moment: died (where that is known), noticed,
    decided, started, listening, ready; `recovered` holds them from then on until the first answer."""

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
    unheard: str = ""
    recovery: Steps = ()
    recovered: Steps = ()
    failures: int = 0
    restarts: int = 0
    reason: str = ""
    last_exit: Exit | None = None

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def ready(self) -> bool:
        return self.state in SERVING

    @property
    def alive(self) -> bool:
        """Whether there is something that could be drained, terminated or killed."""
        return self.pid is not None or self.remote

    def enter(self, state: State, now: float, deadline: float | None = None, **changes: Any) -> "Replica":
        return replace(self, state=state, since=now, deadline=deadline, **changes)


NEXT, FORMER = "~next", "~former"
"""Marks in the names of two that share one for the time of a succession: only the one without a mark is the replica of that name."""


def public_name(name: str) -> str:
    return name.partition("~")[0]


def event(name: str, replica: Replica, **fields: Any) -> Event:
    """An event of one replica; kind and id come with it. A successor, and one that is retired, speak in the name they share."""
    return Event(name, public_name(replica.name), {"kind": replica.spec.kind, "id": replica.id, **fields})


def exit_event(replica: Replica, exit: Exit) -> Event:
    fields: dict[str, Any] = {"code": exit.code, "signal": exit.signal, "oom": exit.oom}
    fields |= {"died_at": exit.at} if exit.at is not None else {}
    fields |= {"detect_ms": exit.detect_ms} if exit.detect_ms is not None else {}
    return event("replica_exited", replica, **fields)
