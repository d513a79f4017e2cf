"""Histories replayed into the real supervisor over a fake driver and a fake clock."""

import sys
from types import FrameType

from comet.drivers.fake import broken, slow
from comet.observation import Endpoint, Exit, Health, Hung, Ready, Revived
from comet.replica import Wanted
from comet.router import table
from tests.comet.fakes import House, spec


def test_load_balancers_wait_until_every_worker_has_been_ready_f6() -> None:
    house = House(spec("lb-0", rank=1), spec("worker-0"), spec("worker-1"), script=slow)
    assert house.state("lb-0") == "stopped"
    house.supervisor.observe("worker-0", 1, Ready())
    assert house.state("lb-0") == "stopped"
    house.supervisor.observe("worker-1", 1, Ready())
    assert house.state("lb-0") == "starting"


def test_a_crashed_load_balancer_restarts_at_once_though_workers_are_down() -> None:
    house = House(spec("worker-0"), spec("lb-0", rank=1))
    house.driver.script = slow
    house.driver.die("worker-0")
    house.driver.die("lb-0")
    assert house.driver.verbs("lb-0") == ["start", "start"]


def test_the_first_restart_is_at_once_and_the_next_ones_wait_longer_and_longer_f11() -> None:
    house = House(spec("worker-0"))
    waits = []
    for _ in range(5):
        before = house.time.now
        starts = house.driver.verbs("worker-0").count("start")
        house.driver.die("worker-0")
        while house.driver.verbs("worker-0").count("start") == starts:
            house.time.advance(0.01)
        waits.append(round(house.time.now - before, 1))
    assert waits == [0.0, 0.1, 0.2, 0.4, 0.8]
    assert house.supervisor.replicas["worker-0"].restarts == 5
    assert house.told("worker-0")[:5] == ["replica_starting", "replica_ready", "replica_exited", "replica_restarting", "replica_ready"]


def test_a_replica_in_a_crash_loop_backs_off_alone() -> None:
    house = House(spec("worker-0"), spec("worker-1"))
    for _ in range(6):
        house.driver.die("worker-0")
        house.time.advance(0.001)
    assert house.state("worker-0") == "backoff"
    house.driver.die("worker-1")
    assert house.state("worker-1") == "ready"


def test_news_of_a_former_instance_is_no_news() -> None:
    house = House(spec("worker-0"))
    house.driver.die("worker-0")
    house.supervisor.observe("worker-0", 1, Health(False))
    assert house.state("worker-0") == "ready"
    assert house.supervisor.replicas["worker-0"].instance == 2


def test_one_that_does_not_become_ready_is_killed_and_tried_again() -> None:
    house = House(spec("worker-0", start_timeout=5.0), script=slow)
    house.time.advance(4.9)
    assert house.driver.verbs("worker-0") == ["start"]
    house.time.advance(0.2)
    assert house.driver.verbs("worker-0") == ["start", "kill", "start"]
    assert "replica_unhealthy" in house.told("worker-0")


def test_what_cannot_start_is_tried_again_and_at_once_when_the_cause_is_gone() -> None:
    house = House(spec("worker-0"), script=broken)
    house.time.advance(3.0)
    assert house.state("worker-0") == "backoff"
    starts = house.driver.verbs("worker-0").count("start")
    house.driver.script = lambda name, instance: slow(name, instance)
    house.supervisor.observe("worker-0", None, Revived())
    assert house.driver.verbs("worker-0").count("start") == starts + 1


def test_stop_goes_down_the_ladder_and_load_balancers_go_first_f9() -> None:
    house = House(spec("worker-0"), spec("lb-0", rank=1))
    house.driver.calls.clear()
    house.supervisor.want(["worker-0", "lb-0"], Wanted.DOWN)
    house.time.advance(0.1)
    verbs = [call for call in house.driver.calls if call[0] != "release"]
    assert verbs == [(verb, name) for name in ("lb-0", "worker-0") for verb in ("drain", "terminate", "remove")]
    assert {house.state("worker-0"), house.state("lb-0")} == {"stopped"}


