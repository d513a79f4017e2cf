"""The sentences of a load test, and its thresholds."""

from collections import Counter
from dataclasses import replace

import pytest

from scripts.bench.answers import Answers, Limits, missed_thresholds, rate_sentence
from scripts.bench.bottleneck import Figures
from scripts.bench.hdr import from_pairs
from scripts.bench.observed import Observed
from scripts.bench.paced import Sending

CALM = Figures({"lb-0": 10.0}, 40.0, 15.0, {"worker-0": 20.0, "worker-1": 20.0}, 21.0)
SEEN = Observed(
    10.0,
    Counter({"ok": 850, "injected": 100, "reset": 6, "5xx by the LB": 4}),
    Counter(),
    from_pairs([(10_000, 960)]),
    from_pairs([(20_000, 960)]),
)


def answers(shares: tuple[int, int] = (480, 480), hidden: int = 0, seen: Observed = SEEN) -> Answers:
    return Answers(seen, {"worker-0": shares[0], "worker-1": shares[1]}, hidden, CALM)


def test_injected_failures_are_no_failures_and_others_are_named() -> None:
    told = answers().sentences()
    assert "failures beyond the 100 injected: 10 (6 reset, 4 5xx by the LB)" in told
    assert answers(hidden=6).beyond == 4
    assert answers(hidden=50).beyond == 0


def test_injected_resets_do_not_excuse_failures_of_another_kind() -> None:
    seen = Observed(1.0, Counter({"ok": 90, "5xx by the worker": 3, "refused": 2, "reset": 5}))
    assert answers(hidden=100, seen=seen).beyond == 5


@pytest.mark.parametrize(
    ("shares", "said"), [((480, 480), "yes: every"), ((490, 470), "yes: the furthest"), ((640, 320), "NO: ")]
)
def test_balance(shares: tuple[int, int], said: str) -> None:
    assert answers(shares).sentences()[0].startswith(f"balanced? {said}")


def test_one_request_more_of_few_is_no_imbalance() -> None:
    assert "balanced? yes" in answers((3, 2)).sentences()[0]


def test_every_threshold_is_missed_by_itself() -> None:
    of = answers((640, 320))
    assert missed_thresholds(Limits(), of) == []
    assert missed_thresholds(Limits(p99_ms=25, errors=10, uneven=40), of) == []
    assert [each.split()[-2] for each in missed_thresholds(Limits(p99_ms=15, errors=9, uneven=30), of)] == [
        "--max-p99",
        "--max-errors",
        "--max-uneven",
    ]


def test_measured_and_corrected_times_are_shown_as_such() -> None:
    closed = answers().sentences()[1]
    assert "as measured: half within 10.0 ms, 99 % within 10.0 ms" in closed
    assert "corrected, an estimate with what stalled clients did not ask: half within 20.0 ms" in closed
    open_ = Answers(SEEN, {}, 0, replace(CALM, open_=True)).sentences()[1]
    assert "raw, from when it was sent: half within 10.0 ms" in open_
    assert "corrected, from when it was due: half within 20.0 ms" in open_
    assert "estimate" not in open_
    (broken,) = missed_thresholds(Limits(p99_ms=15), answers())
    assert broken.startswith(
        "p99 is 20.0 ms (corrected, an estimate with what stalled clients did not ask; as measured 10.0 ms), above"
    )


def test_an_estimate_over_slow_answers_says_so() -> None:
    assert "slow by nature" not in answers().estimate
    assert "slow by nature" in replace(answers(), kinds=2).estimate
    slowed = replace(CALM, worker_ms={"worker-0": 20.0, "worker-1": 20.0, "worker-2": 300.0})
    assert "slow by nature" in replace(answers(), figures=slowed).estimate


def test_no_answer_at_all_meets_no_threshold() -> None:
    for limits in (Limits(p99_ms=1000), Limits(errors=5), Limits(uneven=50)):
        assert missed_thresholds(limits, answers(seen=Observed(1.0, Counter({"refused": 3})))) == [
            "nothing was answered"
        ]


def test_whose_fault_it_was_that_a_rate_was_not_kept() -> None:
    assert "was kept" in rate_sentence(100, Sending(1000, 5, 0, 0, 12.0, 8.0), 64)
    assert "slower than this rate" in rate_sentence(100, Sending(1000, 500, 490, 100, 900.0, 8.0), 64)
    assert "kept from running" in rate_sentence(100, Sending(1000, 500, 10, 0, 40.0, 8.0), 64)
    assert "no CPU left" in rate_sentence(9000, Sending(1000, 500, 490, 100, 900.0, 99.0), 64)
