"""From counts that only grow to what happens now: rates, percentiles, and the last five minutes. Pure.

A `Counted` is what was counted of one thing (a load balancer, a worker, or an edge from one to the other) since its first start. The
`Meter` is shown all of them once a second; a rate is the difference over the last WINDOW of these looks, so that it neither jumps nor
lags by more than a few seconds. What it keeps of older looks is one small `Sample` a second, for the time line.

Latencies come in the load balancers' buckets: bucket k holds what lay in [2^(k/4), 2^((k+1)/4)) microseconds (see `lb.counters`).
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from operator import add, sub
from typing import Any

BUCKETS = 104
WINDOW = 5
"""Looks, a second apart, over which a present rate is taken."""

KEPT = 300
"""Samples, a second apart: the last five minutes."""

BOUNDS = tuple(range(39, BUCKETS - 1, 4))
"""Buckets whose upper edges, 1.024 ms, 2.048 ms, … 33.6 s, are those of the histogram that is told to others."""


@dataclass(frozen=True, slots=True)
class Counted:
    """Counts since the first start: `responses` by the status's first digit (1xx to 5xx), `errors` are answers of 5xx and attempts
    that broke; the last four are what is so now."""

    requests: int = 0
    responses: tuple[int, ...] = (0,) * 5
    errors: int = 0
    retries: int = 0
    latency: tuple[int, ...] = (0,) * BUCKETS
    latency_us: int = 0
    in_flight: int = 0
    queued: int = 0
    connections: int = 0

    def __add__(self, other: "Counted") -> "Counted":
        return Counted(
            self.requests + other.requests,
            tuple(map(add, self.responses, other.responses)),
            self.errors + other.errors,
            self.retries + other.retries,
            tuple(map(add, self.latency, other.latency)),
            self.latency_us + other.latency_us,
            self.in_flight + other.in_flight,
            self.queued + other.queued,
            self.connections + other.connections,
        )


@dataclass(frozen=True, slots=True)
class Rates:
    """What happens now. The percentiles are None where nothing was answered."""

    requests_per_s: float = 0.0
    errors_per_s: float = 0.0
    p50_ms: float | None = None
    p99_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """All that was counted, at a moment (monotonic seconds): by name of a replica, and by (load balancer, worker)."""

    at: float
    replicas: Mapping[str, Counted]
    edges: Mapping[tuple[str, str], Counted]
    total: Counted


NOTHING = Look(0.0, {}, {}, Counted())


@dataclass(frozen=True, slots=True)
class Sample:
    """One second of the time line. `at` is its end in seconds since the epoch; `replicas` has requests/s and errors/s by name."""

    at: float
    total: Rates
    in_flight: int
    replicas: Mapping[str, tuple[float, float]]


@dataclass
class Meter:
    """Takes one look a second and keeps what rates and time line need."""

    looks: deque[Look] = field(default_factory=lambda: deque(maxlen=WINDOW + 1))
    samples: deque[Sample] = field(default_factory=lambda: deque(maxlen=KEPT))
    latest: Look = field(default_factory=lambda: NOTHING)

    def add(self, look: Look, wall: float) -> Sample | None:
        """Take in a look at the wall time `wall`; the sample of the time since the last one."""
        former = self.looks[-1] if self.looks else None
        self.looks.append(look)
        self.latest = look
        if former is None or look.at <= former.at:
            return None
        span = look.at - former.at
        found = {name: rates(former.replicas.get(name, Counted()), counted, span) for name, counted in look.replicas.items()}
        small = {name: (each.requests_per_s, each.errors_per_s) for name, each in found.items()}
        self.samples.append(Sample(round(wall, 3), rates(former.total, look.total, span), look.total.in_flight, small))
        return self.samples[-1]

    def begin_anew(self) -> None:
        """Whatever the next look shows was counted earlier; rates begin with the one after it. The counts themselves stay."""
        self.looks.clear()

    def of(self, name: str) -> Rates:
        """The present rates of a replica."""
        first, last = self._ends()
        return rates(first.replicas.get(name, Counted()), last.replicas.get(name, Counted()), last.at - first.at)

    def along(self, edge: tuple[str, str]) -> Rates:
        """The present rates of what one load balancer sends to one worker."""
        first, last = self._ends()
        return rates(first.edges.get(edge, Counted()), last.edges.get(edge, Counted()), last.at - first.at)

    def total(self) -> Rates:
        """The present rates of all load balancers together."""
        first, last = self._ends()
        return rates(first.total, last.total, last.at - first.at)

    def _ends(self) -> tuple[Look, Look]:
        return (self.looks[0], self.looks[-1]) if self.looks else (NOTHING, NOTHING)


def look(at: float, replicas: Mapping[str, Counted], edges: Mapping[tuple[str, str], Counted]) -> Look:
    """A look at what the load balancers counted: a worker's counts are the sum of the edges that lead to it."""
    workers: dict[str, Counted] = {}
    for (_, worker), counted in edges.items():
        workers[worker] = workers[worker] + counted if worker in workers else counted
    return Look(at, {**replicas, **workers}, edges, sum(replicas.values(), Counted()))