def test_a_stubborn_one_is_terminated_after_the_grace_and_killed_in_the_end_f10() -> None:
    house = House(spec("worker-0", drain_grace=10.0, terminate_grace=5.0))
    house.driver.stubborn = True
    house.supervisor.want(["worker-0"], Wanted.DOWN)
    house.time.advance(9.9)
    assert house.driver.verbs("worker-0")[-1] == "drain"
    house.time.advance(0.2)
    assert house.driver.verbs("worker-0")[-1] == "terminate"
    house.time.advance(5.0)
    assert "kill" in house.driver.verbs("worker-0")
    assert house.state("worker-0") == "stopped"


def test_a_stop_that_meets_a_start_leaves_nothing_f8() -> None:
    house = House(spec("worker-0"), script=lambda name, instance: ())
    assert house.state("worker-0") == "starting"
    house.supervisor.want(["worker-0"], Wanted.DOWN)
    house.time.advance(30.0)
    assert house.state("worker-0") == "stopped"
    assert "remove" in house.driver.verbs("worker-0")


def test_a_stop_that_meets_a_backoff_removes_what_is_left() -> None:
    house = House(spec("worker-0"), script=broken)
    house.time.advance(1.0)
    house.supervisor.want(["worker-0"], Wanted.DOWN)
    assert house.driver.verbs("worker-0")[-1] == "remove"
    assert house.state("worker-0") == "stopped"


def test_stopping_at_once_kills_and_removes_everything() -> None:
    house = House(spec("worker-0"), spec("lb-0", rank=1))
    house.driver.stubborn = True
    house.supervisor.want(["worker-0", "lb-0"], Wanted.DOWN)
    house.supervisor.stop_now()
    house.time.advance(0.1)
    assert {house.state("worker-0"), house.state("lb-0")} == {"stopped"}


def test_a_death_during_the_stop_is_told_and_not_answered_with_a_restart() -> None:
    house = House(spec("worker-0"))
    house.driver.stubborn = True
    house.supervisor.want(["worker-0"], Wanted.DOWN)
    house.driver.die("worker-0", Exit(code=-9, signal="SIGKILL"))
    house.time.advance(60.0)
    assert house.state("worker-0") == "stopped"
    assert house.driver.verbs("worker-0").count("start") == 1
    assert house.told("worker-0")[-2:] == ["replica_exited", "replica_stopped"]


def test_an_idle_fleet_sets_no_timer() -> None:
    house = House(spec("worker-0"), spec("lb-0", rank=1))
    assert [timer for timer in house.time.timers if not timer.cancelled] == []


def test_one_that_stays_unhealthy_is_restarted_and_one_that_recovers_is_not() -> None:
    house = House(spec("worker-0", unhealthy_grace=20.0))
    house.supervisor.observe("worker-0", None, Health(False, "timeout"))
    house.time.advance(19)
    house.supervisor.observe("worker-0", None, Health(True))
    house.time.advance(60)
    assert house.driver.verbs("worker-0") == ["start"]
    house.supervisor.observe("worker-0", None, Health(False, "timeout"))
    house.time.advance(21)
    assert house.driver.verbs("worker-0") == ["start", "kill", "start"]


def test_a_hung_one_is_killed_at_once() -> None:
    house = House(spec("lb-0"))
    house.supervisor.observe("lb-0", None, Hung("no answer"))
    assert house.driver.verbs("lb-0") == ["start", "kill", "start"]
    assert house.told("lb-0")[2:4] == ["replica_unhealthy", "replica_exited"]


def calls_of_one_crash(replicas: int) -> int:
    """Function calls, Python's and C's, that one death and the restart after it cost the supervisor of a settled fleet."""
    house = House(*(spec(f"worker-{number}", port=6000 + number) for number in range(replicas)))
    endpoints = {name: Endpoint("127.0.0.1", replica.spec.port) for name, replica in house.supervisor.replicas.items()}
    counted = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal counted
        counted += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        house.driver.die("worker-0")
        table(house.supervisor.replicas.values(), endpoints)
    finally:
        sys.setprofile(None)
    assert house.supervisor.replicas["worker-0"].restarts == 1
    return counted


def test_a_ticks_cost_grows_no_faster_than_the_number_of_replicas() -> None:
    small, large = calls_of_one_crash(20), calls_of_one_crash(400)
    assert large <= 20 * small
