"""The table of reactions: every pair of state and observation has an answer, and the answers say what happened."""

import typing
from dataclasses import replace
from types import SimpleNamespace

import pytest

from comet.events.event import line
from comet.events.recovery_groups import backoff_ms, own_ms
from comet.reconcile.observations import (
    Answered,
    Drained,
    Ejected,
    Endpoint,
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
from comet.reconcile.replica import Replica, Stage, State, Wanted
from comet.reconcile.transitions import REACTIONS, UNREACHABLE_GRACE, Now, react
from tests.support.fake_driver import slow
from tests.support.fakes import SupervisorHarness, spec

EXAMPLES: dict[type, Observation] = {
    Started: Started(7, "7"),
    StartFailed: StartFailed("no such image"),
    Ready: Ready(),
    Answered: Answered(100.0),
    Health: Health(False, "refused"),
    Ejected: Ejected("lb-0", "3 server errors in a row", 30.0),
    Hung: Hung("hung"),
    NotReady: NotReady("GET /: status 400"),
    Unreachable: Unreachable("its node is down"),
    Drained: Drained(),
    Lost: Lost(),
    Found: Found(),
    Exited: Exited(Exit(code=1)),
    Removed: Removed(),
    Revived: Revived(),
    Replaced: Replaced("8", Endpoint("127.0.0.1", 6000)),
}


def replica(state: State, **changes: typing.Any) -> Replica:
    stage = Stage.TERMINATE if state is State.STOPPING else None
    return replace(
        Replica(spec("worker-0"), state=state, stage=stage, instance=1, pid=7, id="7", started=100.0), **changes
    )


def test_every_pair_of_state_and_observation_has_an_answer() -> None:
    kinds = set(typing.get_args(Observation))
    assert kinds == set(EXAMPLES)
    assert {state: set(row) for state, row in REACTIONS.items()} == dict.fromkeys(State, kinds)


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("kind", list(EXAMPLES))
def test_no_answer_invents_a_start_or_loses_the_identity(state: State, kind: type) -> None:
    before = replica(state)
    after, _ = react(before, EXAMPLES[kind], Now(time=105.0))
    assert (after.spec, after.wanted, after.instance) == (before.spec, before.wanted, before.instance)
    # Only the plan starts something (or a swarm, which says so), and only a removal ends it.
    assert after.state is before.state or after.state is not State.STARTING or kind is Replaced
    assert after.state is not State.STOPPED or kind is Removed or state is State.STOPPED


def test_ready_tells_how_long_the_start_took() -> None:
    after, (event,) = react(replica(State.STARTING), Ready(), Now(time=100.64))
    assert after.state is State.READY
    assert (event.name, event.fields["start_ms"]) == ("replica_ready", 640.0)


def test_health_speaks_on_the_edge_only() -> None:
    unhealthy, (event,) = react(replica(State.READY), Health(False, "timeout"), Now(time=101))
    assert (unhealthy.state, event.name, event.fields["reason"]) == (State.UNHEALTHY, "replica_unhealthy", "timeout")
    again, events = react(unhealthy, Health(False, "timeout"), Now(time=102))
    assert (again, events) == (unhealthy, ())
    healthy, (event,) = react(unhealthy, Health(True), Now(time=103))
    assert (healthy.state, event.name) == (State.READY, "replica_healthy")


def test_an_exit_is_kept_and_told_with_its_signal() -> None:
    exit = Exit(code=-9, signal="SIGKILL", at="2026-11-23T10:00:00.123Z", detect_ms=0.4)
    after, (event,) = react(replica(State.READY), Exited(exit), Now(time=101))
    assert after.state is State.BACKOFF
    assert after.last_exit == exit
    assert event.name == "replica_exited"
    assert {"code": -9, "signal": "SIGKILL", "detect_ms": 0.4}.items() <= event.fields.items()


@pytest.mark.parametrize(
    ("state", "stage", "exit", "shown"),
    [
        (State.STOPPING, Stage.DRAIN, Exit(code=0), "ended: exit 0"),
        (State.STOPPING, Stage.DRAIN, Exit(code=1), "crashed: exit 1"),
        (State.STOPPING, Stage.DRAIN, Exit(code=-9, signal="SIGKILL"), "crashed: SIGKILL"),
        (State.STOPPING, Stage.TERMINATE, Exit(code=0), "ended: exit 0"),
        (State.STOPPING, Stage.TERMINATE, Exit(code=1), "ended: exit 1"),
        (State.STOPPING, Stage.TERMINATE, Exit(code=-15, signal="SIGTERM"), "ended: SIGTERM"),
        (State.STOPPING, Stage.TERMINATE, Exit(code=-11, signal="SIGSEGV"), "crashed: SIGSEGV"),
        (State.STOPPING, Stage.TERMINATE, Exit(code=137, signal="SIGKILL", oom=True), "crashed: SIGKILL (out of mem"),
        (State.STOPPING, Stage.KILL, Exit(code=-9, signal="SIGKILL"), "ended: SIGKILL"),
        (State.READY, None, Exit(code=0), "crashed: exit 0"),
        (State.READY, None, Exit(code=-15, signal="SIGTERM"), "crashed: SIGTERM"),
    ],
)
def test_only_an_end_that_nobody_ordered_is_called_a_crash(
    state: State, stage: Stage | None, exit: Exit, shown: str
) -> None:
    _, (event, *_) = react(replica(state, stage=stage), Exited(exit), Now(time=101))
    assert line({"event": event.name, **event.fields}).startswith(shown)


def test_an_end_by_the_supervisors_kill_says_why() -> None:
    harness = SupervisorHarness(spec("worker-0", unhealthy_grace=5.0), script=slow)
    harness.supervisor.observe("worker-0", 1, Ready())
    harness.supervisor.observe("worker-0", None, Health(False, "lb-0 finds: no answer in 2 s"))
    harness.time.advance(6)
    assert ("kill", "worker-0") in [each[:2] for each in harness.driver.calls]
    killed = Exited(Exit(code=-9, signal="SIGKILL"))
    harness.supervisor.observe("worker-0", 1, killed)
    told = next(each for each in harness.events if each.name == "replica_exited")
    assert line({"event": told.name, **told.fields}) == (
        "killed by the supervisor (lb-0 finds: no answer in 2 s): SIGKILL"
    )
    assert told.fields["ordered"] is False
    # The next life, and one that became healthy again in time, has nothing of it.
    harness.time.advance(1)
    harness.supervisor.observe("worker-0", 2, Ready())
    harness.supervisor.observe("worker-0", 2, killed)
    assert "reason" not in harness.events[-1].fields | harness.events[-2].fields


def test_an_end_while_others_have_to_stop_first_is_no_crash() -> None:
    before = replica(State.READY, wanted=Wanted.DOWN)
    for exit, ordered in ((Exit(code=0), True), (Exit(code=-15, signal="SIGTERM"), True), (Exit(code=1), False)):
        _, (event, *_) = react(before, Exited(exit), Now(time=101))
        assert event.fields["ordered"] is ordered


def test_crashes_are_forgotten_after_a_stable_time() -> None:
    crashed = replica(State.READY, failures=5, ready_since=100.0)
    early, _ = react(crashed, Exited(), Now(time=109.9))
    late, _ = react(crashed, Exited(), Now(time=110.0))
    assert (early.failures, late.failures) == (6, 1)
    assert late.deadline == 110.0


def test_crash_counts_reset_when_unhealthy_before_death_too() -> None:
    unhealthy, _ = react(replica(State.READY, failures=5, ready_since=100.0), Health(False, "closed"), Now(time=120.0))
    dead, _ = react(unhealthy, Exited(), Now(time=120.1))
    assert dead.failures == 1
    assert dead.deadline == 120.1


def test_a_dead_replica_that_was_to_stop_needs_only_its_removal() -> None:
    after, _ = react(replica(State.STOPPING), Exited(Exit(code=0)), Now(time=101))
    assert (after.state, after.pid, after.deadline) == (State.STOPPING, None, 101)


def test_a_recovery_is_one_timeline_up_to_the_first_answer() -> None:
    harness = SupervisorHarness(spec("worker-0"), script=slow)
    harness.supervisor.observe("worker-0", 1, Ready())
    harness.time.advance(60)
    harness.supervisor.observe("worker-0", 1, Lost())
    harness.time.advance(0.15)
    harness.supervisor.observe("worker-0", 1, Exited(Exit(code=137, signal="SIGKILL", detect_ms=30.0)))
    harness.time.advance(0.4)
    listening = harness.time.now - 0.1
    harness.supervisor.observe("worker-0", 2, Ready(listening))
    told = harness.events[-1]
    steps = {"died": 0.0, "noticed": 30.0, "decided": 180.0, "started": 180.0, "listening": 480.0, "ready": 580.0}
    assert told.fields["timeline_ms"] == steps
    assert "timeline_ms" not in harness.events[1].fields  # A first start is no recovery.
    assert line({"event": told.name, "replica": told.replica, **told.fields}) == (
        "worker-0 ready 580 ms after its death (noticed 30.0 ms, decided 180 ms, "
        "started 180 ms, listening 480 ms; Worker as process)"
    )
    harness.supervisor.observe("worker-0", 2, Answered(listening + 0.15))
    harness.supervisor.observe("worker-0", 2, Answered(listening + 0.25))
    first = harness.events[-1]
    assert [event.name for event in harness.events].count("first_answer") == 1
    assert first.fields["timeline_ms"] == steps | {"first answer": 630.0}
    assert (
        line({"event": first.name, "replica": first.replica, **first.fields})
        == "worker-0 first answer 630 ms after its death"
    )


def test_news_that_comes_late_puts_no_cause_after_its_effect() -> None:
    """A process listens and answers by its own clock; that it was started and is ready is heard of a little later."""
    harness = SupervisorHarness(spec("worker-0"), script=lambda name, instance: ())
    harness.supervisor.observe("worker-0", 1, Ready())
    harness.time.advance(60)
    harness.supervisor.observe("worker-0", 1, Exited(Exit(code=1)))
    harness.time.advance(0.1)
    listening = harness.time.now - 0.03
    harness.supervisor.observe("worker-0", 2, Started(7, "7"))
    harness.time.advance(0.1)
    harness.supervisor.observe("worker-0", 2, Ready(listening))
    assert harness.events[-1].fields["timeline_ms"] == {
        "noticed": 0,
        "decided": 0,
        "started": 70,
        "listening": 70,
        "ready": 200,
    }
    harness.supervisor.observe("worker-0", 2, Answered(listening + 0.05))
    answered = {"noticed": 0, "decided": 0, "started": 70, "listening": 70, "ready": 120, "first answer": 120}
    assert harness.events[-1].fields["timeline_ms"] == answered


def test_an_answer_before_any_death_is_no_recovery() -> None:
    harness = SupervisorHarness(spec("worker-0"), script=slow)
    harness.supervisor.observe("worker-0", 1, Ready())
    harness.supervisor.observe("worker-0", 1, Answered(harness.time.now))
    assert [event.name for event in harness.events] == ["replica_starting", "replica_ready"]


def test_a_death_before_the_first_answer_begins_a_new_timeline() -> None:
    harness = SupervisorHarness(spec("worker-0"), script=slow)
    harness.supervisor.observe("worker-0", 1, Ready())
    for instance in (1, 2):
        harness.time.advance(60)
        harness.supervisor.observe("worker-0", instance, Exited(Exit(code=1)))
        harness.time.advance(1)
        harness.supervisor.observe("worker-0", instance + 1, Ready())
    harness.supervisor.observe("worker-0", 3, Answered(harness.time.now + 0.5))
    assert harness.events[-1].fields["timeline_ms"]["first answer"] == 1500.0


@pytest.mark.parametrize("detect_ms", [3_600_000.0, -3_600_000.0])
def test_a_wall_clock_that_jumps_moves_no_death(detect_ms: float) -> None:
    harness = SupervisorHarness(spec("worker-0"), script=slow)
    harness.supervisor.observe("worker-0", 1, Ready())
    harness.time.advance(60)
    harness.supervisor.observe("worker-0", 1, Exited(Exit(code=1, detect_ms=detect_ms)))
    exited = next(event for event in harness.events if event.name == "replica_exited")
    assert "detect_ms" not in exited.fields
    harness.supervisor.observe("worker-0", 2, Ready())
    assert next(iter(harness.events[-1].fields["timeline_ms"])) == "noticed"
    assert harness.supervisor.replicas["worker-0"].restarts == 1


def test_a_wait_before_a_further_attempt_is_a_step_of_its_own() -> None:
    harness = SupervisorHarness(spec("worker-0"), script=slow)
    harness.supervisor.observe("worker-0", 1, Ready())
    for instance in (1, 2):
        harness.time.advance(0.5)
        harness.supervisor.observe("worker-0", instance, Exited(Exit(code=1, detect_ms=20.0)))
    waited = harness.events[-1].fields["delay_ms"]
    assert harness.events[-1].name == "backoff_entered"
    harness.time.advance(waited / 1000)
    harness.supervisor.tick()
    harness.time.advance(0.3)
    harness.supervisor.observe("worker-0", 3, Ready())
    steps = harness.events[-1].fields["timeline_ms"]
    assert list(steps) == ["died", "noticed", "backoff", "decided", "started", "ready"]
    assert backoff_ms(steps) >= waited
    assert own_ms(steps) == pytest.approx(320.0, abs=1.0)


def test_the_first_restart_waits_for_nothing() -> None:
    harness = SupervisorHarness(spec("worker-0"), script=slow)
    harness.supervisor.observe("worker-0", 1, Ready())
    harness.time.advance(60)
    harness.supervisor.observe("worker-0", 1, Exited(Exit(code=1)))
    harness.supervisor.observe("worker-0", 2, Ready())
    assert "backoff" not in harness.events[-1].fields["timeline_ms"]


DOWN = "its node h2 is down"


def test_what_is_not_heard_of_and_answers_is_alive() -> None:
    unreachable, events = react(replica(State.READY, ready_since=100.0), Unreachable(DOWN), Now(time=110.0))
    assert (unreachable.state, unreachable.unreachable, events) == (State.READY, DOWN, ())
    again, events = react(unreachable, Unreachable(), Now(time=111.0))
    assert (again.unreachable, events) == ("", ())
    unhealthy, _ = react(again, Health(False, "no answer"), Now(time=112.0))
    assert unhealthy.state is State.UNHEALTHY


@pytest.mark.parametrize(
    "order", [(Health(False, "no answer"), Unreachable(DOWN)), (Unreachable(DOWN), Health(False, "no answer"))]
)
def test_what_is_neither_heard_of_nor_answers_is_dead(order: tuple[Observation, ...]) -> None:
    harness = SupervisorHarness(spec("worker-0", unhealthy_grace=None), script=slow)
    harness.supervisor.observe("worker-0", 1, Ready())
    for observation in order:
        harness.supervisor.observe("worker-0", 1, observation)
    harness.time.advance(UNREACHABLE_GRACE - 0.1)
    assert ("kill", "worker-0") not in harness.driver.calls
    harness.time.advance(0.2)
    assert ("kill", "worker-0") in harness.driver.calls


@pytest.mark.parametrize("news", [Health(True), Unreachable()])
def test_what_answers_or_is_heard_of_in_time_is_not_dead(news: Observation) -> None:
    """A check may fail for a reason of our own, once."""
    harness = SupervisorHarness(spec("worker-0", unhealthy_grace=None), script=slow)
    for observation in (Ready(), Unreachable(DOWN), Health(False, "no answer"), news):
        harness.supervisor.observe("worker-0", 1, observation)
    harness.time.advance(60)
    assert harness.supervisor.replicas["worker-0"].instance == 1
    assert all(call[0] != "kill" for call in harness.driver.calls)


def test_load_balancers_are_told_to_look_at_what_is_not_heard_of() -> None:
    harness, suspects = SupervisorHarness(spec("worker-0")), []
    harness.supervisor.router = SimpleNamespace(
        publish=lambda table: None, mark_suspect=lambda *suspect: suspects.append(suspect)
    )  # type: ignore[assignment]
    harness.supervisor.observe("worker-0", 1, Unreachable(DOWN))
    harness.supervisor.observe("worker-0", 1, Unreachable())
    assert suspects == [("worker-0", DOWN)]


def test_one_that_starts_where_nobody_is_heard_of_is_dead() -> None:
    after, _ = react(replica(State.STARTING), Unreachable(DOWN), Now(time=110.0))
    assert (after.state, after.reason) == (State.BACKOFF, DOWN)


def test_an_unhealthy_one_replaced_by_a_good_one_is_healthy() -> None:
    unhealthy = replica(State.UNHEALTHY, reason="no answer")
    after, events = react(unhealthy, Replaced("8", Endpoint("127.0.0.1", 6000), checked=True), Now(time=110.0))
    assert [event.name for event in events] == ["replica_moved", "replica_healthy"]
    assert (after.state, after.reason) == (State.READY, "")


def test_a_planned_end_is_no_recovery() -> None:
    after, events = react(replica(State.STOPPING), Lost(), Now(time=101.0))
    assert (after.lost, after.recovery, events) == (True, (), ())
