"""`bench.sh inflight`: thousands in flight: clients x workers, at an injected delay of 500 ms, through two load balancers.

A closed model: N clients that each wait for their answer make at most N / delay requests a second, and the table says how much of that
was reached, what a request cost in CPU time (workers, LBs and the generators apart) and what limited it. Workers are plain processes, so
that their CPU time and memory are read as the kernel counts them. The rate is what the LBs counted between two looks in the midst of the
burst: at its beginning nobody has waited the delay out yet, and at its end the last answers are not waited for. Where the machine's
CPU is what ends, the limit is computed from what a request cost: cores / CPU seconds per request.
"""

import argparse
import resource
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from scripts.bench import machine
from scripts.bench.chart import Chart
from scripts.bench.cluster import BenchCluster, cluster
from scripts.bench.proc import memory, reset_peak, tree_cpu
from scripts.bench.report import Report, Samples, finish, say
from scripts.bench.table import Cell, Table
from scripts.bench.wrk import DONE, TIMES, Burst, burst

PATH = "/api/v1/hello"
DELAY = 500.0  # ms
ENOUGH = 0.95  # of what the delay, or else the CPU, allows
SATURATED = 0.92  # of all cores
SETTLE = 1.5  # seconds of a burst until all are under way: three delays
MEMORY_GOAL = 150.0  # MiB per worker
LATENCY_GOAL = 0.05  # how far p50 may lie from the delay with 600 clients on three workers


@dataclass(frozen=True)
class Shot:
    """One cell of the table. `rate` in requests a second while all were under way; CPU in seconds by role over the burst; `busy` is the
    share of all cores, of everybody on the machine."""

    clients: int
    workers: int
    bursts: list[Burst]
    rate: float
    seconds: float
    cpu: dict[str, float]
    busy: float
    worker_mib: float

    @property
    def name(self) -> str:
        return f"{self.clients:,} clients, {self.workers} worker{'s' * (self.workers > 1)}"

    @property
    def requests(self) -> int:
        return sum(each.requests for each in self.bursts)

    @property
    def cost_us(self) -> dict[str, float]:
        """CPU time per request by role."""
        return {role: spent / max(1, self.requests) * 1e6 for role, spent in self.cpu.items()}

    def limits(self, cores: int) -> tuple[float, float]:
        """Requests a second that the delay allows, and that the CPU does at this cost."""
        return self.clients / DELAY * 1000, cores * 1e6 / max(1e-9, sum(self.cost_us.values()))


def limited_by(shot: Shot, cores: int) -> str:
    """One phrase."""
    by_delay, _ = shot.limits(cores)
    if shot.rate >= ENOUGH * by_delay:
        return "the delay"
    ours = sum(shot.cpu.values()) / shot.seconds / cores
    for role, spent in shot.cpu.items():
        each = spent / shot.seconds / (shot.workers if role == "workers" else 2)
        if each > 0.85:
            return f"a core per process: {role}"
    if shot.busy > SATURATED:
        return f"the machine's CPU ({ours:.0%} of it used by this bench)"
    return "waiting"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=8.0, metavar="S", help="length of a burst; default 8")
    parser.add_argument("--clients", type=int, nargs="+", default=[60, 600, 1500, 3000], metavar="N", help="default 60 600 1500 3000")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 3], metavar="N", help="default 1 3")


def run(options: argparse.Namespace) -> int:
    report = Report("inflight", versions={"wrk": machine.number("wrk", "-v")})
    report.settings = {
        "p50, p99": TIMES,
        "cluster": f"runtime process, 2 LBs, avg-delay {DELAY:g}, failure 0",
        "load": f"wrk, closed model, half of the clients at each LB, {options.seconds:g} s",
    }
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # wrk inherits it: a file per client
    shots = []
    for workers in options.workers:
        with tempfile.TemporaryDirectory() as folder, cluster(worker=workers, pool=2, avg_delay=DELAY, failure=0, runtime="process") as of:
            script = Path(folder) / "load.lua"
            script.write_text(DONE)
            for clients in options.clients:
                say(f"{clients} clients, {workers} workers")
                shots.append(_shoot(of, script, clients, workers, options.seconds))
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    fill(report, shots, int(report.machine["cores"]))
    return finish(report, options.json)


