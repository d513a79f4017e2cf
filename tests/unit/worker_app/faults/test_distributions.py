"""The shapes of the delay: exact mean, and draws that obey the distribution they are named after
(Kolmogorov-Smirnov).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from statistics import NormalDist

import pytest

from fault_rules import DISTRIBUTIONS, LOGNORMAL_SIGMA

pytestmark = pytest.mark.slow

DRAWS = 20_000
CRITICAL = 1.95 / math.sqrt(DRAWS)  # Kolmogorov-Smirnov at a level of 0.1 %


def _lognormal_cdf(x: float) -> float:
    return NormalDist(-(LOGNORMAL_SIGMA**2) / 2, LOGNORMAL_SIGMA).cdf(math.log(x)) if x > 0 else 0.0


CDFS: dict[str, Callable[[float], float]] = {
    "uniform": lambda x: min(1.0, max(0.0, x - 0.5)),
    "exponential": lambda x: 1.0 - math.exp(-x),
    "lognormal": _lognormal_cdf,
}


@pytest.mark.parametrize("name", sorted(CDFS))
def test_draws_obey_their_distribution(name: str) -> None:
    generator = random.Random(5)
    sample = sorted(DISTRIBUTIONS[name](generator.random()) for _ in range(DRAWS))
    distance = max(
        max(abs(CDFS[name](x) - i / DRAWS), abs(CDFS[name](x) - (i + 1) / DRAWS)) for i, x in enumerate(sample)
    )
    assert distance < CRITICAL


@pytest.mark.parametrize("name", sorted(DISTRIBUTIONS))
def test_mean_is_exactly_the_average(name: str) -> None:
    """The inverse distribution function integrated over its range, by the midpoint rule."""
    steps = 200_000
    mean = math.fsum(DISTRIBUTIONS[name]((i + 0.5) / steps) for i in range(steps)) / steps
    assert mean == pytest.approx(1.0, rel=2e-4)


def test_constant_never_varies() -> None:
    assert {DISTRIBUTIONS["constant"](u) for u in (0.0, 0.3, 0.999)} == {1.0}


def test_uniform_stays_between_half_and_one_and_a_half() -> None:
    assert DISTRIBUTIONS["uniform"](0.0) == 0.5
    assert DISTRIBUTIONS["uniform"](math.nextafter(1.0, 0.0)) <= 1.5


@pytest.mark.parametrize("name", sorted(DISTRIBUTIONS))
@pytest.mark.parametrize("u", [0.0, 2.0**-53, math.nextafter(1.0, 0.0)])
def test_no_random_number_breaks_a_shape(name: str, u: float) -> None:
    assert math.isfinite(DISTRIBUTIONS[name](u))
    assert DISTRIBUTIONS[name](u) >= 0.0
