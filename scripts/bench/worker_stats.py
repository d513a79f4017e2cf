"""`bench.sh stats`: what exact statistics cost a worker, and whether they are exact when it is killed.

Cost: workers of ours (delay 0, no failures, every answer committed before it is sent), one counting in SQLite and one in PostgreSQL, beside
a bare Flask+waitress hello that counts nothing. Each round gives all the same load, one after the other, and their CPU time per request is
compared within the round; the goal is 90 % of the bare one's requests per CPU second at every number in flight. The PostgreSQL server is
a private one on the same disk; what it spends is a column of its own. The ledger: a worker is killed with SIGKILL under load, over and over
on one database; what it counted less what clients saw must never be negative, nor more than was in flight.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import secrets
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from scripts.bench import machine, postgres
from scripts.bench.chart import Chart
from scripts.bench.proc import free_ports, running, serving, tree_cpu, wait_for
from scripts.bench.report import ROOT, Report, Samples, finish, say
from scripts.bench.stats import median
from scripts.bench.table import Table
from scripts.bench.wrk import DONE, TIMES, Burst, burst

GOAL = 0.9  # of the bare hello's requests per CPU second
LONGEST_HOLD = 20.0  # ms by which the median answer may be later than the bare one's
IN_FLIGHT = (1, 8, 64, 500)
PATH = "/api/v1/hello"
KILLED_WITH = 50  # clients
BARE = """
import sys
from flask import Flask
from waitress import serve
app = Flask("bare")
@app.get("/api/v1/hello")
def hello():
    return {"message": "hello from process: 12345"}
serve(app, host="127.0.0.1", port=int(sys.argv[1]), connection_limit=2000, _quiet=True)
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="default 5")
    parser.add_argument("--seconds", type=float, default=1.0, metavar="S", help="length of a burst; default 1")
    parser.add_argument("--kills", type=int, default=20, metavar="N", help="rounds of the kill -9 ledger; default 20")
    parser.add_argument("--check", action="store_true", help="exit 1 when the cost misses its goal")


def worker_command(folder: Path, port: int, delay: float = 0.0) -> list[str]:
    """A worker that counts under its PID; it reads COMET_DATABASE."""
    faults = folder / "faults.json"
    faults.write_text(json.dumps({"avg-delay": delay, "failure": 0}))
    return [sys.executable, "-m", "worker_app", "--listen", f"127.0.0.1:{port}", "--faults", str(faults)]


@contextlib.contextmanager
def databases(folder: Path) -> Iterator[tuple[dict[str, str], Callable[[], float]]]:
    """The URLs, and the CPU seconds that the server of the second one has spent so far."""
    port, secret = free_ports(1)[0], secrets.token_hex(8)
    with postgres.running(port, "comet", secret) as server:
        urls = {"SQLite": f"sqlite:///{folder}/stats.db", "PostgreSQL": f"postgresql://comet:{secret}@127.0.0.1:{port}/stats"}
        yield urls, lambda: tree_cpu(server.pid)


def environment(folder: Path, url: str = "") -> dict[str, str]:
    """Where a worker counts: in a file of the folder unless another URL is given."""
    return os.environ | {"COMET_DATABASE": url or f"sqlite:///{folder}/stats.db"}


@contextlib.contextmanager
def subjects(folder: Path, urls: Mapping[str, str]) -> Iterator[dict[str, tuple[int, int]]]:
    """PID and port of the bare hello and of a worker for each database, all warm."""
    ports = dict(zip(("bare", *urls), free_ports(1 + len(urls)), strict=True))
    commands = {"bare": [sys.executable, "-c", BARE, str(ports["bare"])]} | {name: worker_command(folder, ports[name]) for name in urls}
    with contextlib.ExitStack() as stack:
        found = {}
        for name, command in commands.items():
            log = folder / f"{name}.log"
            process = stack.enter_context(running(command, log, environment(folder, urls.get(name, "")), ROOT))
            serving(process, ports[name], log, name)
            found[name] = (process.pid, ports[name])
            burst(ports[name], folder / "load.lua", 8, 0.5, PATH)
        yield found


