"""What to do next, from what is wanted and what is. Pure: given the fleet and `now`, it starts, waits for and ends nothing itself.

A replica that waits for something has a deadline; when that has passed, the plan takes the next step:

    wanted UP    STOPPED, BACKOFF      start (a first start waits until all of lower rank have been ready once)
                 STARTING              too slow: kill it; its exit leads to the backoff like any other
                 UNHEALTHY             for too long, or hung: the same
    wanted DOWN  serving or starting   begin the stop ladder, once all of higher rank that are to stop have stopped
                 BACKOFF               remove what is left
    both         STOPPING              the next rung: drain -> terminate -> kill (again and again) -> remove

A deliberate restart is a stop of something that stays wanted UP: STOPPED leads to a start.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from comet.events import Event
from comet.replica import Replica, Stage, State, Wanted, event
from comet.timeline import heard

KILL_PATIENCE = 5.0
"""Seconds from a kill until it is repeated. A process in an uninterruptible wait dies only when that is over."""

REMOVE_PATIENCE = 20.0
"""Seconds from the order to remove until it is repeated: an engine under load may need them."""


class Verb(StrEnum):
    START = "start"
    DRAIN = "drain"
    TERMINATE = "terminate"
    KILL = "kill"
    REMOVE = "remove"


@dataclass(frozen=True)
class Action:
    """What a driver is to do with one replica."""

    verb: Verb
    name: str


@dataclass
class Plan:
    """The changed replicas, the actions in the order in which to take them, and what has happened by deciding so."""

    replicas: dict[str, Replica] = field(default_factory=dict)
    actions: list[Action] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def add(self, replica: Replica, verb: Verb | None = None, *events: Event) -> None:
        self.replicas[replica.name] = replica
        if verb is not None:
            self.actions.append(Action(verb, replica.name))
        self.events.extend(events)


def plan(fleet: Mapping[str, Replica], now: float) -> Plan:
    """Everything that is due now. Applied, and called again at once, it has nothing more to ask."""
    made = Plan()
    for replica in fleet.values():
        if replica.state is State.STOPPING:
            _climb(replica, now, made)
        elif replica.wanted is Wanted.UP:
            _raise(replica, fleet, now, made)
        elif replica.state is State.BACKOFF:
            made.add(_rung(replica, Stage.REMOVE, now), Verb.REMOVE)
        elif replica.state is not State.STOPPED and _may_stop(replica, fleet):
            made.add(_rung(replica, Stage.DRAIN, now), Verb.DRAIN)
    return made


def next_deadline(fleet: Iterable[Replica]) -> float | None:
    """When the plan must be made anew, if nothing is observed before; None: never."""
    return min((replica.deadline for replica in fleet if replica.deadline is not None), default=None)


def begin_stop(replica: Replica, now: float, stage: Stage = Stage.DRAIN) -> tuple[Replica, Action]:
    """Put a living replica on the ladder by command: for a deliberate restart, or to skip rungs of a stop that is under way."""
    return _rung(replica, stage, now), Action(_VERBS[stage], replica.name)


def _raise(replica: Replica, fleet: Mapping[str, Replica], now: float, made: Plan) -> None:
    if replica.state is State.STARTING and _due(replica, now):
        seconds = replica.spec.start_timeout
        reason = f"not ready within {seconds:g} s"
        told = event("replica_unhealthy", replica, reason=reason)
        made.add(replace(replica, deadline=now + KILL_PATIENCE, reason=reason), Verb.KILL, told)
    elif replica.state is State.UNHEALTHY and _due(replica, now):
        made.add(replace(replica, deadline=now + KILL_PATIENCE), Verb.KILL)
    elif replica.state is State.BACKOFF and _due(replica, now):
        waited = round((now - replica.since) * 1000, 1)
        after = _start(replace(replica, restarts=replica.restarts + 1), now)
        made.add(after, Verb.START, event("replica_restarting", after, attempt=replica.failures, delay_ms=waited))
    elif replica.state is State.STOPPED and _may_start(replica, fleet):
        after = _start(replica, now)
        made.add(after, Verb.START, event("replica_starting", after))


def _start(replica: Replica, now: float) -> Replica:
    deadline = now + replica.spec.start_timeout
    steps = heard(replica.recovery, "decided", now)
    decided = replace(replica, instance=replica.instance + 1, started=now, lost=False, recovery=steps)
    return decided.enter(State.STARTING, now, deadline=deadline)


def _due(replica: Replica, now: float) -> bool:
    return replica.deadline is not None and now >= replica.deadline


def _may_start(replica: Replica, fleet: Mapping[str, Replica]) -> bool:
    if replica.instance:
        return True
    return all(other.was_ready for other in fleet.values() if other.spec.rank < replica.spec.rank and other.wanted is Wanted.UP)


def _may_stop(replica: Replica, fleet: Mapping[str, Replica]) -> bool:
    return all(
        other.state is State.STOPPED for other in fleet.values() if other.spec.rank > replica.spec.rank and other.wanted is Wanted.DOWN
    )


_NEXT = {Stage.DRAIN: Stage.TERMINATE, Stage.TERMINATE: Stage.KILL, Stage.KILL: Stage.KILL, Stage.REMOVE: Stage.REMOVE}
_VERBS = {Stage.DRAIN: Verb.DRAIN, Stage.TERMINATE: Verb.TERMINATE, Stage.KILL: Verb.KILL, Stage.REMOVE: Verb.REMOVE}


def _rung(replica: Replica, stage: Stage, now: float) -> Replica:
    patience = {
        Stage.DRAIN: replica.spec.drain_grace,
        Stage.TERMINATE: replica.spec.terminate_grace,
        Stage.KILL: KILL_PATIENCE,
        Stage.REMOVE: REMOVE_PATIENCE,
    }[stage]
    since = replica.since if replica.state is State.STOPPING else now
    return replace(replica.enter(State.STOPPING, since, deadline=now + patience), stage=stage)


def _climb(replica: Replica, now: float, made: Plan) -> None:
    if not _due(replica, now):
        return
    assert replica.stage is not None
    # Of what does not live there is nothing to drain, terminate or kill: an exit was seen, or it never started.
    stage = _NEXT[replica.stage] if replica.alive else Stage.REMOVE
    made.add(_rung(replica, stage, now), _VERBS[stage])