def rates(before: Counted, after: Counted, seconds: float) -> Rates:
    """What happened between two looks, a second of it. Counts that went back (a cluster begun anew) are no news."""
    requests, errors = after.requests - before.requests, after.errors - before.errors
    if seconds <= 0 or requests < 0 or errors < 0:
        return Rates()
    if after.latency_us == before.latency_us:
        return Rates(round(requests / seconds, 2), round(errors / seconds, 2))
    between = tuple(map(sub, after.latency, before.latency))
    return Rates(round(requests / seconds, 2), round(errors / seconds, 2), percentile(between, 0.5), percentile(between, 0.99))


def percentile(counts: Iterable[int], share: float) -> float | None:
    """The latency in ms below which so large a share lay; None where nothing was counted. Right within the width of a bucket, 19 %."""
    listed = tuple(counts)
    wanted = share * sum(listed)
    if wanted <= 0:
        return None
    passed = 0
    for bucket, count in enumerate(listed):
        if count and passed + count >= wanted:
            low, high = _edge(bucket), _edge(bucket + 1)
            return round((low + (high - low) * (wanted - passed) / count) / 1000, 3)
        passed += count
    return None


def _edge(bucket: int) -> float:
    """The lower edge of a bucket in microseconds."""
    return float(2.0 ** (bucket / 4))


def histogram(counted: Counted) -> list[int]:
    """Answers by latency: as many as lay below each of BOUNDS, one after the other not summed up, then those above the last."""
    edges = [0, *(bucket + 1 for bucket in BOUNDS), BUCKETS]
    return [sum(counted.latency[low:high]) for low, high in pairwise(edges)]


def bounds_s() -> list[float]:
    """The upper edges of `histogram`'s counts in seconds, but for the last, which has none."""
    return [_edge(bucket + 1) / 1e6 for bucket in BOUNDS]


def sample_from(data: Mapping[str, Any]) -> Sample:
    """The sample that `dataclasses.asdict`, and JSON, made into `data`."""
    return Sample(data["at"], Rates(**data["total"]), data["in_flight"], {name: tuple(pair) for name, pair in data["replicas"].items()})


def columns(samples: Iterable[Sample], names: Iterable[str] | None = None) -> dict[str, Any]:
    """Samples as JSON, a list for each number; with `names`, those of the replicas of these names too (None where one was not)."""
    listed = tuple(samples)
    told: dict[str, Any] = {
        "at": [sample.at for sample in listed],
        "requests_per_s": [sample.total.requests_per_s for sample in listed],
        "errors_per_s": [sample.total.errors_per_s for sample in listed],
        "p50_ms": [sample.total.p50_ms for sample in listed],
        "p99_ms": [sample.total.p99_ms for sample in listed],
        "in_flight": [sample.in_flight for sample in listed],
    }
    if names is not None:
        told["replicas"] = {name: _column(listed, name) for name in names}
    return told


def _column(samples: tuple[Sample, ...], name: str) -> dict[str, list[float | None]]:
    pairs = [sample.replicas.get(name, (None, None)) for sample in samples]
    return {"requests_per_s": [pair[0] for pair in pairs], "errors_per_s": [pair[1] for pair in pairs]}
