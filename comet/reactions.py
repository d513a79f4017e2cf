"""How a replica reacts to what is seen of it. Pure.

`REACTIONS` is a table with an answer for every pair of state and observation. What a driver still tells of an earlier instance is ignored
by whoever feeds the table. Moments are monotonic seconds, handed in.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, get_args

from comet.events import Event
from comet.observation import (
    Answered,
    Drained,
    Exit,
    Exited,
    Health,
    Hung,
    Lost,
    Observation,
    Ready,
    Removed,
    Replaced,
    Revived,
    Started,
    StartFailed,
    Unheard,
)
from comet.replica import Replica, Stage, State, event, exit_event
from comet.timeline import heard, timeline, witnessed

UNHEARD_GRACE = 3.0
"""Seconds after which what does not answer, on a machine that nobody hears of, is dead: more than a check that fails for another reason."""


@dataclass(frozen=True)
class Moment:
    """Now: monotonic seconds, and the number in [-1, 1] by which a backoff decided now is spread."""

    now: float
    spread: float = 0.0


Change = tuple[Replica, tuple[Event, ...]]


def react(replica: Replica, observation: Observation, moment: Moment) -> Change:
    """The replica after the observation, and what has happened thereby."""
    return REACTIONS[replica.state][type(observation)](replica, observation, moment)


def _ignore(replica: Replica, observation: Any, moment: Moment) -> Change:
    return replica, ()


def _started(replica: Replica, observation: Started, moment: Moment) -> Change:
    place = observation.endpoint
    known = replace(replica, pid=observation.pid, id=observation.id, recovery=heard(replica.recovery, "started", moment.now))
    return (known if place is None else replace(known, endpoint=place, remote=True)), ()


def _replaced(replica: Replica, observation: Replaced, moment: Moment) -> Change:
    place = observation.endpoint
    here = replace(replica, id=observation.id, endpoint=place, remote=True, started=moment.now, reason="", unheard="", recovered=())
    if observation.checked and replica.ready:
        after = here.enter(State.READY, moment.now, ready_since=moment.now)
    else:
        after = here.enter(State.STARTING, moment.now, deadline=moment.now + replica.spec.start_timeout)
    healed = (event("replica_healthy", after),) if replica.state is State.UNHEALTHY and after.state is State.READY else ()
    return after, (event("replica_moved", after, former=replica.id, node=place.node), *healed)


def _replaced_while_stopping(replica: Replica, observation: Replaced, moment: Moment) -> Change:
    return replace(replica, id=observation.id, endpoint=observation.endpoint, remote=True), ()


def _ready(replica: Replica, observation: Ready, moment: Moment) -> Change:
    start_ms = round((moment.now - replica.started) * 1000, 1)
    steps = replica.recovery
    if observation.listening is not None and replica.started <= observation.listening <= moment.now:
        steps = witnessed(steps, "listening", observation.listening)
    steps = heard(steps, "ready", moment.now)
    after = replica.enter(State.READY, moment.now, ready_since=moment.now, was_ready=True, reason="", recovery=(), recovered=steps)
    told = event("replica_ready", after, start_ms=start_ms)
    return after, (replace(told, fields={**told.fields, "timeline_ms": timeline(steps)}) if steps else told,)


def _answered(replica: Replica, observation: Answered, moment: Moment) -> Change:
    if not replica.recovered:
        return replica, ()
    after = replace(replica, recovered=())
    return after, (event("first_answer", after, timeline_ms=timeline(witnessed(replica.recovered, "first answer", observation.at))),)


def _health(replica: Replica, observation: Health, moment: Moment) -> Change:
    if observation.healthy == (replica.state is State.READY):
        return replica, ()
    if observation.healthy:
        after = replica.enter(State.READY, moment.now, ready_since=moment.now, reason="")
        return after, (event("replica_healthy", after),)
    grace = UNHEARD_GRACE if replica.unheard else replica.spec.unhealthy_grace
    deadline = None if grace is None else moment.now + grace
    after = _unready(replica, moment).enter(State.UNHEALTHY, moment.now, deadline=deadline, reason=observation.reason)
    return after, (event("replica_unhealthy", after, reason=observation.reason),)


def _hung(replica: Replica, observation: Hung, moment: Moment) -> Change:
    # The plan acts on a deadline that has passed: it kills.
    after = _unready(replica, moment).enter(State.UNHEALTHY, moment.now, deadline=moment.now, reason=observation.reason)
    return after, (event("replica_unhealthy", after, reason=observation.reason),)


def _unheard(replica: Replica, observation: Unheard, moment: Moment) -> Change:
    if observation.reason and replica.state is State.STARTING:
        return _exited(replace(replica, reason=observation.reason), Exited(), moment)
    after = replace(replica, unheard=observation.reason)
    if replica.state is State.UNHEALTHY:
        grace = UNHEARD_GRACE if observation.reason else replica.spec.unhealthy_grace
        after = replace(after, deadline=None if grace is None else replica.since + grace)
    return after, ()


def _start_failed(replica: Replica, observation: StartFailed, moment: Moment) -> Change:
    after, more = _back_off(replace(replica, reason=observation.reason), moment)
    return after, (event("replica_start_failed", replica, reason=observation.reason), *more)


def _exited(replica: Replica, observation: Exited, moment: Moment) -> Change:
    observation = Exited(_plausible(observation.exit, moment.now - replica.started))
    told = exit_event(replica, observation.exit)
    steps = replica.recovery or (("noticed", moment.now),)
    if observation.exit.detect_ms is not None and steps[0][0] == "noticed":
        steps = (("died", steps[0][1] - observation.exit.detect_ms / 1000), *steps)
    after, more = _back_off(replace(replica, last_exit=observation.exit, recovery=steps, recovered=()), moment)
    return after, (told, *more)


def _plausible(exit: Exit, lived: float) -> Exit:
    """A death is no longer ago than the start: where it seems so, or to lie ahead, somebody set the wall clock in between."""
    if exit.detect_ms is not None and not 0 <= exit.detect_ms <= lived * 1000:
        return replace(exit, detect_ms=None)
    return exit


def _unready(replica: Replica, moment: Moment) -> Replica:
    """No longer ready, by sickness or by death: if it was for long enough, what crashes there were before are forgotten."""
    stable = replica.ready_since is not None and moment.now - replica.ready_since >= replica.spec.restart.stable
    return replace(replica, ready_since=None, failures=0 if stable else replica.failures)


def _back_off(replica: Replica, moment: Moment) -> Change:
    before = _unready(replica, moment)
    failures = before.failures + 1
    delay = replica.spec.restart.delay(failures, moment.spread)
    ended = replace(before, failures=failures, pid=None, remote=False, started=moment.now, lost=False, unheard="")
    after = ended.enter(State.BACKOFF, moment.now, deadline=moment.now + delay)
    if delay == 0:
        return after, ()
    return after, (event("backoff_entered", after, attempt=failures, delay_ms=round(delay * 1000)),)


def _revived(replica: Replica, observation: Revived, moment: Moment) -> Change:
    return replace(replica, deadline=moment.now, failures=min(replica.failures, 1)), ()


def _exited_while_stopping(replica: Replica, observation: Exited, moment: Moment) -> Change:
    after = replace(replica, pid=None, remote=False, last_exit=observation.exit)
    told = exit_event(replica, observation.exit)
    if after.stage is Stage.REMOVE:
        return after, (told,)
    # The plan acts on a deadline that has passed: the next rung for something dead is its removal.
    return replace(after, stage=Stage.KILL, deadline=moment.now), (told,)


def _start_failed_while_stopping(replica: Replica, observation: StartFailed, moment: Moment) -> Change:
    return replace(replica, pid=None, remote=False, stage=Stage.KILL, deadline=moment.now, reason=observation.reason), ()


def _drained(replica: Replica, observation: Drained, moment: Moment) -> Change:
    return (replace(replica, deadline=moment.now) if replica.stage is Stage.DRAIN else replica), ()


def _lost(replica: Replica, observation: Lost, moment: Moment) -> Change:
    return replace(replica, lost=True, recovery=(("noticed", moment.now),), recovered=()), ()


def _lost_while_stopping(replica: Replica, observation: Lost, moment: Moment) -> Change:
    return replace(replica, lost=True), ()


def _removed(replica: Replica, observation: Removed, moment: Moment) -> Change:
    after = replica.enter(State.STOPPED, moment.now, stage=None, pid=None, remote=False, id=None, ready_since=None)
    return after, (event("replica_stopped", after, id=replica.id),)


Reaction = Callable[[Replica, Any, Moment], Change]

# A row names what is answered; all else is ignored, and by the way of building it no pair can be without an answer.
_IGNORED: dict[type, Reaction] = dict.fromkeys(get_args(Observation), _ignore)
_ALIVE = _IGNORED | {
    Started: _started,
    Replaced: _replaced,
    StartFailed: _start_failed,
    Unheard: _unheard,
    Lost: _lost,
    Exited: _exited,
}

REACTIONS: dict[State, dict[type, Reaction]] = {
    State.STARTING: _ALIVE | {Ready: _ready},
    State.READY: _ALIVE | {Answered: _answered, Health: _health, Hung: _hung},
    State.UNHEALTHY: _ALIVE | {Answered: _answered, Health: _health, Hung: _hung},
    State.BACKOFF: _IGNORED | {Revived: _revived},
    State.STOPPING: _IGNORED
    | {
        Started: _started,
        Replaced: _replaced_while_stopping,
        StartFailed: _start_failed_while_stopping,
        Drained: _drained,
        Lost: _lost_while_stopping,
        Exited: _exited_while_stopping,
        Removed: _removed,
    },
    State.STOPPED: _IGNORED,
}
