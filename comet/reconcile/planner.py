"""The planner: compares what is wanted with what is, and decides the next actions. Pure.

It is given all replicas and `now`; it starts, awaits and ends nothing itself. A replica that waits for something has a
deadline. When that has passed, the planner takes the next step:

    wanted UP    STOPPED, BACKOFF      start (a first start waits until all of lower rank have been ready once)
                 STARTING              too slow: kill it; its exit leads to the backoff like any other
                 UNHEALTHY             for too long, or hung: the same
    wanted DOWN  serving or starting   begin to stop it, once all of higher rank that have to stop have stopped
                 BACKOFF               remove what is left
    both         STOPPING              the next stage: drain -> terminate -> kill (repeated) -> remove

A deliberate restart is a stop of a replica that stays wanted UP: STOPPED leads to a start.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from comet.events.event import Event
from comet.reconcile.recovery_timeline import Steps, observed
from comet.reconcile.replica import Replica, Stage, State, Wanted, event

KILL_RETRY = 5.0
"""Seconds until a kill is repeated. A process in an uninterruptible wait dies only when that is over."""

REMOVE_RETRY = 20.0
"""Seconds until a removal is repeated: an engine under load may need them."""


class Verb(StrEnum):
    START = "start"
    DRAIN = "drain"
    TERMINATE = "terminate"
    KILL = "kill"
    REMOVE = "remove"


@dataclass(frozen=True)
class Action:
    """An order to a driver about one replica."""

    verb: Verb
    name: str


@dataclass
class Plan:
    """The changed replicas, the actions in their order, and the events of the decisions."""

    replicas: dict[str, Replica] = field(default_factory=dict)
    actions: list[Action] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def add(self, replica: Replica, verb: Verb | None = None, *events: Event) -> None:
        self.replicas[replica.name] = replica
        if verb is not None:
            self.actions.append(Action(verb, replica.name))
        self.events.extend(events)


def plan(fleet: Mapping[str, Replica], now: float) -> Plan:
    """Return everything that is due now. Planning again after applying it yields nothing."""
    result = Plan()
    for replica in fleet.values():
        if replica.state is State.STOPPING:
            _next_stage(replica, now, result)
        elif replica.wanted is Wanted.UP:
            _bring_up(replica, fleet, now, result)
        elif replica.state is State.BACKOFF:
            result.add(_enter_stage(replica, Stage.REMOVE, now), Verb.REMOVE)
        elif replica.state is not State.STOPPED and _may_stop(replica, fleet):
            result.add(_enter_stage(replica, Stage.DRAIN, now), Verb.DRAIN)
    return result


def next_deadline(fleet: Iterable[Replica]) -> float | None:
    """Return when to plan again if nothing is observed before; None: never."""
    return min((replica.deadline for replica in fleet if replica.deadline is not None), default=None)


def begin_stop(replica: Replica, now: float, stage: Stage = Stage.DRAIN) -> tuple[Replica, Action]:
    """Begin to stop a living replica by command: for a deliberate restart, or to skip stages of a stop under way."""
    return _enter_stage(replica, stage, now), Action(_VERBS[stage], replica.name)


def _bring_up(replica: Replica, fleet: Mapping[str, Replica], now: float, result: Plan) -> None:
    if replica.state is State.STARTING and _due(replica, now):
        seconds = replica.spec.start_timeout
        reason = f"not ready within {seconds:g} s" + (f": {replica.last_finding}" if replica.last_finding else "")
        unhealthy = event("replica_unhealthy", replica, reason=reason)
        late = replace(replica, deadline=now + KILL_RETRY, reason=reason, killed_for=reason, start_timed_out=True)
        result.add(late, Verb.KILL, unhealthy)
    elif replica.state is State.UNHEALTHY and _due(replica, now):
        result.add(replace(replica, deadline=now + KILL_RETRY, killed_for=replica.reason), Verb.KILL)
    elif replica.state is State.BACKOFF and _due(replica, now):
        waited = round((now - replica.since) * 1000, 1)
        after = _start(replace(replica, restarts=replica.restarts + 1, recovery=_waited(replica)), now)
        result.add(after, Verb.START, event("replica_restarting", after, attempt=replica.failures, delay_ms=waited))
    elif replica.state is State.STOPPED and _may_start(replica, fleet):
        after = _start(replica, now)
        result.add(after, Verb.START, event("replica_starting", after))


def _waited(replica: Replica) -> Steps:
    """Return the steps of the recovery with the end of the backoff, if the policy asked for one."""
    deadline = replica.deadline
    asked = deadline is not None and deadline > replica.since
    return observed(replica.recovery, "backoff", deadline) if asked and deadline is not None else replica.recovery


def _start(replica: Replica, now: float) -> Replica:
    deadline = now + replica.spec.start_timeout
    steps = observed(replica.recovery, "decided", now)
    fresh = replace(replica, started=now, lost=False, last_finding="", killed_for="", recovery=steps)
    decided = replace(fresh, instance=replica.instance + 1)
    return decided.enter(State.STARTING, now, deadline=deadline)


def _due(replica: Replica, now: float) -> bool:
    return replica.deadline is not None and now >= replica.deadline


def _may_start(replica: Replica, fleet: Mapping[str, Replica]) -> bool:
    if replica.instance:
        return True
    return all(
        other.was_ready for other in fleet.values() if other.spec.rank < replica.spec.rank and other.wanted is Wanted.UP
    )


def _may_stop(replica: Replica, fleet: Mapping[str, Replica]) -> bool:
    return all(
        other.state is State.STOPPED
        for other in fleet.values()
        if other.spec.rank > replica.spec.rank and other.wanted is Wanted.DOWN
    )


_NEXT = {Stage.DRAIN: Stage.TERMINATE, Stage.TERMINATE: Stage.KILL, Stage.KILL: Stage.KILL, Stage.REMOVE: Stage.REMOVE}
_VERBS = {Stage.DRAIN: Verb.DRAIN, Stage.TERMINATE: Verb.TERMINATE, Stage.KILL: Verb.KILL, Stage.REMOVE: Verb.REMOVE}


def _enter_stage(replica: Replica, stage: Stage, now: float) -> Replica:
    timeout = {
        Stage.DRAIN: replica.spec.drain_grace,
        Stage.TERMINATE: replica.spec.terminate_grace,
        Stage.KILL: KILL_RETRY,
        Stage.REMOVE: REMOVE_RETRY,
    }[stage]
    since = replica.since if replica.state is State.STOPPING else now
    return replace(replica.enter(State.STOPPING, since, deadline=now + timeout), stage=stage)


def _next_stage(replica: Replica, now: float, result: Plan) -> None:
    if not _due(replica, now):
        return
    assert replica.stage is not None
    # A replica that is not alive (it exited, or never started) has nothing to drain, terminate or kill.
    stage = _NEXT[replica.stage] if replica.alive else Stage.REMOVE
    result.add(_enter_stage(replica, stage, now), _VERBS[stage])
