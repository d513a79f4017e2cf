"""State transitions: how a replica changes with an observation. Pure.

`REACTIONS` is a table with an entry for every pair of state and observation. The caller discards observations of
earlier instances. Times are monotonic seconds and passed in.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, get_args

from comet.events.event import Event
from comet.reconcile.observations import (
    Answered,
    Drained,
    Ejected,
    Exit,
    Exited,
    Found,
    Health,
    Hung,
    Lost,
    NotReady,
    Observation,
    Ready,
    Removed,
    Replaced,
    Revived,
    Started,
    StartFailed,
    Unreachable,
)
from comet.reconcile.recovery_timeline import observed, reported, timeline
from comet.reconcile.replica import Replica, Stage, State, event, exit_event

UNREACHABLE_GRACE = 3.0
"""Seconds without a good check after which a replica on an unreachable machine counts as dead."""


@dataclass(frozen=True)
class Now:
    """The present: monotonic seconds, and the number in [-1, 1] that spreads a backoff decided now."""

    time: float
    spread: float = 0.0


Change = tuple[Replica, tuple[Event, ...]]


def react(replica: Replica, observation: Observation, now: Now) -> Change:
    """Return the replica after the observation, and the events of the transition."""
    return REACTIONS[replica.state][type(observation)](replica, observation, now)


def _ignore(replica: Replica, observation: Any, now: Now) -> Change:
    return replica, ()


def _started(replica: Replica, observation: Started, now: Now) -> Change:
    endpoint = observation.endpoint
    known = replace(
        replica, pid=observation.pid, id=observation.id, recovery=observed(replica.recovery, "started", now.time)
    )
    return (known if endpoint is None else replace(known, endpoint=endpoint, remote=True)), ()


def _replaced(replica: Replica, observation: Replaced, now: Now) -> Change:
    endpoint = observation.endpoint
    moved = replace(
        replica,
        id=observation.id,
        endpoint=endpoint,
        remote=True,
        started=now.time,
        reason="",
        start_timed_out=False,
        unreachable="",
        recovered=(),
    )
    if observation.checked and replica.ready:
        after = moved.enter(State.READY, now.time, ready_since=now.time)
    else:
        after = moved.enter(State.STARTING, now.time, deadline=now.time + replica.spec.start_timeout)
    healthy_events = (
        (event("replica_healthy", after),) if replica.state is State.UNHEALTHY and after.state is State.READY else ()
    )
    return after, (event("replica_moved", after, former=replica.id, node=endpoint.node), *healthy_events)


def _replaced_while_stopping(replica: Replica, observation: Replaced, now: Now) -> Change:
    return replace(replica, id=observation.id, endpoint=observation.endpoint, remote=True), ()


def _ready(replica: Replica, observation: Ready, now: Now) -> Change:
    start_ms = round((now.time - replica.started) * 1000, 1)
    steps = replica.recovery
    if observation.listening is not None and replica.started <= observation.listening <= now.time:
        steps = reported(steps, "listening", observation.listening)
    steps = observed(steps, "ready", now.time)
    after = replica.enter(
        State.READY,
        now.time,
        ready_since=now.time,
        was_ready=True,
        reason="",
        start_timed_out=False,
        recovery=(),
        recovered=steps,
    )
    ready_event = event("replica_ready", after, start_ms=start_ms)
    return after, (
        replace(ready_event, fields={**ready_event.fields, "timeline_ms": timeline(steps)}) if steps else ready_event,
    )


def _not_ready(replica: Replica, observation: NotReady, now: Now) -> Change:
    return replace(replica, last_finding=observation.reason), ()


def _answered(replica: Replica, observation: Answered, now: Now) -> Change:
    if not replica.recovered:
        return replica, ()
    after = replace(replica, recovered=())
    return after, (
        event("first_answer", after, timeline_ms=timeline(reported(replica.recovered, "first answer", observation.at))),
    )


def _health(replica: Replica, observation: Health, now: Now) -> Change:
    if observation.healthy == (replica.state is State.READY):
        return replica, ()
    if observation.healthy:
        after = replica.enter(State.READY, now.time, ready_since=now.time, reason="", killed_for="")
        return after, (event("replica_healthy", after),)
    grace = UNREACHABLE_GRACE if replica.unreachable else replica.spec.unhealthy_grace
    deadline = None if grace is None else now.time + grace
    after = _unready(replica, now).enter(State.UNHEALTHY, now.time, deadline=deadline, reason=observation.reason)
    return after, (event("replica_unhealthy", after, reason=observation.reason),)


def _ejected(replica: Replica, observation: Ejected, now: Now) -> Change:
    if not observation.reason:
        return replica, (event("worker_readmitted", replica, lb=observation.balancer),)
    ejected = event(
        "worker_ejected", replica, lb=observation.balancer, reason=observation.reason, for_s=observation.seconds
    )
    return replica, (ejected,)


def _hung(replica: Replica, observation: Hung, now: Now) -> Change:
    # The planner acts on a deadline that has passed: it kills the replica.
    after = _unready(replica, now).enter(State.UNHEALTHY, now.time, deadline=now.time, reason=observation.reason)
    return after, (event("replica_unhealthy", after, reason=observation.reason),)


def _unreachable(replica: Replica, observation: Unreachable, now: Now) -> Change:
    if observation.reason and replica.state is State.STARTING:
        return _exited(replace(replica, reason=observation.reason, start_timed_out=False), Exited(), now)
    after = replace(replica, unreachable=observation.reason)
    if replica.state is State.UNHEALTHY:
        grace = UNREACHABLE_GRACE if observation.reason else replica.spec.unhealthy_grace
        after = replace(after, deadline=None if grace is None else replica.since + grace)
    return after, ()


def _start_failed(replica: Replica, observation: StartFailed, now: Now) -> Change:
    failed = replace(replica, reason=observation.reason, start_timed_out=observation.timed_out)
    after, backoff_events = _back_off(failed, now)
    return after, (event("replica_start_failed", replica, reason=observation.reason), *backoff_events)


def _exited(replica: Replica, observation: Exited, now: Now) -> Change:
    observation = Exited(_plausible_exit(observation.exit, now.time - replica.started))
    exited_event = exit_event(replica, observation.exit)
    steps = replica.recovery or (("noticed", now.time),)
    if observation.exit.detect_ms is not None and steps[0][0] == "noticed":
        steps = (("died", steps[0][1] - observation.exit.detect_ms / 1000), *steps)
    after, backoff_events = _back_off(replace(replica, last_exit=observation.exit, recovery=steps, recovered=()), now)
    return after, (exited_event, *backoff_events)


def _plausible_exit(exit: Exit, lived: float) -> Exit:
    """Drop a time of death that lies before the start or in the future: the wall clock was set in between."""
    if exit.detect_ms is not None and not 0 <= exit.detect_ms <= lived * 1000:
        return replace(exit, detect_ms=None)
    return exit


def _unready(replica: Replica, now: Now) -> Replica:
    """Mark it as not ready; earlier crashes are forgotten if it was ready for long enough."""
    stable = replica.ready_since is not None and now.time - replica.ready_since >= replica.spec.restart.stable
    return replace(replica, ready_since=None, failures=0 if stable else replica.failures)


def _back_off(replica: Replica, now: Now) -> Change:
    before = _unready(replica, now)
    failures = before.failures + 1
    delay = replica.spec.restart.delay(failures, now.spread)
    ended = replace(before, failures=failures, pid=None, remote=False, started=now.time, lost=False, unreachable="")
    after = ended.enter(State.BACKOFF, now.time, deadline=now.time + delay)
    if delay == 0:
        return after, ()
    return after, (event("backoff_entered", after, attempt=failures, delay_ms=round(delay * 1000)),)


def _revived(replica: Replica, observation: Revived, now: Now) -> Change:
    return replace(replica, deadline=now.time, failures=min(replica.failures, 1)), ()


def _exited_while_stopping(replica: Replica, observation: Exited, now: Now) -> Change:
    after = replace(replica, pid=None, remote=False, last_exit=observation.exit)
    exited_event = exit_event(replica, observation.exit)
    if after.stage is Stage.REMOVE:
        return after, (exited_event,)
    # The planner acts on a deadline that has passed: the next stage for something dead is its removal.
    return replace(after, stage=Stage.KILL, deadline=now.time), (exited_event,)


def _start_failed_while_stopping(replica: Replica, observation: StartFailed, now: Now) -> Change:
    return replace(replica, pid=None, remote=False, stage=Stage.KILL, deadline=now.time, reason=observation.reason), ()


def _hung_while_stopping(replica: Replica, observation: Hung, now: Now) -> Change:
    # It will neither drain nor end by itself. The planner acts on a deadline that has passed.
    if replica.stage not in (Stage.DRAIN, Stage.TERMINATE):
        return replica, ()
    return replace(replica, stage=Stage.TERMINATE, deadline=now.time, reason=observation.reason), ()


def _drained(replica: Replica, observation: Drained, now: Now) -> Change:
    return (replace(replica, deadline=now.time) if replica.stage is Stage.DRAIN else replica), ()


def _lost(replica: Replica, observation: Lost, now: Now) -> Change:
    return replace(replica, lost=True, recovery=(("noticed", now.time),), recovered=()), ()


def _found(replica: Replica, observation: Found, now: Now) -> Change:
    return (replace(replica, lost=False, recovery=()) if replica.lost else replica), ()


def _found_while_waiting(replica: Replica, observation: Found, now: Now) -> Change:
    # Starting a running replica takes it over as it is.
    return replace(replica, deadline=now.time), ()


def _lost_while_stopping(replica: Replica, observation: Lost, now: Now) -> Change:
    return replace(replica, lost=True), ()


def _removed(replica: Replica, observation: Removed, now: Now) -> Change:
    after = replica.enter(State.STOPPED, now.time, stage=None, pid=None, remote=False, id=None, ready_since=None)
    return after, (event("replica_stopped", after, id=replica.id),)


Reaction = Callable[[Replica, Any, Now], Change]

# Each row names what it handles and ignores the rest, so no pair is without an entry.
_IGNORED: dict[type, Reaction] = dict.fromkeys(get_args(Observation), _ignore)
_ALIVE = _IGNORED | {
    Started: _started,
    Replaced: _replaced,
    StartFailed: _start_failed,
    Unreachable: _unreachable,
    Lost: _lost,
    Found: _found,
    Exited: _exited,
}

REACTIONS: dict[State, dict[type, Reaction]] = {
    State.STARTING: _ALIVE | {Ready: _ready, NotReady: _not_ready},
    State.READY: _ALIVE | {Answered: _answered, Health: _health, Ejected: _ejected, Hung: _hung},
    State.UNHEALTHY: _ALIVE | {Answered: _answered, Health: _health, Ejected: _ejected, Hung: _hung},
    State.BACKOFF: _IGNORED | {Revived: _revived, Found: _found_while_waiting},
    State.STOPPING: _IGNORED
    | {
        Started: _started,
        Replaced: _replaced_while_stopping,
        StartFailed: _start_failed_while_stopping,
        Drained: _drained,
        Hung: _hung_while_stopping,
        Lost: _lost_while_stopping,
        Found: _found,
        Exited: _exited_while_stopping,
        Removed: _removed,
    },
    State.STOPPED: _IGNORED,
}
