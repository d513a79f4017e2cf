"""When a neighbour has felt an attack: judged from pairs, without running one."""

from comet.compare.isolation import felt, middle


def pairs(*times: tuple[float | None, float | None], failures: float = 0.0) -> list[dict[str, float | None]]:
    return [{"before_p99_ms": before, "during_p99_ms": during, "failures": failures} for before, during in times]


def test_answers_that_are_late_in_every_pair_were_felt() -> None:
    assert felt(pairs((2.0, 30.0), (2.5, 28.0), (2.2, 33.0), (2.1, 31.0), (2.0, 29.0)))


def test_one_late_pair_of_many_is_noise() -> None:
    assert felt(pairs((2.0, 2.1))) is None
    assert felt(pairs((2.0, 2.1), (2.5, 60.0), (2.2, 2.0), (2.1, 2.2), (2.0, 2.1))) is None


def test_what_surely_stays_below_the_margin_is_not_felt() -> None:
    assert felt(pairs((2.0, 2.5), (2.1, 1.9), (2.0, 2.1), (2.1, 2.0), (2.0, 2.2))) is False


def test_a_failure_is_felt() -> None:
    assert felt(pairs((2.0, 2.0), (2.0, 2.0), failures=1.0))


def test_many_pairs_are_told_as_their_medians() -> None:
    assert middle(pairs((1.0, 9.0), (3.0, 7.0), (2.0, None), failures=1.0)) == {"failures": 3.0, "before_p99_ms": 2.0, "during_p99_ms": 7.0}
