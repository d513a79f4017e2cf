"""`bench.sh chaos [seconds]`: kill load balancers, workers and the supervisor at random under load, and account for every request.

Twice: by the counters that the parties keep (`ledger`), and by the id of every single request (`ids`).

A cluster of its own, in a temporary folder, which is gone afterwards. What is killed must have been ready, and something must be left to
serve: a worker is killed only where another is ready, and an LB only while a supervisor runs (the contract promises no more).
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
import urllib.request
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from scripts.bench.accesslog import AccessLogs
from scripts.bench.chaosreport import Parties, fill
from scripts.bench.cluster import BenchCluster, Row, cluster
from scripts.bench.ids import Entry, account
from scripts.bench.kills import kill_and_wait
from scripts.bench.ledger import Death, LbBook, WorkerBook, settle
from scripts.bench.proc import BenchError, wait_for
from scripts.bench.report import RESULTS, Report, finish, say
from scripts.bench.strict import Crowd, crowd, run_clients

SAMPLE = 0.1  # seconds between two looks at the LBs' counters
WEIGHTS = {"lb": 4, "worker": 4, "supervisor": 2}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("seconds", type=float, nargs="?", default=60.0, help="how long things are killed; default 60")
    parser.add_argument("--runtime", choices=("docker", "process"), default="docker")
    parser.add_argument("--workers", type=int, default=3, metavar="N")
    parser.add_argument("--lbs", type=int, default=2, metavar="N")
    parser.add_argument("--clients", type=int, default=8, metavar="N", help="of either kind at each LB; default 8")
    parser.add_argument("--seed", type=int, help="repeat the choices of an earlier run")


class Killer:
    """Chooses and kills, and writes down when and what."""

    def __init__(self, of: BenchCluster, seed: int) -> None:
        self._of = of
        self._choice = random.Random(seed)
        self.deaths: list[Death] = []
        self.complaints: list[str] = []

    def run(self, until: float) -> None:
        """Kill until `until` (monotonic)."""
        while time.monotonic() < until:
            time.sleep(self._choice.uniform(0.2, 1.8))
            listed = self._of.ps()
            rows = {row["name"]: row for row in listed["replicas"]}
            kinds = list(WEIGHTS)
            kind = self._choice.choices(kinds, [WEIGHTS[each] for each in kinds])[0]
            ready = [name for name, row in rows.items() if row["state"] == "ready" and row["pid"]]
            if kind == "supervisor":
                if len(ready) == len(rows):
                    self._supervisor(listed["supervisor"]["pid"], rows)
                continue
            victims = [name for name in ready if rows[name]["role"] == kind]
            if victims and (kind == "lb" or len(victims) > 1):
                self._replica(rows[self._choice.choice(victims)])

    def _replica(self, row: Row) -> None:
        how = "kill -9"
        if row["kind"] == "container":
            how = self._choice.choice(("kill -9", "docker kill", "docker rm -f") if os.geteuid() == 0 else ("docker kill", "docker rm -f"))
        death = Death(row["name"], how, time.monotonic())
        with suppress(ProcessLookupError):
            if how == "kill -9":
                death = replace(death, gone=kill_and_wait(row["pid"]))
            else:
                subprocess.run([*how.split(), row["id"]], capture_output=True, check=False)
        self.deaths.append(death)

    def _supervisor(self, pid: int, before: dict[str, Row]) -> None:
        self.deaths.append(Death("supervisor", "kill -9", time.monotonic()))
        os.kill(pid, signal.SIGKILL)
        time.sleep(self._choice.uniform(0.1, 1.0))
        self._of.start()
        after = self._of.rows()
        changed = [name for name, row in before.items() if (row["pid"], row["id"]) != (after[name]["pid"], after[name]["id"])]
        if changed:
            self.complaints.append(f"the new supervisor did not take {', '.join(changed)} over as it was")


class Sampler(threading.Thread):
    """Reads the LBs' counters and access logs all the while: when which repeats happened, and what was logged."""

    def __init__(self, of: BenchCluster, names: list[str]) -> None:
        super().__init__(daemon=True)
        self._of, self._names = of, names
        self.over = threading.Event()
        self.logs = AccessLogs(of.folder / ".comet" / "logs", names)
        self.repeats: list[tuple[float, int]] = [(time.monotonic(), 0)]

    def run(self) -> None:
        while not self.over.wait(SAMPLE):
            self.look()

    def look(self) -> None:
        self.logs.read()
        with suppress(OSError, ValueError):
            total = sum(self._of.counters(name).get("retries", 0) for name in self._names)
            self.repeats.append((time.monotonic(), total))


