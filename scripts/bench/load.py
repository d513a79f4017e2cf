"""`bench.sh` without a mode: load-test the running cluster, or one of its own, and answer four questions in a minute.

Is it balanced, how fast is it, does anything fail beyond what was injected, and what is the bottleneck? First a smoke phase asks every LB
for what the contract promises; then wrk loads all LBs at once; then the books of client, LBs and workers are compared.
"""

import argparse
import contextlib
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import requests
import yaml

from scripts.bench import machine
from scripts.bench.bottleneck import Figures, bottleneck
from scripts.bench.chart import Chart
from scripts.bench.cluster import BenchCluster, cluster
from scripts.bench.proc import BenchError, cpu_seconds, wait_for
from scripts.bench.report import ROOT, Report, finish, say
from scripts.bench.stats import evenness
from scripts.bench.table import Table
from scripts.bench.wrk import DONE, Burst, burst

PATH = "/api/v1/hello"
STATS = ("SuccessfulRequests", "FailedRequests", "TotalRequests", "AverageResponseTime")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, default=Path("config.yaml"), help="of the running cluster; default ./config.yaml")
    parser.add_argument("--seconds", type=float, default=30.0, metavar="S", help="length of the load; default 30")
    parser.add_argument("--connections", type=int, default=64, metavar="N", help="at each LB; default 64")
    parser.add_argument("--path", default=PATH, help=f"default {PATH}")
    parser.add_argument(
        "--runtime", choices=("docker", "process"), help="of the cluster that is started where none runs; default as configured"
    )
    parser.add_argument("--max-p99", type=float, metavar="MS", help="exit 1 when p99 is above it")
    parser.add_argument("--max-errors", type=int, metavar="N", help="exit 1 with more failures than this beyond the injected")
    parser.add_argument("--max-uneven", type=float, metavar="PCT", help="exit 1 when a worker's share is further from the fair one")


@dataclass(frozen=True)
class Books:
    """One look at everything that counts."""

    lbs: dict[str, dict[str, int]]
    workers: dict[str, dict[str, float]]
    cpu: dict[str, float]
    at: float


@contextlib.contextmanager
def subject(options: argparse.Namespace) -> Iterator[tuple[BenchCluster, str]]:
    """The cluster to load: what runs under the config, else one like it, on free ports, for the length of the block."""
    config: Path = options.config if options.config.exists() else ROOT / "config.yaml"
    running = BenchCluster(config.resolve().parent, fresh=False)
    listed = running.command("ps", "--json", "--config", config.name)
    if listed.returncode == 0:
        yield running, f"the running cluster of {config}"
        return
    given = yaml.safe_load(config.read_text()) or {}
    kept = {key.replace("-", "_"): value for key, value in given.items() if key in ("worker", "pool", "avg-delay", "failure", "runtime")}
    if options.runtime:
        kept["runtime"] = options.runtime
    say("no cluster runs here: starting one for this test")
    with cluster(**kept) as made:
        yield made, "a cluster of this test's own: " + ", ".join(f"{key} {value}" for key, value in kept.items())


def run(options: argparse.Namespace) -> int:
    report = Report("load", versions={"wrk": machine.version("wrk", "-v")})
    with subject(options) as (of, told), tempfile.TemporaryDirectory() as folder:
        rows = of.rows()
        ports = {name: int(row["port"]) for name, row in rows.items() if row["role"] == "lb"}
        report.settings = {
            "cluster": told,
            "load": f"closed model, {options.connections} connections at each of {len(ports)} LBs, {options.seconds:g} s",
        }
        smoke = _smoke(ports)
        pids = {name: int(row["pid"]) for name, row in rows.items() if row["role"] == "lb" and row["pid"]}
        script = Path(folder) / "load.lua"
        script.write_text(DONE)
        say(f"smoke phase: {smoke or 'passed'}; loading for {options.seconds:g} s")
        before = _books(of, ports, pids)
        psutil.cpu_percent()
        bursts, generator = _load(ports, script, options)
        machine_cpu = psutil.cpu_percent()
        wait_for(lambda: not any(of.counters(name)["in_flight"] for name in ports), 40, "the LBs have nothing in flight")
        time.sleep(0.3)
        after = _books(of, ports, pids)
    fill(report, options, smoke, bursts, before, after, machine_cpu, generator)
    return finish(report, options.json)


def _smoke(ports: dict[str, int]) -> list[str]:
    """What of the contract's first promises does not hold."""
    wrong: list[str] = []
    for name, port in ports.items():
        base = f"http://127.0.0.1:{port}"
        try:
            hello = requests.get(base + PATH, timeout=60)
            if hello.status_code not in (200, 500) or hello.headers.get("X-Comet-LB") != name or "X-Comet-Worker" not in hello.headers:
                wrong.append(f"{name}: {PATH} answers {hello.status_code} {hello.text.strip()[:80]}")
            if tuple(requests.get(base + "/worker/stats", timeout=60).json()) != STATS:
                wrong.append(f"{name}: /worker/stats lacks its four lists")
            if requests.get(base + "/no/such/path", timeout=60).status_code != 404:
                wrong.append(f"{name}: an unknown path is not 404")
        except (requests.RequestException, ValueError) as error:
            wrong.append(f"{name}: {error}")
    return wrong