def run(options: argparse.Namespace) -> int:
    server = subprocess.run([postgres.program("postgres"), "--version"], capture_output=True, text=True, check=False).stdout.split()
    report = Report("stats", versions={"wrk": machine.number("wrk", "-v"), "sqlite": sqlite3.sqlite_version, "postgresql": server[2]})
    report.settings = {
        "p50": TIMES,
        "bare": "Flask + waitress, defaults but for connection_limit 2000, nothing counted",
        "worker": "delay 0, failure 0; SQLite in WAL mode, synchronous=NORMAL; PostgreSQL over TCP, synchronous_commit=on",
        "load": f"wrk, 1 thread, {options.rounds} rounds of {options.seconds:g} s for each, loopback",
    }
    met = exact = True
    with tempfile.TemporaryDirectory(prefix="comet-bench-") as name, databases(Path(name)) as (urls, server_cpu):
        met = _cost(report, Path(name), options, urls, server_cpu)
    if options.kills:
        with tempfile.TemporaryDirectory(prefix="comet-bench-") as name, databases(Path(name)) as (urls, _):
            exact = asyncio.run(_ledgers(report, Path(name), options.kills, urls))
    report.passed = exact and (met or not options.check)
    return finish(report, options.json)


@dataclass
class Course:
    """What one subject did at one number in flight: CPU time per request (us) by round, its own and its database server's, and bursts."""

    cpu: list[float] = field(default_factory=list)
    server: list[float] = field(default_factory=list)
    bursts: list[Burst] = field(default_factory=list)

    @property
    def p50_ms(self) -> float:
        return median([each.p50_us / 1000 for each in self.bursts])


def _courses(
    folder: Path, of: Mapping[str, tuple[int, int]], in_flight: int, options: argparse.Namespace, server_cpu: Callable[[], float]
) -> dict[str, Course]:
    courses = {name: Course() for name in of}
    for _ in range(options.rounds):
        for name, (pid, port) in of.items():
            before, server_before = tree_cpu(pid), server_cpu()
            done = burst(port, folder / "load.lua", in_flight, options.seconds, PATH)
            requests = max(1, done.requests)
            courses[name].bursts.append(done)
            courses[name].cpu.append((tree_cpu(pid) - before) / requests * 1e6)
            courses[name].server.append(max(0.0, server_cpu() - server_before) / requests * 1e6)
    return courses


COLUMNS = [
    "in flight", "database", "bare us", "worker us", "server us", "worker to bare %", "lowest", "highest", "bare p50 ms", "worker p50 ms",
    "requests/s", "errors", "met",
]  # fmt: skip


def _cost(report: Report, folder: Path, options: argparse.Namespace, urls: Mapping[str, str], server_cpu: Callable[[], float]) -> bool:
    (folder / "load.lua").write_text(DONE)
    table = Table("Requests per CPU second, with exact statistics and with none (medians of the rounds)", COLUMNS)
    costs: list[list[float]] = []
    with subjects(folder, urls) as of:
        for in_flight in IN_FLIGHT:
            say(f"{in_flight} in flight")
            courses = _courses(folder, of, in_flight, options, server_cpu)
            bare = courses["bare"]
            costs.append([median(course.cpu) for course in courses.values()])
            table.rows.extend(_row(in_flight, name, bare, courses[name]) for name in urls)
            report.data[str(in_flight)] = {
                "cpu_us": {name: course.cpu for name, course in courses.items()},
                "server_us": {name: course.server for name, course in courses.items()},
                "bursts": {name: [vars(each) for each in course.bursts] for name, course in courses.items()},
            }
            for name, course in courses.items():
                report.samples[f"{in_flight} in flight: {name}"] = Samples("CPU us/request", "less", course.cpu)
    report.tables.append(table)
    groups = [f"{number} in flight" for number in IN_FLIGHT]
    series = ["bare, no statistics", *(f"worker, {name}" for name in urls)]
    report.charts.append(Chart("CPU time per request, microseconds", "less is better", series, groups, costs))
    missed = {name for name in urls if any(row[-1] != "yes" for row in table.rows if row[1] == name)}
    for name in urls:
        verdict = "MISSED" if name in missed else "met"
        report.notes.append(f"{name}: goal {verdict}: at least {GOAL:.0%} of the bare hello's requests per CPU second")
    return not missed