def run(options: argparse.Namespace) -> int:
    if options.runtime == "docker" and shutil.which("docker") is None:
        raise BenchError("needs Docker; --runtime process does without")
    report = Report("chaos")
    seed = options.seed if options.seed is not None else random.randrange(1 << 30)
    settings = {"worker": options.workers, "pool": options.lbs, "avg_delay": 30, "failure": 12, "runtime": options.runtime}
    settings |= {"access_log": True, "request_ledger": True}
    report.settings = settings | {
        "seconds": options.seconds,
        "seed": seed,
        "clients": f"{options.clients} keep-alive and as many new-connection ones per LB",
    }
    say(f"starting a cluster ({options.runtime}, {options.workers} workers, {options.lbs} LBs)")
    with cluster(**settings) as of:
        names = [f"lb-{number}" for number in range(options.lbs)]
        everyone, killer, sampler = crowd(names), Killer(of, seed), Sampler(of, names)
        before = {name: book(of, name) for name in names}
        load = threading.Thread(
            target=_load, args=(everyone, {name: of.lb_port(number) for number, name in enumerate(names)}, options.clients)
        )
        sampler.start()
        load.start()
        began = time.monotonic()
        try:
            say(f"killing at random for {options.seconds:g} s (seed {seed})")
            killer.run(began + options.seconds)
            wait_for(lambda: all(row["state"] == "ready" for row in of.rows().values()), 60, "all replicas are ready again")
            time.sleep(1)
        finally:
            everyone.over = True
            load.join(60)
            sampler.over.set()
            sampler.join(10)
        seconds = time.monotonic() - began
        wait_for(lambda: not any(of.counters(name)["in_flight"] for name in names), 15, "the LBs have nothing in flight")
        time.sleep(0.5)  # Workers may still be counting what nobody waits for any more, and the last lines of the logs be unwritten.
        for _ in range(3):  # A log that has just been put aside is read to its end first, then the next one.
            sampler.look()
        sampler.logs.close()
        lbs = {name: less(book(of, name), before[name]) for name in names}
        workers = _worker_book(of)
        deaths = _with_returns(killer.deaths, of.events())
        verdict = settle(everyone.books, lbs, workers, deaths)
        counts, entries = _kept(of)
        by_id = account(everyone.seen, sampler.logs.lines, entries, counts, deaths)
        parties = Parties(everyone.books, lbs, workers, deaths)
        fill(report, parties, verdict, by_id, killer.complaints, sampler.repeats, seconds)
        if not report.passed:
            _keep_evidence(report, of, (options.json or RESULTS / "chaos.json").with_suffix(".evidence"))
        say("taking the cluster down")
    return finish(report, options.json)


def _keep_evidence(report: Report, of: BenchCluster, target: Path) -> None:
    """Keep events and logs of a cluster that is about to go."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(of.folder / ".comet" / "logs", target)
    shutil.copy(of.folder / ".comet" / "events.jsonl", target)
    report.notes.append(f"events and logs are kept in {target}")


def _load(everyone: Crowd, ports: dict[str, int], each: int) -> None:
    asyncio.run(run_clients(everyone, ports, each))


def book(of: BenchCluster, name: str) -> LbBook:
    counted = of.counters(name)
    responses = sum(counted[f"responses_{digit}xx"] for digit in range(2, 6))
    return LbBook(counted["requests"], responses, counted["aborted"], counted["retries"])


def less(after: LbBook, before: LbBook) -> LbBook:
    fields = ("requests", "responses", "aborted", "retries")
    return LbBook(*(getattr(after, each) - getattr(before, each) for each in fields))


def _worker_book(of: BenchCluster) -> WorkerBook:
    with urllib.request.urlopen(f"http://127.0.0.1:{of.worker_port(0)}/worker/stats", timeout=20) as answer:
        stats = json.load(answer)

    def rows(key: str) -> dict[str, int]:
        return {name: int(value) for entry in stats[key] for name, value in entry.items()}

    successes = rows("SuccessfulRequests")
    successes.pop("total")
    return WorkerBook(successes, rows("FailedRequests")["total"])


def _kept(of: BenchCluster) -> tuple[dict[str, tuple[int, int]], list[tuple[str, Entry]]]:
    """What the workers counted, by row, and what they kept one by one; of one moment."""
    connection = sqlite3.connect(of.folder / "worker-stats.db", isolation_level=None)
    try:
        connection.execute("BEGIN")
        counts = {name: (good, bad) for name, good, bad in connection.execute("SELECT name, successful, failed FROM workers")}
        kept = connection.execute("SELECT worker, id, failed FROM counted_requests").fetchall()
    finally:
        connection.close()
    return counts, [(id, Entry(row, bool(failed))) for row, id, failed in kept]


def _with_returns(deaths: list[Death], events: list[dict[str, Any]]) -> list[Death]:
    """The deaths with the time at which their replica was ready again, as the events tell it."""
    offset = time.monotonic() - time.time()
    ready = [
        (event.get("replica"), datetime.fromisoformat(event["at"]).timestamp() + offset)
        for event in events
        if event["event"] == "replica_ready"
    ]

    def back(death: Death) -> float | None:
        return min((at for name, at in ready if name == death.replica and at > death.at), default=None)

    return [replace(death, back=back(death)) for death in deaths]
