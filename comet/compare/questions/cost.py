"""Measures the cost of a request: latency at the client, CPU at worker, engine proxy and whole machine.

Each block gets its own load balancer, freshly started by the command line, in front of one worker: the same program,
the same settings, and no memory layout that would favor one kind all the time.
"""

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from statistics import median

from comet.common.figures import percentile
from comet.compare.questions import meter
from comet.compare.questions.life import answers
from comet.compare.questions.load import at_rate, clients
from comet.compare.questions.side import wait_for
from comet.compare.results.findings import HOST_NETWORK, Findings, Spread
from comet.host.checkout import SOURCES
from comet.host.sockets import find_free
from comet.load.closed_model import ResultCounts

IN_FLIGHT = (1, 16, 64)
PERCENTS = (1.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 100.0)
"""The percentiles that are kept of a block's distribution."""

RATE = 200.0
SECONDS = 1.5


@dataclass(frozen=True)
class NetworkPath:
    """A path to a worker: where it listens on this host, and the process that serves it, with its descendants."""

    name: str
    port: int
    pid: int


@dataclass(frozen=True)
class Price:
    """The cost of a block: client-side ms, and CPU in µs a request.

    `machine` is all cores without the clients' own share. `foreign` is the cores that neither worker, proxy, load
    balancer nor clients account for: other programs, and the kernel's work for all.
    """

    requests: int
    failed: int
    p50: float | None
    p99: float | None
    worker: float
    proxy: float
    machine: float
    percentiles: dict[float, float]
    foreign: float = 0.0


def measure_all(
    ways: Callable[[], list[NetworkPath]], round_: int, findings: Findings, taken: Collection[int] = ()
) -> None:
    """Run one round: every load on every path, one right after the other. `taken` are ports not to be used."""
    for number in (*IN_FLIGHT, None):
        label = f"{RATE:g} requests/s" if number is None else f"{number} in flight"
        for way in ways():
            with findings.excused(f"round {round_ + 1}: {way.name}, {label}"):
                note(findings, round_, way.name, label, measured(way, number, taken))


def note(findings: Findings, round_: int, way: str, label: str, price: Price) -> None:
    figures = {"latency p50": ("ms", price.p50), "latency p99": ("ms", price.p99)}
    figures |= {"CPU at the worker": ("µs/request", price.worker), "CPU of the machine": ("µs/request", price.machine)}
    for name, (unit, value) in figures.items():
        findings.measure("cost", f"{name}, {label}", unit).note(way, round_, value)
    if price.percentiles:
        findings.spreads.append(Spread(label, way, round_, price.percentiles))
    findings.foreign.append(price.foreign)
    if price.failed:
        findings.notes.append(f"round {round_ + 1}: {way}, {label}: {price.failed} of {price.requests} requests failed")
    if way not in ("process", HOST_NETWORK):
        findings.measure("cost", f"CPU at the engine's proxy, {label}", "µs/request").note(way, round_, price.proxy)


def measured(way: NetworkPath, in_flight: int | None, taken: Collection[int] = ()) -> Price:
    """Measure one block with `in_flight` requests in flight, or (None) with RATE requests a second."""
    workers, proxies = meter.tree(way.pid), meter.proxies(way.port)

    async def block(lb: int, lbs: list[int]) -> tuple[ResultCounts, float, float, float, float]:
        async with at_rate(lb, RATE) if in_flight is None else clients(lb, in_flight) as book:
            before, began = _clocks(workers, proxies, lbs), time.monotonic()
            counted = book.requests
            await asyncio.sleep(SECONDS)
            after, seconds = _clocks(workers, proxies, lbs), time.monotonic() - began
            done = max(1, book.requests - counted)
        worker, proxy, lb_own, machine = (b - a for a, b in zip(before, after, strict=True))
        foreign = max(0.0, machine - worker - proxy - lb_own) / seconds
        return book, worker / done * 1e6, proxy / done * 1e6, machine / done * 1e6, foreign

    with balancer(way.port, taken) as (port, pid):
        book, worker, proxy, machine, foreign = asyncio.run(block(port, meter.tree(pid)))
    times = [each * 1000 for each in book.times]
    spread = {percent: value for percent in PERCENTS if (value := percentile(times, percent)) is not None}
    half = median(times) if times else None
    return Price(book.requests, book.errors.total(), half, spread.get(99.0), worker, proxy, machine, spread, foreign)


def _clocks(workers: list[int], proxies: list[int], lbs: list[int]) -> tuple[float, float, float, float]:
    return (
        meter.cpu_seconds(workers),
        meter.cpu_seconds(proxies),
        meter.cpu_seconds(lbs),
        meter.machine_busy() - time.process_time(),
    )


@contextlib.contextmanager
def balancer(worker_port: int, taken: Collection[int]) -> Iterator[tuple[int, int]]:
    """Run a separate load balancer in front of one worker; yield its port and PID."""
    port = find_free("127.0.0.1", 1, taken)
    argv = [sys.executable, "-m", "lb", "--listen", f"127.0.0.1:{port}", "--upstream", f"127.0.0.1:{worker_port}"]
    process = subprocess.Popen(
        argv, cwd=SOURCES, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: answers(port), 20, "the load balancer answers")
        yield port, process.pid
    finally:
        process.kill()
        process.wait()
