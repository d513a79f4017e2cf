"""Which fault the n-th request gets: exact rates, seeds, overrides that end by themselves."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from fault_rules import Override, Sample, sample
from worker_app.faults.plan import FaultPlan, FaultSettings
from worker_app.faults.sampling import FaultSampler

DRAWS = 20_000
JUST_BELOW_ONE = math.nextafter(1.0, 0.0)


def draws(settings: FaultSettings, number: int = DRAWS, seed: int = 11) -> list[Sample]:
    faults = FaultSampler(FaultPlan(settings), started=0.0, seed=seed)
    return [faults.next(0.0) for _ in range(number)]


@pytest.mark.parametrize(
    ("failure", "chance", "fails"),
    [
        (12.0, 0.11999, True),
        (12.0, 0.12, False),
        (0.0, 0.0, False),
        (100.0, JUST_BELOW_ONE, True),
        (0.5, 0.00499, True),
        (0.5, 0.005, False),
    ],
)
def test_f19_failure_is_an_exact_probability(failure: float, chance: float, fails: bool) -> None:
    assert sample(FaultSettings(failure=failure), chance, 0.5).fails() is fails


@pytest.mark.slow
@pytest.mark.parametrize("failure", [0.5, 12.0, 50.0])
def test_failures_obey_their_rate(failure: float) -> None:
    failed = sum(item.fails() for item in draws(FaultSettings(failure=failure)))
    expected = DRAWS * failure / 100.0
    chi_square = (failed - expected) ** 2 / expected + (failed - expected) ** 2 / (DRAWS - expected)
    assert chi_square < 10.83  # one degree of freedom, 0.1 %


@pytest.mark.slow
def test_each_kind_has_its_own_rate() -> None:
    settings = FaultSettings(hang=5.0, reset=10.0, truncate=15.0, failure=20.0)
    counts = Counter(item.kind for item in draws(settings))
    expected = {"hang": 5.0, "reset": 10.0, "truncate": 15.0, "failure": 20.0, None: 50.0}
    chi_square = sum((counts[kind] - DRAWS * rate / 100) ** 2 / (DRAWS * rate / 100) for kind, rate in expected.items())
    assert chi_square < 18.47  # four degrees of freedom, 0.1 %


def test_rates_above_hundred_leave_the_earlier_kinds_theirs() -> None:
    assert {item.kind for item in draws(FaultSettings(hang=100.0, failure=12.0), 500)} == {"hang"}


def test_f33_no_delay_and_fractions_of_a_millisecond() -> None:
    assert sample(FaultSettings(avg_delay=0.0, failure=0.0), 0.5, 0.5).delay == 0.0
    assert sample(FaultSettings(avg_delay=0.5, failure=0.0), 0.5, 0.5).delay == pytest.approx(0.0005)


@pytest.mark.parametrize("kind", ["failure", "hang", "reset"])
def test_failures_come_at_once(kind: str) -> None:
    settings = FaultSettings(**{"failure": 0.0, kind: 100.0})
    assert sample(settings, 0.3, 0.9) == Sample(kind, 0.0, settings)


@pytest.mark.slow
def test_successes_take_half_to_one_and_a_half_of_the_average() -> None:
    delays = [item.delay for item in draws(FaultSettings(avg_delay=200.0, failure=0.0))]
    assert 0.1 <= min(delays) < 0.101
    assert 0.299 < max(delays) < 0.3
    assert math.fsum(delays) / DRAWS == pytest.approx(0.2, abs=0.002)


def test_the_nth_request_gets_the_nth_draw_of_a_seed() -> None:
    assert draws(FaultSettings(), 50, seed=7) == draws(FaultSettings(), 50, seed=7)
    assert draws(FaultSettings(), 50, seed=7) != draws(FaultSettings(), 50, seed=8)


def test_a_change_of_settings_does_not_shift_the_draws_of_a_seed() -> None:
    faults = FaultSampler(FaultPlan(FaultSettings(failure=12.0)), started=0.0, seed=3)
    for _ in range(10):
        faults.next(0.0)
    faults.replace(FaultPlan(FaultSettings(failure=0.0, delay_distribution="constant")))
    for _ in range(10):
        faults.next(0.0)
    faults.replace(FaultPlan(FaultSettings(failure=12.0)))
    assert [faults.next(0.0) for _ in range(10)] == draws(FaultSettings(failure=12.0), 30, seed=3)[20:]


def plan(*overrides: Override) -> FaultPlan:
    return FaultPlan(FaultSettings(failure=0.0, avg_delay=10.0), overrides)


def test_a_lease_ends_at_its_deadline() -> None:
    faults = FaultSampler(plan(Override("a", {"failure": 100.0}, until=30.0)), started=0.0)
    assert faults.current(29.9).failure == 100.0
    assert faults.current(30.0).failure == 0.0
    assert faults.next(29.9).fails()
    assert not faults.next(30.0).fails()


def test_a_lease_of_an_earlier_boot_has_ended() -> None:
    faults = FaultSampler(
        plan(Override("a", {"failure": 100.0}, until=1e9, boot_id="then")), started=0.0, boot_id="now"
    )
    assert not faults.next(0.0).fails()


def test_later_overrides_win_and_the_rest_keeps_its_value() -> None:
    faults = FaultSampler(
        plan(Override("a", {"failure": 100.0, "status": 503}), Override("b", {"failure": 0.0})), started=0.0
    )
    assert (faults.current(0.0).failure, faults.current(0.0).status, faults.current(0.0).avg_delay) == (0.0, 503, 10.0)


def test_a_fault_count_is_not_renewed_by_the_same_file() -> None:
    counted = plan(Override("a", {"failure": 100.0}, since=5.0, count=2))
    faults = FaultSampler(counted, started=1.0)
    assert faults.current(6.0).failure == 100.0
    assert faults.next(6.0).fails()
    faults.replace(counted)
    assert [faults.next(6.0).fails() for _ in range(3)] == [True, False, False]


def test_what_is_left_of_counts_is_known() -> None:
    counted = plan(
        Override("a", {"failure": 100.0}, since=5.0, count=2),
        Override("b", {"hang": 0.0}, since=5.0, count=9),
        Override("earlier", {"failure": 100.0}, since=0.5, count=7),
        Override("timed", {"hang": 0.0}, until=30.0),
    )
    faults = FaultSampler(counted, started=1.0)
    seen = []
    for _ in range(4):
        seen.append(faults.counts_left())
        faults.next(6.0)
        faults.replace(counted)
    assert seen == [{"a": max(0, 2 - taken), "b": 9 - taken, "earlier": 0} for taken in range(4)]
    faults.replace(plan())
    assert faults.counts_left() == {}


def test_a_worker_that_started_later_ignores_a_count() -> None:
    faults = FaultSampler(plan(Override("a", {"failure": 100.0}, since=5.0, count=2)), started=6.0)
    assert not faults.next(7.0).fails()
