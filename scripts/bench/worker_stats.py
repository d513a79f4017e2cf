"""`bench.sh stats`: what exact statistics cost a worker, and whether they are exact when it is killed.

Cost: workers of ours (delay 0, no failures, every answer committed before it is sent), one that counts in SQLite and one in PostgreSQL, next
to a bare Flask+waitress hello that counts nothing. The server is a private one on the same machine that syncs every commit to disk; its
CPU time is a column of its own, as it may well run elsewhere. Each round gives all the same load, one after the other, and their CPU time per request is compared within the round; the goal
is 90 % of the bare one's requests per CPU second at every number in flight. The ledger: a worker is killed with SIGKILL under load, over
and over on one database; what it counted less what clients saw must never be negative, nor more than was in flight.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from scripts.bench import machine
from scripts.bench.chart import Chart
from scripts.bench.proc import free_ports, running, serving, tree_cpu
from scripts.bench.report import ROOT, Report, finish, say
from scripts.bench.stats import median
from scripts.bench.table import Table
from scripts.bench.wrk import DONE, Burst, burst

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


def environment(folder: Path) -> dict[str, str]:
    return os.environ | {"COMET_DATABASE": f"sqlite:///{folder}/stats.db"}


@contextlib.contextmanager
def subjects(folder: Path) -> Iterator[dict[str, tuple[int, int]]]:
    """PID and port of the bare hello and of a worker, both warm."""
    ports = free_ports(2)
    commands = {"bare": [sys.executable, "-c", BARE, str(ports[0])], "worker": worker_command(folder, ports[1])}
    with contextlib.ExitStack() as stack:
        found = {}
        for (name, command), port in zip(commands.items(), ports, strict=True):
            log = folder / f"{name}.log"
            process = stack.enter_context(running(command, log, environment(folder), ROOT))
            serving(process, port, log, name)
            found[name] = (process.pid, port)
            burst(port, folder / "load.lua", 8, 0.5, PATH)
        yield found


def run(options: argparse.Namespace) -> int:
    report = Report("stats", versions={"wrk": machine.version("wrk", "-v"), "sqlite": sqlite3.sqlite_version})
    report.settings = {
        "bare": "Flask + waitress, defaults but for connection_limit 2000, nothing counted",
        "worker": "delay 0, failure 0, SQLite in WAL mode, synchronous=NORMAL",
        "load": f"wrk, 1 thread, {options.rounds} rounds of {options.seconds:g} s for each, loopback",
    }
    with tempfile.TemporaryDirectory(prefix="comet-bench-") as name:
        met = _cost(report, Path(name), options)
    with tempfile.TemporaryDirectory(prefix="comet-bench-") as name:
        exact = asyncio.run(_ledger(report, Path(name), options.kills)) if options.kills else True
    report.passed = exact and (met or not options.check)
    return finish(report, options.json)


def _cost(report: Report, folder: Path, options: argparse.Namespace) -> bool:
    (folder / "load.lua").write_text(DONE)
    table = Table(
        "Requests per CPU second, with exact statistics and with none (medians of the rounds)",
        ["in flight", "bare us", "worker us", "worker to bare %", "lowest", "highest", "bare p50 ms", "worker p50 ms", "errors", "met"],
    )
    costs: list[list[float]] = []
    with subjects(folder) as of:
        for in_flight in IN_FLIGHT:
            say(f"{in_flight} in flight")
            cpu: dict[str, list[float]] = {name: [] for name in of}
            bursts: dict[str, list[Burst]] = {name: [] for name in of}
            for _ in range(options.rounds):
                for name, (pid, port) in of.items():
                    before = tree_cpu(pid)
                    done = burst(port, folder / "load.lua", in_flight, options.seconds, PATH)
                    bursts[name].append(done)
                    cpu[name].append((tree_cpu(pid) - before) / max(1, done.requests) * 1e6)
            ratios = [bare / own for bare, own in zip(cpu["bare"], cpu["worker"], strict=True)]
            p50 = {name: median([each.p50_us / 1000 for each in done]) for name, done in bursts.items()}
            errors = sum(each.errors for each in bursts["worker"])
            met = median(ratios) >= GOAL and p50["worker"] - p50["bare"] <= LONGEST_HOLD and not errors
            costs.append([median(cpu["bare"]), median(cpu["worker"])])
            shares = [median(ratios) * 100, min(ratios) * 100, max(ratios) * 100]
            table.rows.append([in_flight, *costs[-1], *shares, p50["bare"], p50["worker"], errors, "yes" if met else "NO"])
            report.data[str(in_flight)] = {"cpu_us": cpu, "bursts": {key: [vars(each) for each in done] for key, done in bursts.items()}}
    report.tables.append(table)
    groups = [f"{number} in flight" for number in IN_FLIGHT]
    report.charts.append(Chart("CPU time per request, microseconds", "less is better", ["bare, no statistics", "worker"], groups, costs))
    met_all = all(row[-1] == "yes" for row in table.rows)
    report.notes.append(f"goal {'met' if met_all else 'MISSED'}: at least {GOAL:.0%} of the bare hello's requests per CPU second")
    return met_all


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


def counted(path: Path) -> tuple[int, str]:
    """What all workers counted, and SQLite's own verdict on the file."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (total,) = connection.execute("SELECT coalesce(sum(successful + failed), 0) FROM workers").fetchone()
        (verdict,) = connection.execute("PRAGMA integrity_check").fetchone()
    return int(total), str(verdict)


async def _ledger(report: Report, folder: Path, rounds: int) -> bool:
    say(f"kill -9 under load, {rounds} rounds")
    moments, surplus, verdicts, before, answered = random.Random(), [], set(), 0, 0
    for _ in range(rounds):
        port, log, seen = free_ports(1)[0], folder / "worker.log", [0]
        with running(worker_command(folder, port, delay=2.0), log, environment(folder), ROOT) as process:
            await asyncio.to_thread(serving, process, port, log, "worker")
            clients = asyncio.gather(*(_client(port, seen) for _ in range(KILLED_WITH)))
            await asyncio.sleep(0.05 + moments.random() * 0.4)
            process.kill()
            await clients
        after, verdict = counted(folder / "stats.db")
        surplus.append(after - before - seen[0])
        verdicts.add(verdict)
        before, answered = after, answered + seen[0]
    exact = min(surplus) >= 0 and max(surplus) <= KILLED_WITH and verdicts == {"ok"}
    columns = ["database", "kills", "answers seen", "counted", "counted - seen, least", "most", "in flight", "integrity", "exact"]
    row = [
        "SQLite",
        rounds,
        answered,
        before,
        min(surplus),
        max(surplus),
        KILLED_WITH,
        ", ".join(sorted(verdicts)),
        "yes" if exact else "NO",
    ]
    report.tables.append(Table("Kill -9 of a worker under load", columns, [row]))
    report.data["surplus"] = surplus
    return exact
