"""Turns counters that only grow into rates, percentiles, and a time line of the last five minutes. Pure.

A `Counted` is what was counted of one thing (a load balancer, a worker, or an edge from one to the other) since its
first start. The `Meter` gets all of them once a second (a `Reading`). A rate is the difference over the last WINDOW
readings, so that it neither jumps nor lags by more than a few seconds. Of older readings the meter keeps one small
`Sample` a second, for the timeline.

Latencies come in the load balancers' buckets: bucket k holds latencies in [2^(k/4), 2^((k+1)/4)) microseconds (see
`lb.interface.counters`).
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from itertools import pairwise
from operator import add, attrgetter, sub
from typing import Any

from fault_rules import FRONT_COUNTED

BUCKETS = 104
WINDOW = 5
"""Looks, one a second, over which a present rate is taken."""

KEPT = 300
"""Samples that are kept, one a second: the last five minutes."""

BOUNDS = tuple(range(39, BUCKETS - 1, 4))
"""Buckets whose upper edges (1.024 ms, 2.048 ms, … 33.6 s) are those of the published histogram."""


@dataclass(frozen=True, slots=True)
class Counted:
    """Counts since the first start.

    `responses` is by the status's first digit (1xx to 5xx). `errors` are answers of 5xx and failed attempts,
    `injected` those of them that an injected fault caused. The four fields before it are present values, not counts.
    `front_injected` are the faults injected at the front, in the order of `fault_rules.FRONT_COUNTED`.
    """

    requests: int = 0
    responses: tuple[int, ...] = (0,) * 5
    errors: int = 0
    retries: int = 0
    latency: tuple[int, ...] = (0,) * BUCKETS
    latency_us: int = 0
    in_flight: int = 0
    queued: int = 0
    connections: int = 0
    tunnels: int = 0
    injected: int = 0
    front_injected: tuple[int, ...] = (0,) * len(FRONT_COUNTED)

    def __add__(self, other: "Counted") -> "Counted":
        # The supervisor adds thousands of them a second where there are many replicas: as few calls as possible.
        pairs = zip(_values(self), _values(other), strict=True)
        sums: list[Any] = [tuple(map(add, a, b)) if type(a) is tuple else a + b for a, b in pairs]
        return Counted(*sums)


_values = attrgetter(*(each.name for each in fields(Counted)))
"""Returns the counts in the order of their declaration."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Present rates; the percentiles are None where nothing was answered."""

    requests_per_s: float = 0.0
    errors_per_s: float = 0.0
    p50_ms: float | None = None
    p99_ms: float | None = None
    injected_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Reading:
    """Everything that was counted until `at` (monotonic seconds): by replica name, and by (load balancer, worker)."""

    at: float
    replicas: Mapping[str, Counted]
    edges: Mapping[tuple[str, str], Counted]
    total: Counted


NO_READING = Reading(0.0, {}, {}, Counted())


@dataclass(frozen=True, slots=True)
class Sample:
    """One second of the time line.

    `at` is its end in seconds since the epoch; `replicas` has requests/s and errors/s by name.
    """

    at: float
    total: Rates
    in_flight: int
    replicas: Mapping[str, tuple[float, float]]


@dataclass
class Meter:
    """Takes one reading a second and keeps what rates and the time line need."""

    readings: deque[Reading] = field(default_factory=lambda: deque(maxlen=WINDOW + 1))
    samples: deque[Sample] = field(default_factory=lambda: deque(maxlen=KEPT))
    latest: Reading = field(default_factory=lambda: NO_READING)

    def add(self, reading: Reading, wall: float) -> Sample | None:
        """Add a reading; return the sample of the time since the last one, None where there is none.

        `wall` is the wall-clock time of the reading in seconds since the epoch.
        """
        previous = self.readings[-1] if self.readings else None
        self.readings.append(reading)
        self.latest = reading
        if previous is None or reading.at <= previous.at:
            return None
        span = reading.at - previous.at
        rates_by_name = {
            name: rates(previous.replicas.get(name, Counted()), counted, span)
            for name, counted in reading.replicas.items()
        }
        sample_rates = {name: (each.requests_per_s, each.errors_per_s) for name, each in rates_by_name.items()}
        self.samples.append(
            Sample(round(wall, 3), rates(previous.total, reading.total, span), reading.total.in_flight, sample_rates)
        )
        return self.samples[-1]

    def restart_rates(self) -> None:
        """Restart the rates with the next reading, whose counts were made earlier; the counts themselves stay."""
        self.readings.clear()

    def of(self, name: str) -> Rates:
        """Return the present rates of a replica."""
        first, last = self._window_ends()
        return rates(first.replicas.get(name, Counted()), last.replicas.get(name, Counted()), last.at - first.at)

    def edge_rates(self, edge: tuple[str, str]) -> Rates:
        """Return the present rates of what one load balancer sends to one worker."""
        first, last = self._window_ends()
        return rates(first.edges.get(edge, Counted()), last.edges.get(edge, Counted()), last.at - first.at)

    def total(self) -> Rates:
        """Return the present rates of all load balancers together."""
        first, last = self._window_ends()
        return rates(first.total, last.total, last.at - first.at)

    def _window_ends(self) -> tuple[Reading, Reading]:
        return (self.readings[0], self.readings[-1]) if self.readings else (NO_READING, NO_READING)