def _load(ports: dict[str, int], script: Path, options: argparse.Namespace) -> tuple[dict[str, Burst], float]:
    """All LBs at once; what each burst came to, and the generators' CPU in percent of a core (the busiest one)."""
    bursts: dict[str, Burst] = {}

    def one(name: str, port: int) -> None:
        with contextlib.suppress(BenchError):
            bursts[name] = burst(port, script, options.connections, options.seconds, options.path)

    used = psutil.Process().cpu_times()
    threads = [threading.Thread(target=one, args=each) for each in ports.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(bursts) < len(ports):
        raise BenchError("wrk failed at " + ", ".join(sorted(set(ports) - set(bursts))))
    now = psutil.Process().cpu_times()
    spent = now.children_user + now.children_system - used.children_user - used.children_system
    return bursts, spent / options.seconds / len(ports) * 100


def _books(of: BenchCluster, ports: dict[str, int], pids: dict[str, int]) -> Books:
    stats = requests.get(f"http://127.0.0.1:{next(iter(ports.values()))}/worker/stats", timeout=60).json()
    workers: dict[str, dict[str, float]] = {}
    for key in STATS:
        for entry in stats[key]:
            for name, value in entry.items():
                workers.setdefault(name, {})[key] = value
    return Books(
        {name: of.counters(name) for name in ports}, workers, {name: cpu_seconds(pid) for name, pid in pids.items()}, time.monotonic()
    )


def _grown(before: Books, after: Books) -> dict[str, dict[str, float]]:
    """What each worker counted in between, with the mean time of these requests only; `total` is left out, and so is who did nothing."""
    grown = {}
    for name, now in after.workers.items():
        then = before.workers.get(name, dict.fromkeys(STATS, 0))
        count = now["TotalRequests"] - then["TotalRequests"]
        if name != "total" and count > 0:
            spent = now["AverageResponseTime"] * now["TotalRequests"] - then["AverageResponseTime"] * then["TotalRequests"]
            grown[name] = {"count": count, "failed": now["FailedRequests"] - then["FailedRequests"], "ms": spent / count}
    return grown


def fill(
    report: Report, options: argparse.Namespace, smoke: list[str], bursts: dict[str, Burst], before: Books, after: Books,
    machine_cpu: float, generator: float,
) -> None:  # fmt: skip
    """Answer the four questions."""
    grown = _grown(before, after)
    change = {name: {key: now[key] - before.lbs[name][key] for key in now} for name, now in after.lbs.items()}
    cpu = {name: (after.cpu[name] - before.cpu[name]) / (after.at - before.at) * 100 for name in after.cpu}
    columns = ["LB", "requests/s", "p50 ms", "p99 ms", "p99.9 ms", "CPU %", "refused", "broken", "timeout", "5xx by the LB"]
    table = Table("Load balancers", columns)
    for name, each in bursts.items():
        own = change[name]["own_errors"]
        times = [each.p50_us / 1000, each.p99_us / 1000, each.p999_us / 1000]
        table.rows.append([name, each.rate, *times, cpu.get(name), each.refused, each.read + each.write, each.timeout, own])
    workers = Table("Workers", ["worker", "requests", "share %", "injected failures", "mean ms in the worker"])
    total = sum(row["count"] for row in grown.values())
    for name, row in grown.items():
        workers.rows.append([name, int(row["count"]), row["count"] / total * 100, int(row["failed"]), row["ms"]])
    report.tables += [table, workers]
    done = sum(each.requests for each in bursts.values())
    injected = int(sum(row["failed"] for row in grown.values()))
    beyond = sum(each.errors for each in bursts.values()) - sum(each.status for each in bursts.values())
    beyond += max(0, sum(each.status for each in bursts.values()) - injected)
    uneven = evenness([int(row["count"]) for row in grown.values()]) * 100
    p99 = max(each.p99_us for each in bursts.values()) / 1000
    mean = sum(row["latency_us"] for row in change.values()) / max(1, sum(row["requests"] for row in change.values())) / 1000
    figures = Figures(cpu, machine_cpu, generator, {name: row["ms"] for name, row in grown.items()}, mean)
    answered = sum(row[f"responses_{digit}xx"] for row in change.values() for digit in (2, 3, 4, 5))
    report.notes += [f"smoke phase: {'; '.join(smoke) if smoke else 'passed'}"]
    report.notes.append(f"balanced? the furthest share lies {uneven:.2f} % from the fair one")
    report.notes.append(f"how fast? {sum(each.rate for each in bursts.values()):,.0f} requests/s, p99 {p99:,.1f} ms")
    report.notes.append(f"failures beyond the {injected} injected: {beyond}")
    report.notes.append(f"bottleneck: {bottleneck(figures)}")
    # The stats request between the two looks is the LB's, not the clients'; what was in flight at the end was answered to nobody.
    report.notes.append(
        f"ledger: clients {done:,}, LBs {answered - 1:,}, workers {int(total):,}; the rest was in flight as the clients left"
    )
    report.passed = not smoke and not _missed(options, p99, beyond, uneven)
    report.data = {"bursts": {name: vars(each) for name, each in bursts.items()}, "workers": grown, "figures": vars(figures)}
    report.data |= {"uneven_percent": uneven, "beyond_injected": beyond, "p99_ms": p99}
    report.charts.append(Chart("Requests by worker", "even is good", ["requests"], list(grown), [[row["count"]] for row in grown.values()]))


def _missed(options: argparse.Namespace, p99: float, beyond: int, uneven: float) -> list[Any]:
    limits = ((options.max_p99, p99), (options.max_errors, beyond), (options.max_uneven, uneven))
    return [limit for limit, value in limits if limit is not None and value > limit]
