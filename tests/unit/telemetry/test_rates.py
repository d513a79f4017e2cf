"""Rates, percentiles, the time line, recoveries: what the page, the board and the metrics are fed with."""

from itertools import pairwise

import pytest

from comet.events.restart_history import RestartHistory, reason
from comet.telemetry.rates import (
    BOUNDS,
    BUCKETS,
    KEPT,
    WINDOW,
    Counted,
    Meter,
    bounds_s,
    columns,
    histogram,
    make_reading,
    percentile,
)
from lb.interface.counters import LATENCY_BUCKETS, latency_bucket
from tests.support.admin_samples import counted, recovery_events
from tests.support.latency import latency_bound


def fed(*requests: int) -> Meter:
    """A meter that took one look a second; so many requests were counted until each."""
    meter = Meter()
    for at, number in enumerate(requests):
        now = counted(number, number // 10)
        meter.add(make_reading(float(at), {"lb-0": now}, {("lb-0", "worker-0"): now}), 1000.0 + at)
    return meter


def test_the_buckets_are_those_of_the_load_balancer() -> None:
    assert BUCKETS == LATENCY_BUCKETS
    assert bounds_s() == pytest.approx([latency_bound(bucket) for bucket in BOUNDS])
    assert all(high == pytest.approx(2 * low) for low, high in pairwise(bounds_s()))


@pytest.mark.parametrize("micros", [1, 90, 1_000, 4_500, 65_000, 1_500_000])
def test_a_percentile_is_right_within_a_bucket(micros: int) -> None:
    counts = [0] * BUCKETS
    counts[latency_bucket(micros)] = 100
    assert percentile(counts, 0.5) == pytest.approx(micros / 1000, rel=0.2, abs=0.002)
    assert percentile([0] * BUCKETS, 0.5) is None


def test_a_rate_is_taken_over_the_last_seconds() -> None:
    meter = fed(*range(0, 100 * (WINDOW + 4), 100))
    now = meter.of("lb-0")
    assert (now.requests_per_s, now.errors_per_s) == (100.0, 10.0)
    assert now.p50_ms == pytest.approx(4.5, rel=0.2)
    assert meter.edge_rates(("lb-0", "worker-0")) == meter.of("worker-0") == now == meter.total()
    assert fed(0, 50, *[50] * (WINDOW + 1)).of("lb-0").requests_per_s == 0.0


def test_counts_that_went_back_and_unknown_names_are_no_news() -> None:
    assert fed(500, 20).of("lb-0").requests_per_s == 0.0
    assert fed(0, 10).of("lb-7").requests_per_s == 0.0
    assert Meter().total().p50_ms is None


def test_the_time_line_keeps_five_minutes() -> None:
    meter = fed(*range(0, 10 * (KEPT + 20), 10))
    told = columns(meter.samples, ["lb-0", "lb-9"])
    assert len(told["at"]) == KEPT
    assert told["requests_per_s"] == [10.0] * KEPT
    assert told["replicas"]["lb-0"]["errors_per_s"] == [1.0] * KEPT
    assert told["replicas"]["lb-9"]["requests_per_s"] == [None] * KEPT


def test_a_workers_histogram_is_the_sum_of_its_edges() -> None:
    seen = make_reading(
        0.0,
        {"lb-0": counted(5), "lb-1": counted(7)},
        {("lb-0", "worker-0"): counted(5), ("lb-1", "worker-0"): counted(7)},
    )
    assert seen.replicas["worker-0"] == seen.total == counted(5) + counted(7)
    spread = Counted(latency=tuple(range(BUCKETS)))
    assert sum(histogram(spread)) == sum(range(BUCKETS))
    assert len(histogram(spread)) == len(bounds_s()) + 1


def test_a_recovery_is_told_with_its_steps_and_its_reason() -> None:
    seen = RestartHistory()
    for record in recovery_events():
        seen.add(record)
    told = seen.as_dict()
    assert told["restarts"] == {"lb-0": {"killed": 1}}
    assert told["recent"][0] | {"ready_at": None} == {
        "replica": "lb-0", "kind": "process", "ready_at": None, "died_at_s": 1795514400.0, "took_ms": 15.0,
        "reason": "killed",
        "signal": "SIGKILL", "code": -9, "steps_ms": {"died": 0.0, "noticed": 0.8, "decided": 1.0, "started": 12.0,
        "ready": 15.0},
        "group": "Load balancer (warm spare)", "backoff_ms": 0.0, "own_ms": 15.0,
    }  # fmt: skip
    assert sum(told["times"]["process"]["counts"]) == 1
    assert told["times"]["process"]["sum_s"] == 0.015


def test_what_was_unhealthy_when_killed_ended_for_that() -> None:
    seen = RestartHistory()
    for record in ({"event": "replica_unhealthy", "replica": "lb-0"}, *recovery_events()):
        seen.add(record)
    assert seen.as_dict()["restarts"] == {"lb-0": {"unhealthy": 1}}


def test_what_was_unhealthy_and_moved_is_healthy() -> None:
    seen = RestartHistory()
    for record in (
        {"event": "replica_unhealthy", "replica": "lb-0"},
        {"event": "replica_moved", "replica": "lb-0"},
        *recovery_events(),
    ):
        seen.add(record)
    assert seen.as_dict()["restarts"] == {"lb-0": {"killed": 1}}


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ({"code": -9, "signal": "SIGKILL", "oom": True}, "out of memory"),
        ({"code": -9, "signal": "SIGKILL"}, "killed"),
        ({"code": 1, "signal": None}, "crashed"),
        ({"code": -11, "signal": "SIGSEGV"}, "crashed"),
        ({"code": None, "signal": None}, "unknown"),
    ],
)
def test_why_it_ended(record: dict[str, object], why: str) -> None:
    assert reason(record) == why
