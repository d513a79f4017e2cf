"""Histories replayed into the real supervisor over a fake driver and a fake clock."""

import sys
from types import FrameType

import pytest

from comet.balancers.routing_table import table
from comet.reconcile.observations import Endpoint, Exit, Found, Health, Hung, Lost, Ready, Revived
from comet.reconcile.replica import Wanted
from comet.supervisor.reconcile_loop import LOST_GRACE
from tests.support.fake_driver import broken, slow
from tests.support.fakes import SupervisorHarness, spec


def test_load_balancers_wait_until_every_worker_has_been_ready() -> None:
    harness = SupervisorHarness(spec("lb-0", rank=1), spec("worker-0"), spec("worker-1"), script=slow)
    assert harness.state("lb-0") == "stopped"
    harness.supervisor.observe("worker-0", 1, Ready())
    assert harness.state("lb-0") == "stopped"
    harness.supervisor.observe("worker-1", 1, Ready())
    assert harness.state("lb-0") == "starting"


def test_a_crashed_lb_restarts_at_once_while_workers_are_down() -> None:
    harness = SupervisorHarness(spec("worker-0"), spec("lb-0", rank=1))
    harness.driver.script = slow
    harness.driver.die("worker-0")
    harness.driver.die("lb-0")
    assert harness.driver.verbs("lb-0") == ["start", "start"]


def test_restarts_begin_at_once_and_back_off() -> None:
    harness = SupervisorHarness(spec("worker-0"))
    waits = []
    for _ in range(5):
        before = harness.time.now
        starts = harness.driver.verbs("worker-0").count("start")
        harness.driver.die("worker-0")
        while harness.driver.verbs("worker-0").count("start") == starts:
            harness.time.advance(0.01)
        waits.append(round(harness.time.now - before, 1))
    assert waits == [0.0, 0.1, 0.2, 0.4, 0.8]
    assert harness.supervisor.replicas["worker-0"].restarts == 5
    assert harness.event_names("worker-0")[:5] == [
        "replica_starting",
        "replica_ready",
        "replica_exited",
        "replica_restarting",
        "replica_ready",
    ]


def test_a_replica_in_a_crash_loop_backs_off_alone() -> None:
    harness = SupervisorHarness(spec("worker-0"), spec("worker-1"))
    for _ in range(6):
        harness.driver.die("worker-0")
        harness.time.advance(0.001)
    assert harness.state("worker-0") == "backoff"
    harness.driver.die("worker-1")
    assert harness.state("worker-1") == "ready"


def test_news_of_a_former_instance_is_no_news() -> None:
    harness = SupervisorHarness(spec("worker-0"))
    harness.driver.die("worker-0")
    harness.supervisor.observe("worker-0", 1, Health(False))
    assert harness.state("worker-0") == "ready"
    assert harness.supervisor.replicas["worker-0"].instance == 2


def test_a_replica_that_never_is_ready_is_killed_and_retried() -> None:
    harness = SupervisorHarness(spec("worker-0", start_timeout=5.0), script=slow)
    harness.time.advance(4.9)
    assert harness.driver.verbs("worker-0") == ["start"]
    harness.time.advance(0.2)
    assert harness.driver.verbs("worker-0") == ["start", "kill", "start"]
    assert "replica_unhealthy" in harness.event_names("worker-0")


def test_a_failed_start_is_retried_at_once_when_mended() -> None:
    harness = SupervisorHarness(spec("worker-0"), script=broken)
    harness.time.advance(3.0)
    assert harness.state("worker-0") == "backoff"
    starts = harness.driver.verbs("worker-0").count("start")
    harness.driver.script = slow
    harness.supervisor.observe("worker-0", None, Revived())
    assert harness.driver.verbs("worker-0").count("start") == starts + 1


def test_stop_goes_down_the_ladder_and_load_balancers_go_first() -> None:
    harness = SupervisorHarness(spec("worker-0"), spec("lb-0", rank=1))
    harness.driver.calls.clear()
    harness.supervisor.want(["worker-0", "lb-0"], Wanted.DOWN)
    harness.time.advance(0.1)
    verbs = [call for call in harness.driver.calls if call[0] != "release"]
    assert verbs == [(verb, name) for name in ("lb-0", "worker-0") for verb in ("drain", "terminate", "remove")]
    assert {harness.state("worker-0"), harness.state("lb-0")} == {"stopped"}


def test_a_stubborn_replica_is_killed_after_its_grace() -> None:
    harness = SupervisorHarness(spec("worker-0", drain_grace=10.0, terminate_grace=5.0))
    harness.driver.stubborn = True
    harness.supervisor.want(["worker-0"], Wanted.DOWN)
    harness.time.advance(9.9)
    assert harness.driver.verbs("worker-0")[-1] == "drain"
    harness.time.advance(0.2)
    assert harness.driver.verbs("worker-0")[-1] == "terminate"
    harness.time.advance(5.0)
    assert "kill" in harness.driver.verbs("worker-0")
    assert harness.state("worker-0") == "stopped"


