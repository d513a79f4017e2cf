"""The table of reactions: every pair of state and observation has an answer, and the answers say what happened."""

import typing
from dataclasses import replace
from types import SimpleNamespace

import pytest

from comet.drivers.fake import slow
from comet.events import line
from comet.observation import (
    Answered,
    Drained,
    Endpoint,
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
from comet.reactions import REACTIONS, UNHEARD_GRACE, Moment, react
from comet.replica import Replica, Stage, State
from tests.comet.fakes import House, spec

EXAMPLES: dict[type, Observation] = {
    Started: Started(7, "7"),
    StartFailed: StartFailed("no such image"),
    Ready: Ready(),
    Answered: Answered(100.0),
    Health: Health(False, "refused"),
    Hung: Hung("hung"),
    Unheard: Unheard("its node is down"),
    Drained: Drained(),
    Lost: Lost(),
    Exited: Exited(Exit(code=1)),
    Removed: Removed(),
    Revived: Revived(),
    Replaced: Replaced("8", Endpoint("127.0.0.1", 6000)),
}


def replica(state: State, **changes: typing.Any) -> Replica:
    stage = Stage.TERMINATE if state is State.STOPPING else None
    return replace(Replica(spec("worker-0"), state=state, stage=stage, instance=1, pid=7, id="7", started=100.0), **changes)


def test_every_pair_of_state_and_observation_has_an_answer() -> None:
    kinds = set(typing.get_args(Observation))
    assert kinds == set(EXAMPLES)
    assert {state: set(row) for state, row in REACTIONS.items()} == dict.fromkeys(State, kinds)


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("kind", list(EXAMPLES))
def test_no_answer_invents_a_start_or_loses_the_identity(state: State, kind: type) -> None:
    before = replica(state)
    after, _ = react(before, EXAMPLES[kind], Moment(now=105.0))
    assert (after.spec, after.wanted, after.instance) == (before.spec, before.wanted, before.instance)
    # Only the plan starts something (or a swarm, which says so), and only a removal ends it.
    assert after.state is before.state or after.state is not State.STARTING or kind is Replaced
    assert after.state is not State.STOPPED or kind is Removed or state is State.STOPPED


def test_ready_tells_how_long_the_start_took() -> None:
    after, (event,) = react(replica(State.STARTING), Ready(), Moment(now=100.64))
    assert after.state is State.READY
    assert (event.name, event.fields["start_ms"]) == ("replica_ready", 640.0)


def test_health_speaks_on_the_edge_only() -> None:
    sick, (event,) = react(replica(State.READY), Health(False, "timeout"), Moment(now=101))
    assert (sick.state, event.name, event.fields["reason"]) == (State.UNHEALTHY, "replica_unhealthy", "timeout")
    again, events = react(sick, Health(False, "timeout"), Moment(now=102))
    assert (again, events) == (sick, ())
    well, (event,) = react(sick, Health(True), Moment(now=103))
    assert (well.state, event.name) == (State.READY, "replica_healthy")


def test_an_exit_is_kept_and_told_with_its_signal() -> None:
    exit = Exit(code=-9, signal="SIGKILL", at="2026-11-23T10:00:00.123Z", detect_ms=0.4)
    after, (event,) = react(replica(State.READY), Exited(exit), Moment(now=101))
    assert after.state is State.BACKOFF
    assert after.last_exit == exit
    assert event.name == "replica_exited"
    assert {"code": -9, "signal": "SIGKILL", "detect_ms": 0.4}.items() <= event.fields.items()


def test_crashes_are_forgotten_after_a_stable_time() -> None:
    crashed = replica(State.READY, failures=5, ready_since=100.0)
    early, _ = react(crashed, Exited(), Moment(now=109.9))
    late, _ = react(crashed, Exited(), Moment(now=110.0))
    assert (early.failures, late.failures) == (6, 1)
    assert late.deadline == 110.0


def test_crashes_are_forgotten_too_when_sickness_comes_before_death() -> None:
    sick, _ = react(replica(State.READY, failures=5, ready_since=100.0), Health(False, "closed"), Moment(now=120.0))
    dead, _ = react(sick, Exited(), Moment(now=120.1))
    assert dead.failures == 1
    assert dead.deadline == 120.1


def test_a_dead_replica_that_was_to_stop_needs_only_its_removal() -> None:
    after, _ = react(replica(State.STOPPING), Exited(Exit(code=0)), Moment(now=101))
    assert (after.state, after.pid, after.deadline) == (State.STOPPING, None, 101)


def test_a_recovery_is_one_timeline_from_death_to_the_first_answer() -> None:
    house = House(spec("worker-0"), script=slow)
    house.supervisor.observe("worker-0", 1, Ready())
    house.time.advance(60)
    house.supervisor.observe("worker-0", 1, Lost())
    house.time.advance(0.15)
    house.supervisor.observe("worker-0", 1, Exited(Exit(code=137, signal="SIGKILL", detect_ms=30.0)))
    house.time.advance(0.4)
    listening = house.time.now - 0.1
    house.supervisor.observe("worker-0", 2, Ready(listening))
    told = house.events[-1]
    steps = {"died": 0.0, "noticed": 30.0, "decided": 180.0, "started": 180.0, "listening": 480.0, "ready": 580.0}
    assert told.fields["timeline_ms"] == steps
    assert "timeline_ms" not in house.events[1].fields  # A first start is no recovery.
    assert line({"event": told.name, "replica": told.replica, **told.fields}) == (
        "worker-0 ready after 400 ms (noticed 30, decided 180, started 180, listening 480, ready 580 ms after it died)"
    )
    house.supervisor.observe("worker-0", 2, Answered(listening + 0.15))
    house.supervisor.observe("worker-0", 2, Answered(listening + 0.25))
    first = house.events[-1]
    assert [event.name for event in house.events].count("first_answer") == 1
    assert first.fields["timeline_ms"] == steps | {"first answer": 630.0}
    assert line({"event": first.name, "replica": first.replica, **first.fields}) == "worker-0 answers again, 630 ms after it died"


def test_news_that_comes_late_puts_no_cause_after_its_effect() -> None:
    """A process listens and answers by its own clock; that it was started and is ready is heard of a little later."""
    house = House(spec("worker-0"), script=lambda name, instance: ())
    house.supervisor.observe("worker-0", 1, Ready())
    house.time.advance(60)
    house.supervisor.observe("worker-0", 1, Exited(Exit(code=1)))
    house.time.advance(0.1)
    listening = house.time.now - 0.03
    house.supervisor.observe("worker-0", 2, Started(7, "7"))
    house.time.advance(0.1)
    house.supervisor.observe("worker-0", 2, Ready(listening))
    assert house.events[-1].fields["timeline_ms"] == {"noticed": 0, "decided": 0, "started": 70, "listening": 70, "ready": 200}
    house.supervisor.observe("worker-0", 2, Answered(listening + 0.05))
    answered = {"noticed": 0, "decided": 0, "started": 70, "listening": 70, "ready": 120, "first answer": 120}
    assert house.events[-1].fields["timeline_ms"] == answered


def test_an_answer_before_any_death_is_no_recovery() -> None:
    house = House(spec("worker-0"), script=slow)
    house.supervisor.observe("worker-0", 1, Ready())
    house.supervisor.observe("worker-0", 1, Answered(house.time.now))
    assert [event.name for event in house.events] == ["replica_starting", "replica_ready"]


def test_a_death_before_the_first_answer_begins_a_new_timeline() -> None:
    house = House(spec("worker-0"), script=slow)
    house.supervisor.observe("worker-0", 1, Ready())
    for instance in (1, 2):
        house.time.advance(60)
        house.supervisor.observe("worker-0", instance, Exited(Exit(code=1)))
        house.time.advance(1)
        house.supervisor.observe("worker-0", instance + 1, Ready())
    house.supervisor.observe("worker-0", 3, Answered(house.time.now + 0.5))
    assert house.events[-1].fields["timeline_ms"]["first answer"] == 1500.0


@pytest.mark.parametrize("detect_ms", [3_600_000.0, -3_600_000.0])
def test_a_wall_clock_that_jumps_moves_no_death(detect_ms: float) -> None:
    house = House(spec("worker-0"), script=slow)
    house.supervisor.observe("worker-0", 1, Ready())
    house.time.advance(60)
    house.supervisor.observe("worker-0", 1, Exited(Exit(code=1, detect_ms=detect_ms)))
    exited = next(event for event in house.events if event.name == "replica_exited")
    assert "detect_ms" not in exited.fields
    house.supervisor.observe("worker-0", 2, Ready())
    assert next(iter(house.events[-1].fields["timeline_ms"])) == "noticed"
    assert house.supervisor.replicas["worker-0"].restarts == 1


DOWN = "its node h2 is down"


def test_what_is_not_heard_of_and_answers_is_alive() -> None:
    unheard, events = react(replica(State.READY, ready_since=100.0), Unheard(DOWN), Moment(now=110.0))
    assert (unheard.state, unheard.unheard, events) == (State.READY, DOWN, ())
    again, events = react(unheard, Unheard(), Moment(now=111.0))
    assert (again.unheard, events) == ("", ())
    sick, _ = react(again, Health(False, "no answer"), Moment(now=112.0))
    assert sick.state is State.UNHEALTHY


@pytest.mark.parametrize("order", [(Health(False, "no answer"), Unheard(DOWN)), (Unheard(DOWN), Health(False, "no answer"))])
def test_what_is_neither_heard_of_nor_answers_is_dead(order: tuple[Observation, ...]) -> None:
    house = House(spec("worker-0", unhealthy_grace=None), script=slow)
    house.supervisor.observe("worker-0", 1, Ready())
    for observation in order:
        house.supervisor.observe("worker-0", 1, observation)
    house.time.advance(UNHEARD_GRACE - 0.1)
    assert ("kill", "worker-0") not in house.driver.calls
    house.time.advance(0.2)
    assert ("kill", "worker-0") in house.driver.calls


@pytest.mark.parametrize("news", [Health(True), Unheard()])
def test_what_answers_or_is_heard_of_in_time_is_not_dead(news: Observation) -> None:
    """A check may fail for a reason of our own, once."""
    house = House(spec("worker-0", unhealthy_grace=None), script=slow)
    for observation in (Ready(), Unheard(DOWN), Health(False, "no answer"), news):
        house.supervisor.observe("worker-0", 1, observation)
    house.time.advance(60)
    assert house.supervisor.replicas["worker-0"].instance == 1
    assert all(call[0] != "kill" for call in house.driver.calls)


def test_load_balancers_are_told_to_look_at_what_is_not_heard_of() -> None:
    house, doubts = House(spec("worker-0")), []
    house.supervisor.router = SimpleNamespace(publish=lambda table: None, doubt=lambda *doubt: doubts.append(doubt))  # type: ignore[assignment]
    house.supervisor.observe("worker-0", 1, Unheard(DOWN))
    house.supervisor.observe("worker-0", 1, Unheard())
    assert doubts == [("worker-0", DOWN)]


def test_one_that_starts_where_nobody_is_heard_of_is_dead() -> None:
    after, _ = react(replica(State.STARTING), Unheard(DOWN), Moment(now=110.0))
    assert (after.state, after.reason) == (State.BACKOFF, DOWN)


def test_a_sick_one_that_is_replaced_by_one_that_answers_is_well() -> None:
    sick = replica(State.UNHEALTHY, reason="no answer")
    after, events = react(sick, Replaced("8", Endpoint("127.0.0.1", 6000), checked=True), Moment(now=110.0))
    assert [event.name for event in events] == ["replica_moved", "replica_healthy"]
    assert (after.state, after.reason) == (State.READY, "")


def test_a_planned_end_is_no_recovery() -> None:
    after, events = react(replica(State.STOPPING), Lost(), Moment(now=101.0))
    assert (after.lost, after.recovery, events) == (True, (), ())