def _shoot(of: BenchCluster, script: Path, clients: int, workers: int, seconds: float) -> Shot:
    rows = list(of.rows().values())
    pids = {role: [int(row["pid"]) for row in rows if row["role"] == kind] for role, kind in (("workers", "worker"), ("LBs", "lb"))}
    ports = [int(row["port"]) for row in rows if row["role"] == "lb"]
    bursts: list[Burst] = []

    def one(port: int) -> None:
        bursts.append(burst(port, script, clients // len(ports), seconds, PATH))

    for pid in pids["workers"]:
        reset_peak(pid)
    before = {role: sum(map(tree_cpu, members)) for role, members in pids.items()}
    own, began = psutil.Process().cpu_times(), time.monotonic()
    psutil.cpu_percent()
    threads = [threading.Thread(target=one, args=(port,)) for port in ports]
    for thread in threads:
        thread.start()
    rate = _steady_rate(of, [row["name"] for row in rows if row["role"] == "lb"], seconds - SETTLE)
    for thread in threads:
        thread.join()
    busy = psutil.cpu_percent() / 100
    took = time.monotonic() - began
    now = psutil.Process().cpu_times()
    cpu = {role: sum(map(tree_cpu, members)) - before[role] for role, members in pids.items()}
    cpu["generators"] = now.children_user + now.children_system - own.children_user - own.children_system
    peak = max(memory(pid, "VmHWM") for pid in pids["workers"]) / (1 << 20)
    return Shot(clients, workers, bursts, rate, took, cpu, busy, peak)


def _steady_rate(of: BenchCluster, balancers: list[str], until: float) -> float:
    """Answers per second that the LBs gave from SETTLE after now to `until` seconds after now."""

    def look() -> tuple[float, int]:
        return time.monotonic(), sum(of.counters(name)[f"responses_{kind}xx"] for name in balancers for kind in (2, 5))

    began = time.monotonic()
    time.sleep(SETTLE)
    at, count = look()
    time.sleep(max(0.5, until - (time.monotonic() - began)))
    later, more = look()
    return (more - count) / (later - at)


def fill(report: Report, shots: list[Shot], cores: int) -> None:
    """Table, picture, goals."""
    columns = ["clients", "workers", "requests/s", "of the delay's %", "of the CPU's %", "p50 ms", "p99 ms"]
    columns += ["workers us", "LBs us", "generators us", "MiB a worker", "errors", "limited by"]
    table = Table("Clients x workers", columns)
    for shot in shots:
        by_delay, by_cpu = shot.limits(cores)
        times = [max(getattr(each, key) for each in shot.bursts) / 1000 for key in ("p50_us", "p99_us")]
        costs: list[Cell] = [shot.cost_us[role] for role in ("workers", "LBs", "generators")]
        shares: list[Cell] = [shot.rate / by_delay * 100, shot.rate / by_cpu * 100]
        errors = sum(each.errors for each in shot.bursts)
        row: list[Cell] = [shot.clients, shot.workers, shot.rate, *shares, *times, *costs, shot.worker_mib, errors]
        table.rows.append([*row, limited_by(shot, cores)])
    report.tables.append(table)
    report.notes += [note for shot in shots for note in _goals(shot, cores)]
    report.passed = not any("MISSED" in note for note in report.notes)
    for shot in shots:
        report.samples[shot.name] = Samples("1/s", "more", [shot.rate])
    report.data = {"shots": [vars(shot) | {"bursts": [vars(each) for each in shot.bursts]} for shot in shots]}
    groups = [shot.name for shot in shots]
    allowed = [min(shot.limits(cores)) for shot in shots]
    values = [[top, shot.rate] for top, shot in zip(allowed, shots, strict=True)]
    report.charts.append(Chart("Requests per second", "more is better", ["allowed by delay and CPU", "reached"], groups, values))


def _goals(shot: Shot, cores: int) -> list[str]:
    """Verdicts on the cells that have a goal."""
    found = []
    if (shot.clients, shot.workers) == (1500, 3):
        allowed = min(shot.limits(cores))
        met = "met" if shot.rate >= ENOUGH * allowed else "MISSED"
        found.append(f"goal {met}: {shot.rate:,.0f} of {allowed:,.0f} requests/s allowed at 1,500 clients and 3 workers")
        met = "met" if shot.worker_mib < MEMORY_GOAL else "MISSED"
        found.append(f"goal {met}: {shot.worker_mib:.0f} MiB a worker, under {MEMORY_GOAL:.0f}")
    if (shot.clients, shot.workers) == (600, 3):
        p50 = max(each.p50_us for each in shot.bursts) / 1000
        met = "met" if abs(p50 - DELAY) <= LATENCY_GOAL * DELAY else "MISSED"
        found.append(f"goal {met}: p50 {p50:.0f} ms at 600 clients, within {LATENCY_GOAL:.0%} of {DELAY:.0f} ms")
    return found
