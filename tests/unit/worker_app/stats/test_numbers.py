"""The pure arithmetic of the statistics: histogram, batch, the JSON of `/worker/stats`, the names of rows."""

from __future__ import annotations

import json
import math

import pytest

from worker_app.common.identity import CONTAINER, PROCESS, Identity
from worker_app.stats.batch import Batch, Record, batch_of
from worker_app.stats.latency import LAST_BUCKET, bucket_of, percentile_ms, upper_bound_ms
from worker_app.stats.rows import StatsRow, render


@pytest.mark.parametrize("bucket", [0, 1, 4, 50, LAST_BUCKET - 1])
def test_a_bound_belongs_to_its_bucket(bucket: int) -> None:
    bound_us = upper_bound_ms(bucket) * 1000.0
    assert bucket_of(math.floor(bound_us)) == bucket
    assert bucket_of(math.floor(bound_us) + 1) == bucket + 1


def test_no_duration_is_out_of_range() -> None:
    assert bucket_of(0) == 0
    assert bucket_of(10**15) == LAST_BUCKET
    assert upper_bound_ms(LAST_BUCKET) == math.inf
    assert upper_bound_ms(LAST_BUCKET - 1) > 19 * 60 * 1000


def test_percentiles_are_read_within_a_bucket() -> None:
    buckets: dict[int, int] = {}
    for duration in range(1_000, 101_000, 1_000):
        buckets[bucket_of(duration)] = buckets.get(bucket_of(duration), 0) + 1
    for percent in (1, 50, 99):
        assert percentile_ms(buckets, percent) == pytest.approx(percent, rel=0.07)
    assert percentile_ms({}, 50) == 0.0
    assert percentile_ms({LAST_BUCKET: 3}, 50) == upper_bound_ms(LAST_BUCKET - 1)


def test_a_percentile_is_interpolated_and_no_bound_of_a_bucket() -> None:
    buckets = {bucket_of(500_000): 100}
    low, high = (upper_bound_ms(bucket_of(500_000) - each) for each in (1, 0))
    assert low < percentile_ms(buckets, 25) < percentile_ms(buckets, 50) < percentile_ms(buckets, 99) < high


def test_a_batch_counts_successes_failures_and_unplanned() -> None:
    sums = batch_of([Record(False, 1000), Record(True, 10, injected=("failure",)), Record(True, 5, unplanned=True)])
    assert (sums.successful, sums.failed, sums.unplanned, sums.duration_us, sum(sums.buckets.values())) == (
        1,
        2,
        1,
        1015,
        3,
    )
    assert dict(sums.injections) == {"failure": 1}


def test_notes_are_part_of_a_batch() -> None:
    notes = Batch(disconnected=2)
    notes.injections["hang"] += 1
    sums = batch_of([Record(False, 1)], notes)
    assert (sums.disconnected, dict(sums.injections), sums.successful) == (2, {"hang": 1}, 1)
    assert not batch_of([], notes).empty()
    assert batch_of([]).empty()


def test_stats_byte_for_byte() -> None:
    assert render([StatsRow("fdbaa57c12d3", 0, 0, 0)]) == (
        '{"SuccessfulRequests":[{"total":0},{"fdbaa57c12d3":0}],"FailedRequests":[{"total":0},{"fdbaa57c12d3":0}],'
        '"TotalRequests":[{"total":0},{"fdbaa57c12d3":0}],"AverageResponseTime":[{"total":0},{"fdbaa57c12d3":0}]}'
    )


def test_no_name_and_no_number_breaks_the_json() -> None:
    name = 'a"b\\c\u00e9\n'
    answer = json.loads(render([StatsRow(name, 10**15, 1, 1), StatsRow("b", 3, 0, 10**15)]))
    assert answer["SuccessfulRequests"][1] == {name: 10**15}
    assert answer["AverageResponseTime"][1][name] == 0.0


def test_f26_no_rows_are_no_error() -> None:
    assert json.loads(render([])) == {
        key: [{"total": 0}] for key in ("SuccessfulRequests", "FailedRequests", "TotalRequests", "AverageResponseTime")
    }


def test_f25_the_total_average_is_weighted_by_requests() -> None:
    answer = json.loads(
        render([StatsRow("a", 9, 1, 10 * 100_000), StatsRow("b", 30, 0, 30 * 20_000), StatsRow("dead", 0, 0, 0)])
    )
    assert answer["AverageResponseTime"] == [{"total": 40.0}, {"a": 100.0}, {"b": 20.0}, {"dead": 0}]
    assert answer["TotalRequests"] == [{"total": 40}, {"a": 10}, {"b": 30}, {"dead": 0}]


def test_a_container_goes_on_with_its_row_and_a_process_does_not() -> None:
    assert Identity(CONTAINER, "fdbaa57c12d3").row_name({"fdbaa57c12d3"}) == "fdbaa57c12d3"
    assert Identity(PROCESS, "77").row_name({"771"}) == "77"
    assert Identity(PROCESS, "77").row_name({"77"}) == "77.2"
    assert Identity(PROCESS, "77").row_name({"77", "77.2"}) == "77.3"


def test_greetings_byte_for_byte() -> None:
    assert Identity(CONTAINER, "fdbaa57c12d3").greeting() == "hello from container: fdbaa57c12d3"
    assert Identity(PROCESS, "4242").greeting() == "hello from process: 4242"
