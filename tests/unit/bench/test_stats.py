"""The statistics of the benches, against figures worked out by hand."""

import pytest

from scripts.bench.stats import best_rival, evenness, median, percentile, ratios_to_best, spread


def test_percentile_interpolates_between_neighbours() -> None:
    values = [40.0, 10.0, 30.0, 20.0]
    assert percentile(values, 0) == 10
    assert percentile(values, 50) == 25
    assert percentile(values, 100) == 40
    assert percentile(list(range(101)), 99) == 99


def test_median_of_odd_and_even_numbers() -> None:
    assert median([3, 1, 2]) == 2
    assert median([4, 1, 2, 3]) == 2.5


def test_nothing_has_no_median() -> None:
    with pytest.raises(ValueError, match="nothing"):
        median([])


def test_spread_ignores_one_disturbed_round() -> None:
    assert spread([10, 10, 10, 10, 500]) == 0
    assert spread([8, 9, 10, 11, 12]) == pytest.approx(0.1)


def test_spread_of_zeros_is_zero() -> None:
    assert spread([0.0, 0.0]) == 0


def test_ratios_are_taken_to_the_best_of_the_same_round() -> None:
    rivals = {"a": [10.0, 20.0, 30.0], "b": [20.0, 10.0, 40.0]}
    assert ratios_to_best([10.0, 20.0, 60.0], rivals) == [1.0, 2.0, 2.0]


def test_a_disturbance_of_one_round_cancels_out_when_it_hits_all() -> None:
    assert median(ratios_to_best([12.0, 120.0, 12.0], {"a": [10.0, 100.0, 10.0]})) == pytest.approx(1.2)


def test_rounds_that_nobody_finished_are_left_out() -> None:
    assert ratios_to_best([10.0, 0.0, 10.0], {"a": [5.0, 5.0, 0.0], "b": [0.0, 5.0]}) == [2.0]


def test_best_rival_is_the_one_with_the_smallest_median() -> None:
    assert best_rival({"a": [1.0, 9.0, 9.0], "b": [5.0, 5.0, 5.0]}) == "b"
    assert best_rival({"a": [], "b": [0.0]}) is None


def test_evenness() -> None:
    assert evenness([10, 10, 10]) == 0
    assert evenness([20, 10, 0]) == 1
    assert evenness([11, 9]) == pytest.approx(0.1)
    assert evenness([]) == evenness([0, 0]) == 0
