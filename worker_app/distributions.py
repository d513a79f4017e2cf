"""Delay distributions (pure): one uniform number in [0, 1) -> a factor of the average delay.

Rule: each factor has mean exactly 1, so `avg-delay` is the mean whatever the shape; and each uses the inverse of its
distribution function, so one draw costs exactly one random number and a seed gives the n-th request the n-th draw, also after a
change of shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

LOGNORMAL_SIGMA = 0.5  # p99 at 2.8 times the mean: the long tail of a typical service
_SMALLEST = 2.0**-54  # below the smallest step of random.random(): keeps the logarithms finite
_NORMAL = NormalDist()


def constant(u: float) -> float:
    return 1.0


def uniform(u: float) -> float:
    """Uniform in [0.5, 1.5), as the contract says."""
    return 0.5 + u


def exponential(u: float) -> float:
    return -math.log1p(-u)


def lognormal(u: float) -> float:
    """exp(mu + sigma * z) has the mean exp(mu + sigma^2 / 2): mu = -sigma^2 / 2 makes that 1."""
    z = _NORMAL.inv_cdf(max(u, _SMALLEST))
    return math.exp(LOGNORMAL_SIGMA * z - LOGNORMAL_SIGMA**2 / 2.0)


DISTRIBUTIONS: dict[str, Callable[[float], float]] = {
    "uniform": uniform,
    "constant": constant,
    "exponential": exponential,
    "lognormal": lognormal,
}
