"""Load on all LBs of a cluster at once, in slices of time: closed (so many clients, each waits for its answer; wrk) or open (a constant
rate, whatever the answers do; paced). The slices are repeated measurements, by which two results can be told apart from noise."""

import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from comet.crowd import Ask
from scripts.bench import paced
from scripts.bench.observed import Observed, beside, in_turn
from scripts.bench.paced import Sending
from scripts.bench.proc import BenchError
from scripts.bench.wrk import observe, sorting


@dataclass(frozen=True)
class Load:
    """What is offered. Open where `rate` is given; `clients` is then the most requests at a time."""

    asks: Sequence[Ask]
    seconds: float
    slices: int
    clients: int
    rate: float | None = None

    def connections(self, lbs: int) -> int:
        """At each LB."""
        return max(1, self.clients // lbs)

    def most_out(self, lbs: int) -> int:
        """How many requests are out when clients leave, at the most, all slices together."""
        return 0 if self.rate else self.connections(lbs) * lbs * self.slices

    def __str__(self) -> str:
        what = ", ".join(f"{ask.method} {ask.path}" + (f" with {len(ask.body):,} bytes" if ask.body else "") for ask in self.asks)
        how = (
            f"open model, {self.rate:g} requests/s, at most {self.clients} at a time"
            if self.rate
            else f"closed model, {self.clients} clients"
        )
        return f"{how}, {self.seconds:g} s in {self.slices} slices; {what}"


@dataclass(frozen=True)
class Seen:
    """By slice and LB; the generators' CPU in percent of a core (the busiest one's), and of the open model how the rate was kept."""

    slices: Sequence[Mapping[str, Observed]]
    generator_cpu: float
    generators: int
    sending: Sending | None = None

    def by_slice(self) -> list[Observed]:
        return [beside(part.values()) for part in self.slices]

    def by_lb(self) -> dict[str, Observed]:
        return {name: in_turn(part[name] for part in self.slices) for name in self.slices[0]}

    def whole(self) -> Observed:
        return in_turn(self.by_slice())


def offer(load: Load, ports: Mapping[str, int]) -> Seen:
    """Load the LBs. BenchError: a generator failed."""
    if load.rate:
        slices, sending = paced.run(ports, load.asks, load.rate, load.seconds, load.slices, load.clients)
        return Seen(slices, sending.cpu, 1, sending)
    own, began = psutil.Process().cpu_times(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="comet-bench-") as folder:
        script = Path(folder) / "load.lua"
        script.write_text(sorting(load.asks))
        parts = [_slice(load, ports, script) for _ in range(load.slices)]
    now, took = psutil.Process().cpu_times(), time.monotonic() - began
    spent = now.children_user + now.children_system - own.children_user - own.children_system
    return Seen(parts, spent / took / len(ports) * 100, len(ports))


def _slice(load: Load, ports: Mapping[str, int], script: Path) -> dict[str, Observed]:
    """One wrk for each LB, side by side."""
    found: dict[str, Observed] = {}
    failed: list[str] = []

    def one(name: str, port: int) -> None:
        try:
            found[name] = observe(port, script, load.connections(len(ports)), load.seconds / load.slices)
        except BenchError as error:
            failed.append(f"{name}: {error}")

    threads = [threading.Thread(target=one, args=each) for each in ports.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise BenchError("; ".join(failed))
    return {name: found[name] for name in ports}
