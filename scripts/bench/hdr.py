"""Stores latencies as HDR histograms (package hdrhistogram): every value within 0.1 %, at a fixed cost. Pure.

Values are whole microseconds. A histogram of a closed model lacks the requests that its stalled clients did not send.
`corrected` adds them like Gil Tene's HDR histogram: an answer that took n times the expected interval stands for n - 1
more, with shorter and shorter waits. If requests have a due time, no such estimate is needed: their times count from
it.
"""

from collections.abc import Iterable, Iterator

from hdrh.histogram import HdrHistogram as Histogram

HIGHEST = 3_600_000_000  # an hour
FIGURES = 3  # significant digits

Pairs = Iterable[tuple[int, int]]


def from_pairs(pairs: Pairs = ()) -> Histogram:
    """Return a histogram of these pairs of value and count."""
    made = Histogram(1, HIGHEST, FIGURES)
    for value, count in pairs:
        made.record_value(max(1, min(value, HIGHEST)), count)
    return made


def summed(parts: Iterable[Histogram]) -> Histogram:
    """Return the sum of these histograms."""
    made = from_pairs()
    for part in parts:
        made.add(part)
    return made


def pairs(histogram: Histogram) -> Iterator[tuple[int, int]]:
    """Return each value that occurs, with its count."""
    for item in histogram.get_recorded_iterator():
        yield item.value_iterated_to, item.count_at_value_iterated_to


def corrected(values: Pairs, interval: int) -> list[tuple[int, int]]:
    """Return the values corrected for coordinated omission, sorted.

    `interval` is the time in microseconds between a client's requests when nothing stalls. ValueError if it is not
    positive.
    """
    if interval <= 0:
        raise ValueError("the expected interval must be positive")
    found: dict[int, int] = {}
    for value, count in values:
        found[value] = found.get(value, 0) + count
        for missing in range(value - interval, interval - 1, -interval):
            found[missing] = found.get(missing, 0) + count
    return sorted(found.items())


def uncorrected(values: Pairs, interval: int) -> list[tuple[int, int]]:
    """Undo wrk's correction: return the measured values.

    wrk adds to each value n of at least twice the interval the values n - i, n - 2i, … that are above i. So at every n
    above i the measured count is wrk's count at n minus wrk's count at n + i.
    """
    counts = dict(values)
    if interval <= 0:
        return sorted(counts.items())
    measured = {
        value: count - (counts.get(value + interval, 0) if value > interval else 0) for value, count in counts.items()
    }
    return [(value, count) for value, count in sorted(measured.items()) if count > 0]


def percentile_ms(histogram: Histogram, percent: float) -> float | None:
    """Return the percentile in milliseconds; None for an empty histogram."""
    return float(histogram.get_value_at_percentile(percent)) / 1000 if histogram.get_total_count() else None


def curve(histogram: Histogram) -> list[tuple[float, float]]:
    """Return pairs of percent and milliseconds, denser towards 100 %, as far as the number of values allows."""
    total = histogram.get_total_count()
    steps = (0, 10, 20, 30, 40, 50, 60, 70, 75, 80, 85, 90, 92.5, 95, 97, 98, 99, 99.5, 99.8, 99.9, 99.95, 99.99)
    return [
        (p, float(histogram.get_value_at_percentile(p)) / 1000) for p in steps if total and total * (100 - p) / 100 >= 1
    ]


def encoded(histogram: Histogram) -> str:
    """Encode the histogram as text, in the format that all HDR implementations read."""
    return bytes(histogram.encode()).decode()


def decoded(text: str) -> Histogram:
    return Histogram.decode(text.encode())
