"""What is made of raw figures: medians, percentiles, spreads, ratios. Pure.

Machines that run benches are shared, so nothing here is a mean: one disturbed burst must not move a result. Ratios are taken within
a round, between neighbours in time, and their median is the result.
"""

from collections.abc import Mapping, Sequence
from math import ceil, floor


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which `percent` of 100 lie, interpolated linearly between neighbours. ValueError: no values."""
    if not values:
        raise ValueError("percentile of nothing")
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    low, high = floor(place), ceil(place)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def median(values: Sequence[float]) -> float:
    """The middle value. ValueError: no values."""
    return percentile(values, 50)


def spread(values: Sequence[float]) -> float:
    """Half the distance between the quartiles as a share of the median: how far apart repeated measurements lie."""
    middle = median(values)
    return (percentile(values, 75) - percentile(values, 25)) / 2 / middle if middle else 0.0


def ratios_to_best(subject: Sequence[float], rivals: Mapping[str, Sequence[float]]) -> list[float]:
    """Round by round, the subject's value over the smallest of its rivals in the same round. Values must be costs: less is better.

    Rounds that somebody did not finish (zero or missing) are left out.
    """
    found = []
    for number, value in enumerate(subject):
        others = [series[number] for series in rivals.values() if number < len(series) and series[number] > 0]
        if value > 0 and others:
            found.append(value / min(others))
    return found


def best_rival(rivals: Mapping[str, Sequence[float]]) -> str | None:
    """The name whose median is smallest; None when nobody has values."""
    medians = {name: median([value for value in series if value > 0]) for name, series in rivals.items() if any(series)}
    return min(medians, key=lambda name: medians[name]) if medians else None


def evenness(counts: Sequence[int]) -> float:
    """The largest deviation of a share from the fair share, as a part of the fair share: 0 is perfectly balanced."""
    total = sum(counts)
    if not total:
        return 0.0
    fair = total / len(counts)
    return max(abs(count - fair) for count in counts) / fair


def binomial_bounds(trials: int, chance: float, deviations: float = 4.0) -> tuple[float, float]:
    """Between which numbers of hits `trials` draws should end; four standard deviations make a false alarm a 1 in 16,000."""
    middle = trials * chance
    margin = deviations * (trials * chance * (1 - chance)) ** 0.5
    return max(0.0, middle - margin), middle + margin