def _row(in_flight: int, name: str, bare: Course, own: Course) -> list[Any]:
    ratios = [free / cost for free, cost in zip(bare.cpu, own.cpu, strict=True)]
    errors = sum(each.errors for each in own.bursts)
    met = median(ratios) >= GOAL and own.p50_ms - bare.p50_ms <= LONGEST_HOLD and not errors
    rate = median([each.requests / each.seconds for each in own.bursts])
    server = median(own.server) if name != "SQLite" else None
    shares = [median(ratios) * 100, min(ratios) * 100, max(ratios) * 100]
    cells: list[Any] = [in_flight, name, median(bare.cpu), median(own.cpu), server, *shares, bare.p50_ms, own.p50_ms, rate, errors]
    return [*cells, "yes" if met else "NO"]


async def _client(port: int, seen: list[int]) -> None:
    """Ask until the connection breaks; count whole answers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        while True:
            writer.write(b"GET /api/v1/hello HTTP/1.1\r\nHost: bench\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split()[0]))
            seen[0] += 1
    writer.close()


def counted(url: str) -> tuple[int, str]:
    """What all workers counted, and the database's own verdict on itself where it gives one."""
    total = "SELECT coalesce(sum(successful + failed), 0) FROM workers"
    if url.startswith("postgresql:"):
        with psycopg.connect(url, autocommit=True) as session:
            # A killed worker's last commit is the server's to finish.
            alive = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'comet'"
            wait_for(lambda: session.execute(alive).fetchone() is None, 10, "the end of a killed worker's sessions")
            return int((session.execute(total).fetchone() or (0,))[0]), "-"
    with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        (verdict,) = connection.execute("PRAGMA integrity_check").fetchone()
        return int(connection.execute(total).fetchone()[0]), str(verdict)


async def _ledgers(report: Report, folder: Path, rounds: int, urls: Mapping[str, str]) -> bool:
    columns = ["database", "kills", "answers seen", "counted", "counted - seen, least", "most", "in flight", "integrity", "exact"]
    table = Table("Kill -9 of a worker under load", columns)
    for name, url in urls.items():
        say(f"kill -9 under load, {rounds} rounds, {name}")
        table.rows.append([name, *await _ledger(report, folder, rounds, name, url)])
    report.tables.append(table)
    return all(row[-1] == "yes" for row in table.rows)


async def _ledger(report: Report, folder: Path, rounds: int, name: str, url: str) -> list[Any]:
    """A row of the ledger's table, without the database's name."""
    moments, surplus, verdicts, before, answered = random.Random(), [], set(), 0, 0
    for _ in range(rounds):
        port, log, seen = free_ports(1)[0], folder / "worker.log", [0]
        with running(worker_command(folder, port, delay=2.0), log, environment(folder, url), ROOT) as process:
            await asyncio.to_thread(serving, process, port, log, "worker")
            clients = asyncio.gather(*(_client(port, seen) for _ in range(KILLED_WITH)))
            await asyncio.sleep(0.05 + moments.random() * 0.4)
            process.kill()
            await clients
        after, verdict = counted(url)
        surplus.append(after - before - seen[0])
        verdicts.add(verdict)
        before, answered = after, answered + seen[0]
    exact = min(surplus) >= 0 and max(surplus) <= KILLED_WITH and verdicts <= {"ok", "-"}
    report.data[f"surplus, {name}"] = surplus
    return [rounds, answered, before, min(surplus), max(surplus), KILLED_WITH, ", ".join(sorted(verdicts)), "yes" if exact else "NO"]