def make_reading(at: float, replicas: Mapping[str, Counted], edges: Mapping[tuple[str, str], Counted]) -> Reading:
    """Return a reading of the load balancers' counts; a worker's counts are the sum of the edges that lead to it."""
    workers: dict[str, Counted] = {}
    for (_, worker), counted in edges.items():
        workers[worker] = workers[worker] + counted if worker in workers else counted
    return Reading(at, {**replicas, **workers}, edges, sum(replicas.values(), Counted()))


def rates(before: Counted, after: Counted, seconds: float) -> Rates:
    """Return the rates between two readings; zero where counts decreased (a cluster that was started again)."""
    requests, errors = after.requests - before.requests, after.errors - before.errors
    injected = after.injected - before.injected
    if seconds <= 0 or requests < 0 or errors < 0 or injected < 0:
        return Rates()
    per_s = [round(count / seconds, 2) for count in (requests, errors, injected)]
    if after.latency_us == before.latency_us:
        return Rates(per_s[0], per_s[1], injected_per_s=per_s[2])
    between = tuple(map(sub, after.latency, before.latency))
    return Rates(per_s[0], per_s[1], percentile(between, 0.5), percentile(between, 0.99), per_s[2])


def percentile(counts: Iterable[int], share: float) -> float | None:
    """Return the latency in ms below which this share lies, None where nothing was counted.

    It is exact within the width of a bucket, 19 %.
    """
    listed = tuple(counts)
    rank = share * sum(listed)
    if rank <= 0:
        return None
    below = 0
    for bucket, count in enumerate(listed):
        if count and below + count >= rank:
            low, high = _edge(bucket), _edge(bucket + 1)
            return round((low + (high - low) * (rank - below) / count) / 1000, 3)
        below += count
    return None


def _edge(bucket: int) -> float:
    """Return the lower edge of a bucket in microseconds."""
    return float(2.0 ** (bucket / 4))


def histogram(counted: Counted) -> list[int]:
    """Return the number of answers below each of BOUNDS (not cumulated), then of those above the last."""
    edges = [0, *(bucket + 1 for bucket in BOUNDS), BUCKETS]
    return [sum(counted.latency[low:high]) for low, high in pairwise(edges)]


def bounds_s() -> list[float]:
    """Return the upper edges of `histogram`'s counts in seconds, except for the last, which has none."""
    return [_edge(bucket + 1) / 1e6 for bucket in BOUNDS]


def sample_from(data: Mapping[str, Any]) -> Sample:
    """Return the sample that `dataclasses.asdict` and JSON turned into `data`."""
    return Sample(
        data["at"],
        Rates(**data["total"]),
        data["in_flight"],
        {name: tuple(pair) for name, pair in data["replicas"].items()},
    )


def columns(samples: Iterable[Sample], names: Iterable[str] | None = None) -> dict[str, Any]:
    """Return samples as JSON columns, one list for each figure.

    With `names`, the result also has the columns of these replicas, with None where a replica did not exist.
    """
    listed = tuple(samples)
    result: dict[str, Any] = {
        "at": [sample.at for sample in listed],
        "requests_per_s": [sample.total.requests_per_s for sample in listed],
        "errors_per_s": [sample.total.errors_per_s for sample in listed],
        "injected_per_s": [sample.total.injected_per_s for sample in listed],
        "p50_ms": [sample.total.p50_ms for sample in listed],
        "p99_ms": [sample.total.p99_ms for sample in listed],
        "in_flight": [sample.in_flight for sample in listed],
    }
    if names is not None:
        result["replicas"] = {name: _column(listed, name) for name in names}
    return result


def _column(samples: tuple[Sample, ...], name: str) -> dict[str, list[float | None]]:
    pairs = [sample.replicas.get(name, (None, None)) for sample in samples]
    return {"requests_per_s": [pair[0] for pair in pairs], "errors_per_s": [pair[1] for pair in pairs]}
