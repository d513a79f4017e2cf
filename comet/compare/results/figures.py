"""The statistics of a comparison: medians, means, and paired differences with their interval. Pure.

Both kinds are measured in every round, one right after the other, so the difference within a round is free of what made
rounds differ. Its 95 % interval is Student's for the mean of paired differences (t on n - 1 degrees of freedom); it
needs two rounds. An interval that contains zero says that the noise is larger than the effect.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isclose, sqrt
from statistics import mean, median, stdev

# Two-sided 95 % quantiles of Student's distribution by degrees of freedom; between two rows the larger quantile is
# used.
_STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 10: 2.228,
            12: 2.179, 15: 2.131,
            20: 2.086, 30: 2.042, 60: 2.000, 120: 1.980}  # fmt: skip
_NORMAL = 1.96


@dataclass(frozen=True)
class Paired:
    """Medians and means of both kinds, and the difference container minus process.

    The difference is the mean over the rounds, with its 95 % interval (None with one round). It is the difference of
    the two means, not of the medians: a sentence that states the difference states the means too.
    """

    rounds: int
    process: float
    container: float
    difference: float
    low: float | None
    high: float | None
    process_mean: float
    container_mean: float

    @property
    def certain(self) -> bool:
        """Whether the effect is larger than the noise: the interval does not contain zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    @property
    def noisy(self) -> bool:
        """Whether the noise is larger than the effect: the interval contains zero and is not a point.

        Figures that never differ are the same.
        """
        return self.low is not None and self.high is not None and not self.certain and self.high > self.low

    @property
    def ratio(self) -> float | None:
        """The container's median divided by the process's; None where that is zero."""
        return self.container / self.process if self.process else None


def student(freedom: int) -> float:
    """Return the two-sided 95 % quantile of Student's t; ValueError for fewer than one degree of freedom."""
    if freedom < 1:
        raise ValueError("an interval needs two values")
    known = [row for row in _STUDENT if row <= freedom]
    return _NORMAL if freedom > max(_STUDENT) else _STUDENT[max(known)]


def paired(process: Sequence[float | None], container: Sequence[float | None]) -> Paired | None:
    """Compare round by round; None where no round has both values. Rounds in which one is missing are left out."""
    pairs = [(a, b) for a, b in zip(process, container, strict=False) if a is not None and b is not None]
    if not pairs:
        return None
    # Values that differ only by rounding are the same.
    differences = [0.0 if isclose(a, b) else b - a for a, b in pairs]
    center = mean(differences)
    low = high = None
    if len(pairs) > 1:
        margin = student(len(pairs) - 1) * stdev(differences) / sqrt(len(pairs))
        low, high = center - margin, center + margin
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    return Paired(len(pairs), median(first), median(second), center, low, high, mean(first), mean(second))


def slope(points: Sequence[tuple[float, float]]) -> float | None:
    """Return the growth per unit of x (least squares); None with fewer than two different x."""
    if len({x for x, _ in points}) < 2:
        return None
    middle_x, middle_y = mean(x for x, _ in points), mean(y for _, y in points)
    return sum((x - middle_x) * (y - middle_y) for x, y in points) / sum((x - middle_x) ** 2 for x, _ in points)
