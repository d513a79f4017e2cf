"""What is asked when time runs out: replayed with the seconds that rounds took on quiet and on busy machines."""

import pytest

from comet.compare.budget import CLEANUP_TIME, Budget


def replay(rounds: int, core: float, rest: float, began: float = 8.0, once: float = 0.0) -> tuple[list[bool], float]:
    """Of each round that was begun, whether all was asked; and the seconds until the last answer."""
    budget, spent, asked = Budget(rounds), began, []
    for number in range(rounds):
        if not budget.core_fits(number, spent):
            break
        spent, budget.core = spent + core, max(budget.core, core)
        asked.append(budget.rest_fits(number, spent))
        if asked[-1]:
            spent, budget.rest = spent + rest, max(budget.rest, rest)
        spent += once if number == 0 else 0
    return asked, spent


@pytest.mark.parametrize(("rounds", "limit"), [(1, 480), (3, 480), (6, 900)])
def test_a_quiet_machine_is_asked_everything_in_every_round(rounds: int, limit: float) -> None:
    asked, spent = replay(rounds, core=51, rest=65)
    assert asked == [True] * rounds
    assert spent + CLEANUP_TIME < limit


def test_a_busy_machine_drops_growth_and_isolation_first() -> None:
    asked, spent = replay(3, core=83, rest=142)
    assert asked == [True, False, False]
    assert spent + CLEANUP_TIME <= 480


def test_whole_rounds_are_left_out_where_even_that_does_not_fit() -> None:
    asked, spent = replay(6, core=200, rest=300)
    assert asked == [True, False]
    assert spent + CLEANUP_TIME <= 900


def test_time_that_is_left_goes_to_growth_and_isolation() -> None:
    asked, spent = replay(6, core=70, rest=95)
    assert asked == [True, True, True, True, False, False]
    assert spent + CLEANUP_TIME <= 900


def test_what_is_asked_once_never_takes_from_the_limit() -> None:
    asked, spent = replay(6, core=51, rest=91, once=80)
    assert asked == [True, True, True, True, True, False]
    assert spent + CLEANUP_TIME <= 900
