"""Loads all load balancers of a cluster at once: closed (a number of clients, each waits for its answer; wrk) or open
(a constant rate; paced).

The time is divided into slices, which are repeated measurements, so that differences between two results can be told
from noise. An open model's clients assign their requests to slices. wrk cannot, and waiting for each slice's last
answers would disturb the measurement: so the load balancers' counters are read at the end of every slice instead.
"""

import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import psutil

from comet.common.values import url_host
from comet.load.closed_model import RequestSpec
from comet.telemetry.rates import BUCKETS, percentile
from scripts.bench import paced
from scripts.bench.observed import Observed, beside, in_turn
from scripts.bench.paced import Sending
from scripts.bench.proc import BenchError
from scripts.bench.wrk import observe, sorting


@dataclass(frozen=True)
class Load:
    """The load on this `host`.

    It is an open model if `rate` is given; `clients` is then the maximum of requests in flight.
    """

    asks: Sequence[RequestSpec]
    seconds: float
    slices: int
    clients: int
    rate: float | None = None
    host: str = "127.0.0.1"

    @property
    def base(self) -> str:
        """What the URLs begin with."""
        return f"{'https' if self.asks[0].tls else 'http'}://{url_host(self.host)}"

    def connections(self, lbs: int) -> int:
        """Connections at each load balancer."""
        return max(1, self.clients // lbs)

    def __str__(self) -> str:
        what = ", ".join(
            f"{ask.method} {ask.path}" + (f" with {len(ask.body):,} bytes" if ask.body else "") for ask in self.asks
        )
        how = (
            f"open model, {self.rate:g} requests/s, at most {self.clients} at a time"
            if self.rate
            else f"closed model, {self.clients} clients"
        )
        return f"{how}, {self.seconds:g} s in {self.slices} slices; {what}"


Counts = Mapping[str, int]


@dataclass(frozen=True)
class Passage:
    """One slice as all load balancers counted it: answers a second, their duration in ms, and the load balancers' own
    errors.
    """

    rate: float
    p50_ms: float
    p99_ms: float
    own_errors: int


@dataclass(frozen=True)
class Seen:
    """The observations by slice (a closed model has one) and load balancer.

    Also the generators' CPU in percent of a core (their mean), how the rate was kept (open), and what the load
    balancers counted at the end of every slice (closed).
    """

    slices: Sequence[Mapping[str, Observed]]
    generator_cpu: float
    generators: int
    sending: Sending | None = None
    marks: Sequence[tuple[float, Counts]] = field(default_factory=tuple)

    def by_slice(self) -> list[Observed]:
        return [beside(part.values()) for part in self.slices]

    def by_lb(self) -> dict[str, Observed]:
        return {name: in_turn(part[name] for part in self.slices) for name in self.slices[0]}

    def whole(self) -> Observed:
        return in_turn(self.by_slice())

    def passages(self) -> list[Passage]:
        """The slices in which something was answered."""
        found = [passage(*before, *after) for before, after in pairwise(self.marks)]
        return [each for each in found if each is not None]


def passage(began: float, before: Counts, ended: float, after: Counts) -> Passage | None:
    """Return the increase between two readings of the load balancers' counters; None if there is none."""
    grown = {name: count - before.get(name, 0) for name, count in after.items()}
    times = [grown.get(f"latency_{bucket}", 0) for bucket in range(BUCKETS)]
    p50, p99 = percentile(times, 0.5), percentile(times, 0.99)
    if p50 is None or p99 is None or ended <= began:
        return None
    answers = sum(grown.get(f"responses_{digit}xx", 0) for digit in range(2, 6))
    return Passage(answers / (ended - began), p50, p99, grown.get("own_errors", 0))


def offer(load: Load, ports: Mapping[str, int], look: Callable[[], Counts]) -> Seen:
    """Load the load balancers; `look` returns the sum of their counters. BenchError if a generator fails."""
    if load.rate:
        slices, sending = paced.run(ports, load.asks, load.rate, load.seconds, load.slices, load.clients, load.host)
        return Seen(slices, sending.cpu, 1, sending)
    own = psutil.Process().cpu_times()
    with tempfile.TemporaryDirectory(prefix="comet-bench-") as folder:
        script = Path(folder) / "load.lua"
        script.write_text(sorting(load.asks))
        found, marks = _closed(load, ports, script, look)
    now = psutil.Process().cpu_times()
    spent = now.children_user + now.children_system - own.children_user - own.children_system
    return Seen([found], spent / load.seconds / len(ports) * 100, len(ports), None, marks)


def _closed(
    load: Load, ports: Mapping[str, int], script: Path, look: Callable[[], Counts]
) -> tuple[dict[str, Observed], list[tuple[float, Counts]]]:
    """Run one wrk per load balancer at the same time, and read the counters meanwhile."""
    found: dict[str, Observed] = {}
    failed: list[str] = []

    def one(name: str, port: int) -> None:
        try:
            found[name] = observe(port, script, load.connections(len(ports)), load.seconds, base=load.base)
        except BenchError as error:
            failed.append(f"{name}: {error}")

    threads = [threading.Thread(target=one, args=each) for each in ports.items()]
    for thread in threads:
        thread.start()
    began = time.monotonic()
    marks = [(began, look())]
    for number in range(load.slices):
        time.sleep(max(0.0, began + load.seconds * (number + 1) / load.slices - time.monotonic()))
        marks.append((time.monotonic(), look()))
    for thread in threads:
        thread.join()
    if failed:
        raise BenchError("; ".join(failed))
    return {name: found[name] for name in ports}, marks
