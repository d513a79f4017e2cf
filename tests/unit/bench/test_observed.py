"""How the end of a request is told."""

import pytest

from comet.load.closed_model import INJECTED, RequestSpec
from scripts.bench.hdr import percentile_ms
from scripts.bench.observed import Observed, beside, in_turn, kind_of, kind_of_failure
from scripts.bench.offered import passage
from scripts.bench.wrk import parse_observed, sorting


@pytest.mark.parametrize(
    ("status", "worker", "body", "kind"),
    [
        (200, "worker-0", b"{}", "ok"),
        (302, "worker-0", b"", "ok"),
        (500, "worker-0", INJECTED, "injected"),
        (503, "worker-0", INJECTED, "injected"),  # the fault setting `status` says which
        (500, "worker-0", b'{"error":"internal"}', "5xx by the worker"),
        (503, None, b'{"error":"no worker"}', "5xx by the LB"),
        (404, "worker-0", b"", "4xx"),
    ],
)
def test_answers(status: int, worker: str | None, body: bytes, kind: str) -> None:
    assert kind_of(status, worker, body) == kind


def test_requests_without_an_answer() -> None:
    words = ("refused", "reset", "timeout", "cut short", "closed without an answer", "no connection")
    assert [kind_of_failure(word) for word in words] == ["refused", "reset", "timeout", "reset", "reset", "refused"]


REPORTED = """@@{"requests":8,"micros":2000000,"refused":1,"reset":2,"sent":11,"late":2,\
"kinds":{"ok":6,"injected":1,"5xx by the LB":1},"workers":{"worker-0":7},"values":[[1000,7],[1200000,1]]}
"""


def test_what_wrk_reports_is_read_with_every_kind_of_end() -> None:
    seen = parse_observed(REPORTED, connections=4, seconds=1.5, drain_timeout=3.0)
    assert (seen.answered, seen.unanswered, seen.rate) == (8, 4, 4.0)
    assert seen.failures == {"5xx by the LB": 1, "refused": 1, "reset": 2, "timeout": 1}
    # The one that was never answered waited for three seconds, and kept its client from asking twice more.
    assert seen.raw.get_total_count() == 9
    assert percentile_ms(seen.raw, 100) == pytest.approx(3000, rel=0.001)
    assert seen.corrected.get_total_count() == 11


def test_a_script_for_wrk_asks_what_was_asked_for() -> None:
    script = sorting([RequestSpec("/a"), RequestSpec("/b?c=d", "POST", b"xx")])
    assert 'wrk.format("GET", "/a", nil, nil)' in script
    assert 'wrk.format("POST", "/b?c=d", nil, string.rep("x", 2))' in script


def test_parallel_faults_last_as_one_and_serial_ones_as_all() -> None:
    one = parse_observed(REPORTED, 4, 2.0)
    assert (beside([one, one]).seconds, beside([one, one]).answered, beside([one, one]).late) == (2.0, 16, 4)
    assert (in_turn([one, one]).seconds, in_turn([one, one]).kinds["reset"]) == (4.0, 4)
    again = Observed.from_dict(one.as_dict())
    assert (again.kinds, again.workers, again.raw.get_total_count()) == (one.kinds, one.workers, 9)


def test_a_slice_as_the_lbs_counted_it() -> None:
    before = {f"responses_{digit}xx": 10 for digit in range(2, 6)} | {"own_errors": 1, "latency_40": 40}
    after = before | {"responses_2xx": 110, "own_errors": 3, "latency_40": 140}
    found = passage(5.0, before, 7.0, after)
    assert found is not None
    assert (found.rate, found.own_errors) == (50.0, 2)
    assert 1.0 < found.p50_ms < found.p99_ms < 1.3  # bucket 40 begins at 1.024 ms
    assert passage(5.0, before, 7.0, before) is None
