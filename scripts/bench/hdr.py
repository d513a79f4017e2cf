"""Latencies as HDR histograms: every value within 0.1 %, whatever its size, at a fixed cost; the package is hdrhistogram. Pure.

Values are whole microseconds. A histogram of a closed model lacks what its stalled clients did not ask meanwhile; `corrected` puts it
in, as Gil Tene's HDR histogram does: an answer that took n times the expected interval stands for n - 1 more that would have waited for
less and less. Where requests have a due time no such estimate is needed: their times count from it.
"""

from collections.abc import Iterable, Iterator

from hdrh.histogram import HdrHistogram as Histogram

HIGHEST = 3_600_000_000  # an hour
FIGURES = 3  # significant digits

Pairs = Iterable[tuple[int, int]]


def fresh(pairs: Pairs = ()) -> Histogram:
    """A histogram of these values and how often each came."""
    made = Histogram(1, HIGHEST, FIGURES)
    for value, count in pairs:
        made.record_value(max(1, min(value, HIGHEST)), count)
    return made


def together(parts: Iterable[Histogram]) -> Histogram:
    """All of them as one."""
    made = fresh()
    for part in parts:
        made.add(part)
    return made


def pairs(of: Histogram) -> Iterator[tuple[int, int]]:
    """Each value that occurs, and how often."""
    for item in of.get_recorded_iterator():
        yield item.value_iterated_to, item.count_at_value_iterated_to


def corrected(values: Pairs, interval: int) -> list[tuple[int, int]]:
    """The values with those that coordinated omission left out, in order; `interval` in microseconds is what lies between a client's
    requests when nothing stalls. ValueError: it is not positive."""
    if interval <= 0:
        raise ValueError("the expected interval must be positive")
    found: dict[int, int] = {}
    for value, count in values:
        found[value] = found.get(value, 0) + count
        for missing in range(value - interval, interval - 1, -interval):
            found[missing] = found.get(missing, 0) + count
    return sorted(found.items())


def uncorrected(values: Pairs, interval: int) -> list[tuple[int, int]]:
    """What was measured, out of what wrk made of it. wrk adds to each value n of at least twice the interval the values n - i, n - 2i, …
    that lie above i; so at every n above i its count is the measured one and the whole count at n + i."""
    counts = dict(values)
    if interval <= 0:
        return sorted(counts.items())
    measured = {value: count - (counts.get(value + interval, 0) if value > interval else 0) for value, count in counts.items()}
    return [(value, count) for value, count in sorted(measured.items()) if count > 0]


def percentile_ms(of: Histogram, percent: float) -> float | None:
    """In milliseconds; None of nothing."""
    return float(of.get_value_at_percentile(percent)) / 1000 if of.get_total_count() else None


def curve(of: Histogram) -> list[tuple[float, float]]:
    """Percent and milliseconds, closer to each other towards 100 %, as far as there are values to tell them apart."""
    total = of.get_total_count()
    steps = (0, 10, 20, 30, 40, 50, 60, 70, 75, 80, 85, 90, 92.5, 95, 97, 98, 99, 99.5, 99.8, 99.9, 99.95, 99.99)
    return [(p, float(of.get_value_at_percentile(p)) / 1000) for p in steps if total and total * (100 - p) / 100 >= 1]


def encoded(of: Histogram) -> str:
    """As text, in the format that all HDR implementations read."""
    return bytes(of.encode()).decode()


def decoded(text: str) -> Histogram:
    return Histogram.decode(text.encode())
