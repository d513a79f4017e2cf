"""Computes medians, percentiles, spreads and ratios. Pure.

Machines that run benches are shared, so no means are used: one disturbed burst must not change a result. Ratios are
taken within a round, between neighbors in time, and their median is the result.
"""

from collections.abc import Mapping, Sequence
from math import ceil, floor


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value below which `percent` of 100 lie, interpolated linearly between neighbors. ValueError for no
    values.
    """
    if not values:
        raise ValueError("percentile of nothing")
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    low, high = floor(place), ceil(place)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def median(values: Sequence[float]) -> float:
    """Return the middle value. ValueError for no values."""
    return percentile(values, 50)


def spread(values: Sequence[float]) -> float:
    """Return half the distance between the quartiles as a share of the median: the spread of repeated measurements."""
    middle = median(values)
    return (percentile(values, 75) - percentile(values, 25)) / 2 / middle if middle else 0.0


def ratios_to_best(subject: Sequence[float], rivals: Mapping[str, Sequence[float]]) -> list[float]:
    """Return, for each round, the subject's value over the smallest of its rivals in the same round.

    Values must be costs: less is better. Rounds with a missing or zero value are left out.
    """
    found = []
    for number, value in enumerate(subject):
        others = [series[number] for series in rivals.values() if number < len(series) and series[number] > 0]
        if value > 0 and others:
            found.append(value / min(others))
    return found


def best_rival(rivals: Mapping[str, Sequence[float]]) -> str | None:
    """Return the name with the smallest median; None if there are no values."""
    medians = {name: median([value for value in series if value > 0]) for name, series in rivals.items() if any(series)}
    return min(medians, key=lambda name: medians[name]) if medians else None


def evenness(counts: Sequence[int]) -> float:
    """Return the largest deviation of a share from the fair share, relative to it: 0 is perfectly balanced."""
    total = sum(counts)
    if not total:
        return 0.0
    fair = total / len(counts)
    return max(abs(count - fair) for count in counts) / fair