def test_a_stop_that_meets_a_start_leaves_nothing() -> None:
    harness = SupervisorHarness(spec("worker-0"), script=lambda name, instance: ())
    assert harness.state("worker-0") == "starting"
    harness.supervisor.want(["worker-0"], Wanted.DOWN)
    harness.time.advance(30.0)
    assert harness.state("worker-0") == "stopped"
    assert "remove" in harness.driver.verbs("worker-0")


def test_a_stop_that_meets_a_backoff_removes_what_is_left() -> None:
    harness = SupervisorHarness(spec("worker-0"), script=broken)
    harness.time.advance(1.0)
    harness.supervisor.want(["worker-0"], Wanted.DOWN)
    assert harness.driver.verbs("worker-0")[-1] == "remove"
    assert harness.state("worker-0") == "stopped"


def test_stopping_at_once_kills_and_removes_everything() -> None:
    harness = SupervisorHarness(spec("worker-0"), spec("lb-0", rank=1))
    harness.driver.stubborn = True
    harness.supervisor.want(["worker-0", "lb-0"], Wanted.DOWN)
    harness.supervisor.stop_now()
    harness.time.advance(0.1)
    assert {harness.state("worker-0"), harness.state("lb-0")} == {"stopped"}


def test_a_death_during_the_stop_is_reported_not_restarted() -> None:
    harness = SupervisorHarness(spec("worker-0"))
    harness.driver.stubborn = True
    harness.supervisor.want(["worker-0"], Wanted.DOWN)
    harness.driver.die("worker-0", Exit(code=-9, signal="SIGKILL"))
    harness.time.advance(60.0)
    assert harness.state("worker-0") == "stopped"
    assert harness.driver.verbs("worker-0").count("start") == 1
    assert harness.event_names("worker-0")[-2:] == ["replica_exited", "replica_stopped"]


def test_an_idle_fleet_sets_no_timer() -> None:
    harness = SupervisorHarness(spec("worker-0"), spec("lb-0", rank=1))
    assert [timer for timer in harness.time.timers if not timer.cancelled] == []


def test_unhealthy_replicas_restart_unless_they_recover() -> None:
    harness = SupervisorHarness(spec("worker-0", unhealthy_grace=20.0))
    harness.supervisor.observe("worker-0", None, Health(False, "timeout"))
    harness.time.advance(19)
    harness.supervisor.observe("worker-0", None, Health(True))
    harness.time.advance(60)
    assert harness.driver.verbs("worker-0") == ["start"]
    harness.supervisor.observe("worker-0", None, Health(False, "timeout"))
    harness.time.advance(21)
    assert harness.driver.verbs("worker-0") == ["start", "kill", "start"]


def test_a_hung_one_is_killed_at_once() -> None:
    harness = SupervisorHarness(spec("lb-0"))
    harness.supervisor.observe("lb-0", None, Hung("no answer"))
    assert harness.driver.verbs("lb-0") == ["start", "kill", "start"]
    assert harness.event_names("lb-0")[2:4] == ["replica_unhealthy", "replica_exited"]


def calls_of_one_crash(replicas: int) -> int:
    """Function calls, Python's and C's, that one death and the restart after it cost the supervisor of a settled
    fleet.
    """
    harness = SupervisorHarness(*(spec(f"worker-{number}", port=6000 + number) for number in range(replicas)))
    endpoints = {
        name: Endpoint("127.0.0.1", replica.spec.port) for name, replica in harness.supervisor.replicas.items()
    }
    counted = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal counted
        counted += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        harness.driver.die("worker-0")
        table(harness.supervisor.replicas.values(), endpoints)
    finally:
        sys.setprofile(None)
    assert harness.supervisor.replicas["worker-0"].restarts == 1
    return counted


@pytest.mark.slow
def test_a_ticks_cost_grows_linearly_with_the_replicas() -> None:
    small, large = calls_of_one_crash(20), calls_of_one_crash(400)
    assert large <= 20 * small


def test_a_death_without_details_is_a_death_all_the_same() -> None:
    harness = SupervisorHarness(spec("worker-0"))
    harness.supervisor.observe("worker-0", 1, Lost())
    assert harness.state("worker-0") == "ready"
    harness.driver.alive.clear()
    harness.time.advance(LOST_GRACE + 1)
    assert (harness.state("worker-0"), harness.supervisor.replicas["worker-0"].lost) == ("ready", False)
    assert harness.supervisor.replicas["worker-0"].restarts == 1


def test_what_was_lost_and_is_found_goes_on_as_it_was() -> None:
    harness = SupervisorHarness(spec("worker-0"))
    before = harness.supervisor.replicas["worker-0"]
    harness.supervisor.observe("worker-0", 1, Lost())
    harness.supervisor.observe("worker-0", 1, Found())
    harness.time.advance(LOST_GRACE + 1)
    assert harness.supervisor.replicas["worker-0"] == before
