"""The statistics of a comparison, against data whose answers are known."""

import pytest

from comet.common.figures import percentile
from comet.compare.results.figures import paired, slope, student


def test_the_interval_of_a_paired_difference_is_students() -> None:
    # Student's sleep data (1908): extra hours of sleep under two drugs, ten patients. The paired t interval is known:
    # 0.70 to 2.46.
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    found = paired(first, second)
    assert found is not None
    assert found.difference == pytest.approx(1.58)
    assert (found.low, found.high) == (pytest.approx(0.7001, abs=5e-4), pytest.approx(2.4599, abs=5e-4))
    assert found.certain
    assert (found.process, found.container) == (pytest.approx(0.35), pytest.approx(1.75))
    assert (found.process_mean, found.container_mean) == (pytest.approx(0.75), pytest.approx(2.33))


def test_an_effect_smaller_than_the_noise_is_not_certain() -> None:
    found = paired([10.0, 12.0, 9.0, 14.0], [11.0, 10.0, 12.0, 13.0])
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0 < found.high
    assert not found.certain


def test_figures_equal_but_for_rounding_are_the_same() -> None:
    found = paired([0.3, 24.0, 7.0], [0.1 + 0.2, 24.0, 7.000000000001])
    assert found is not None
    assert (found.difference, found.low, found.high, found.certain, found.noisy) == (0.0, 0.0, 0.0, False, False)


def test_one_round_has_a_difference_and_no_interval() -> None:
    found = paired([3.0], [5.0])
    assert found is not None
    assert (found.difference, found.low, found.certain) == (2.0, None, False)


def test_rounds_that_lack_a_value_are_left_out() -> None:
    found = paired([1.0, None, 3.0], [2.0, 100.0, 5.0, 7.0])
    assert found is not None
    assert (found.rounds, found.difference) == (2, 1.5)
    assert paired([None], [1.0]) is None


@pytest.mark.parametrize(("freedom", "quantile"), [(1, 12.706), (9, 2.262), (11, 2.228), (25, 2.086), (1000, 1.96)])
def test_students_quantile_is_never_too_small(freedom: int, quantile: float) -> None:
    assert student(freedom) == quantile


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(number) for number in range(1, 101)]
    assert [percentile(values, percent) for percent in (50, 99, 100)] == [50.0, 99.0, 100.0]
    assert percentile([], 50) is None


def test_growth_per_replica_is_the_least_squares_slope() -> None:
    assert slope([(1, 30.0), (5, 110.0), (10, 210.0), (20, 410.0)]) == pytest.approx(20.0)
    assert slope([(3, 1.0), (3, 2.0)]) is None
