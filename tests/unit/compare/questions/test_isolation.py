"""What attacks come to over all of their tries: judged from data, without running one."""

from comet.compare import words
from comet.compare.results.findings import Attempt, Findings
from comet.compare.results.verdicts import Verdict, verdicts

Times = tuple[float | None, float | None]


def burned(*times: Times, failures: float = 0.0) -> Verdict:
    """Of a burner whose one neighbour had these p99, before and during it."""
    rows: list[dict[str, float | None]] = [
        {"before_p99_ms": a, "during_p99_ms": b, "failures": failures} for a, b in times
    ]
    (found,) = verdicts(
        [
            Attempt("CPU burner", "container", number, None, "", True, {"process": row})
            for number, row in enumerate(rows)
        ]
    )
    return found


def test_answers_that_are_late_in_every_pair_were_felt() -> None:
    found = burned((2.0, 30.0), (2.5, 28.0), (2.2, 33.0), (2.1, 31.0), (2.0, 29.0))
    assert found.contained is False
    assert words.containment_text(found) == "no (5 pairs)"
    assert words.neighbor_text(found.neighbours["process"]).startswith(
        "2.10 ms -> 30.0 ms, mean change 28.0 ms (95 %: 25."
    )


def test_the_json_names_the_times_of_a_neighbour() -> None:
    row: dict[str, float | None] = {"before_p99_ms": 2.0, "during_p99_ms": 6.0, "failures": 0}
    found = Findings(
        attempts=[Attempt("CPU burner", "container", number, None, "", True, {"process": row}) for number in range(3)]
    )
    (told,) = words.document(found)["verdicts"]
    assert (told["name"], told["tried"], told["contained"]) == ("CPU burner", 3, False)
    assert told["neighbours"]["process"] == {
        "failures": 0, "felt": True, "before_p99_ms": 2.0, "during_p99_ms": 6.0, "tries": 3,
        "change_ms": 4.0, "low": 4.0, "high": 4.0, "certain": True,
    }  # fmt: skip


def test_one_late_pair_of_many_is_noise() -> None:
    assert burned((2.0, 2.1)).contained is None
    found = burned((2.0, 2.1), (2.5, 60.0), (2.2, 2.0), (2.1, 2.2), (2.0, 2.1))
    assert words.containment_text(found) == "unclear (5 pairs)"
    assert words.neighbor_text(found.neighbours["process"]) == "2.10 ms -> 2.10 ms (noise)"


def test_what_surely_stays_below_the_margin_is_not_felt() -> None:
    assert burned((2.0, 2.5), (2.1, 1.9), (2.0, 2.1), (2.1, 2.0), (2.0, 2.2)).contained


def test_a_failure_is_felt() -> None:
    found = burned((2.0, 2.0), (2.0, 2.0), failures=1.0)
    assert found.contained is False
    assert words.neighbor_text(found.neighbours["process"]) == "2.00 ms -> 2.00 ms, 2 failed"


def test_a_pair_without_answers_is_left_out() -> None:
    found = burned((1.0, 9.0), (3.0, 7.0), (2.0, None), failures=1.0)
    change = found.neighbours["process"].change
    assert change is not None
    assert (change.rounds, change.process, change.container, found.neighbours["process"].failures) == (2, 2.0, 8.0, 3)


def test_tries_are_counted_and_each_way_it_went_is_told_once() -> None:
    tries = [(True, "ended at 200 MiB"), (True, "ended at 210 MiB"), (None, "too little memory"), (False, "got it all")]
    hogs = [Attempt("memory hog", "container", number, *told) for number, told in enumerate(tries)]
    (found,) = verdicts(hogs)
    assert (found.held, found.tried, found.contained, words.containment_text(found)) == (
        2,
        3,
        False,
        "not always (2 of 3)",
    )
    assert found.outcomes == ("ended at 200 MiB", "too little memory", "got it all")
    (always,) = verdicts(hogs[:2])
    assert words.containment_text(always) == "yes (2 of 2)"
    (never,) = verdicts(hogs[3:])
    assert words.containment_text(never) == "no (0 of 1)"
    (untried,) = verdicts(hogs[2:3])
    assert (untried.contained, words.containment_text(untried)) == (None, "not tried")
