"""Whether the books of clients, LBs and workers agree."""

from collections import Counter

from scripts.bench.books import CountComparison, Growth, Reading, Row, compare_counts, growth
from scripts.bench.observed import Observed


def grown(lb: int, workers: int, retries: int = 0, injected: dict[str, int] | None = None) -> Growth:
    row = {f"responses_{digit}xx": 0 for digit in range(1, 6)} | {"responses_2xx": lb, "retries": retries}
    return Growth({"lb-0": row}, {"worker-0": Row(workers)}, injected or {}, {})


def settled(kinds: dict[str, int], of: Growth, counted: bool = True) -> CountComparison:
    return compare_counts(Observed(1.0, Counter(kinds)), of, counted)


def test_equal_books_agree() -> None:
    assert settled({"ok": 90, "injected": 10}, grown(100, 100)).wrong == []


def test_abandoned_requests_are_no_difference_but_more_is() -> None:
    assert settled({"ok": 100, "timeout": 8}, grown(108, 108)).wrong == []
    assert len(settled({"ok": 100, "timeout": 8}, grown(109, 109)).wrong) == 2
    assert "8 went to clients that had disconnected" in str(settled({"ok": 100, "timeout": 8}, grown(108, 108)))


def test_an_answer_in_no_book_is_found() -> None:
    assert settled({"ok": 100}, grown(99, 100)).wrong == ["1 answers were not counted by any LB"]
    assert settled({"ok": 100}, grown(100, 98)).wrong == ["2 answers were not counted by any worker"]


def test_somebody_elses_requests_are_found() -> None:
    assert "other clients" in settled({"ok": 100}, grown(150, 100)).wrong[0]


def test_retries_and_resets_explain_a_surplus_at_the_workers() -> None:
    assert settled({"ok": 100, "reset": 3}, grown(100, 110, retries=2, injected={"reset": 5})).wrong == []


def test_workers_that_do_not_count_what_was_asked_are_left_out() -> None:
    found = settled({"4xx": 100}, grown(100, 0), counted=False)
    assert (found.wrong, found.workers) == ([], None)


def test_growth_keeps_idle_workers_and_drops_ended_ones() -> None:
    before = Reading(
        0.0, {"lb-0": {"requests": 5}}, {"worker-0": Row(5), "gone": Row(7)}, {}, {"worker-0": 1.0, "lb-0": 1.0}
    )
    after = Reading(
        10.0, {"lb-0": {"requests": 9}}, {"worker-0": Row(5), "gone": Row(7)}, {}, {"worker-0": 2.0, "lb-0": 0.5}
    )
    found = growth(before, after)
    assert found.workers == {"worker-0": Row()}
    assert found.lbs["lb-0"]["requests"] == 4
    assert found.cpu == {"worker-0": 10.0}  # lb-0 is another process than before
