"""`bench.sh chaos [seconds]`: kill load balancers, workers and the supervisor at random under load, and account for
every request.

This is done twice: from the counters of all parties (`ledger`), and from the id of every request (`ids`).

The run uses its own cluster in a temporary folder, which is removed afterwards. Only ready replicas are killed, and
something must be left to serve: a worker is killed only if another one is ready, a load balancer only while a
supervisor runs (docs/http.md promises no more).
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

from comet.scenario.victims import Chooser
from scripts.bench.accesslog import AccessLogs
from scripts.bench.chaosreport import Parties, fill
from scripts.bench.cluster import BenchCluster, Row, temporary_cluster
from scripts.bench.ids import Entry, account
from scripts.bench.kills import kill_and_wait
from scripts.bench.ledger import Death, LbBook, WorkerBook, settle
from scripts.bench.proc import BenchError, wait_for
from scripts.bench.report import RESULTS, Result, begin, finish, say, unused
from scripts.bench.strict import ClosedModel, make_clients, run_clients

SAMPLE_INTERVAL = 0.1  # seconds between two samples of the LBs' counters
WEIGHTS = {"lb": 4, "worker": 4, "supervisor": 2}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("seconds", type=float, nargs="?", default=60.0, help="seconds of kills; default 60")
    parser.add_argument("--runtime", choices=("docker", "process", "mixed"), default="docker")
    parser.add_argument("--workers", type=int, default=3, metavar="N")
    parser.add_argument("--lbs", type=int, default=2, metavar="N")
    parser.add_argument("--clients", type=int, default=8, metavar="N", help="clients of each kind per LB; default 8")
    parser.add_argument("--seed", type=int, help="repeat the choices of an earlier run")


class Killer:
    """Chooses and kills, and records each kill and its time."""

    def __init__(self, cluster: BenchCluster, seed: int) -> None:
        self._of = cluster
        self._choice = random.Random(seed)
        self._chooser = Chooser(self._choice, WEIGHTS)
        self.deaths: list[Death] = []
        self.complaints: list[str] = []

    def run(self, until: float) -> None:
        """Kill until `until` (monotonic)."""
        while time.monotonic() < until:
            time.sleep(self._chooser.pause())
            listed = self._of.ps()
            rows = {row["name"]: row for row in listed["replicas"]}
            kind = self._chooser.kind()
            if kind == "supervisor":
                if all(row["state"] == "ready" and row["pid"] for row in rows.values()):
                    self._supervisor(listed["supervisor"]["pid"], rows)
            elif (victim := self._chooser.victim(kind, rows.values())) is not None:
                self._replica(dict(victim))

    def _replica(self, row: Row) -> None:
        how = "kill -9"
        if row["kind"] == "container":
            how = self._choice.choice(
                ("kill -9", "docker kill", "docker rm -f") if os.geteuid() == 0 else ("docker kill", "docker rm -f")
            )
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
        changed = [
            name for name, row in before.items() if (row["pid"], row["id"]) != (after[name]["pid"], after[name]["id"])
        ]
        if changed:
            self.complaints.append(f"the new supervisor did not adopt {', '.join(changed)} as it was")


class Sampler(threading.Thread):
    """Samples the load balancers' counters and access logs: when retries happened, and what was logged."""

    def __init__(self, cluster: BenchCluster, names: list[str]) -> None:
        super().__init__(daemon=True)
        self._of, self._names = cluster, names
        self.finished = threading.Event()
        self.logs = AccessLogs(cluster.folder / ".comet" / "logs", names)
        self.repeats: list[tuple[float, int]] = [(time.monotonic(), 0)]

    def run(self) -> None:
        while not self.finished.wait(SAMPLE_INTERVAL):
            self.sample()

    def sample(self) -> None:
        self.logs.read()
        with suppress(OSError, ValueError):
            total = sum(self._of.counters(name).get("retries", 0) for name in self._names)
            self.repeats.append((time.monotonic(), total))


def run(options: argparse.Namespace) -> int:
    if options.runtime != "process" and shutil.which("docker") is None:
        raise BenchError("needs Docker; --runtime process does not")
    report = begin("chaos")
    target = options.json or unused(RESULTS, report)
    seed = options.seed if options.seed is not None else random.randrange(1 << 30)
    settings = {
        "worker": options.workers,
        "pool": options.lbs,
        "avg_delay": 30,
        "failure": 12,
        "runtime": options.runtime,
    }
    settings |= {"access_log": True, "request_ledger": True}
    report.settings = settings | {
        "seconds": options.seconds,
        "seed": seed,
        "clients": f"{options.clients} keep-alive and as many new-connection ones per LB",
    }
    say(f"starting a cluster ({options.runtime}, {options.workers} workers, {options.lbs} LBs)")
    with temporary_cluster(**settings) as cluster:
        names = [f"lb-{number}" for number in range(options.lbs)]
        clients, killer, sampler = make_clients(names), Killer(cluster, seed), Sampler(cluster, names)
        before = {name: lb_counts(cluster, name) for name in names}
        say(f"killing at random for {options.seconds:g} s (seed {seed})")
        seconds = _kill_under_load(cluster, clients, killer, sampler, options)
        _wait_until_counted(cluster, names)
        for _ in range(3):  # A log that has just been rotated is read to its end first, then the next one.
            sampler.sample()
        sampler.logs.close()
        lbs = {name: subtract(lb_counts(cluster, name), before[name]) for name in names}
        workers = worker_counts(cluster)
        deaths = _with_recovery_times(killer.deaths, cluster.all_events())
        verdict = settle(clients.books, lbs, workers, deaths)
        counts, entries = _single_entries(cluster)
        by_id = account(clients.seen, sampler.logs.lines, entries, counts, deaths)
        parties = Parties(clients.books, lbs, workers, deaths)
        fill(report, parties, verdict, by_id, killer.complaints, sampler.repeats, seconds)
        if not report.passed:
            _save_logs(report, cluster, target.with_suffix(".evidence"))
        say("removing the cluster")
    return finish(report, target)


def _kill_under_load(
    cluster: BenchCluster,
    clients: ClosedModel,
    killer: Killer,
    sampler: Sampler,
    options: argparse.Namespace,
) -> float:
    """Kill replicas while clients send requests, until all replicas are ready again; return the seconds of load."""
    ports = {name: cluster.lb_port(number) for number, name in enumerate(clients.books)}
    load = threading.Thread(target=_load, args=(clients, ports, options.clients))
    sampler.start()
    load.start()
    began = time.monotonic()
    try:
        killer.run(began + options.seconds)
        wait_for(
            lambda: all(row["state"] == "ready" for row in cluster.rows().values()),
            60,
            "all replicas are ready again",
        )
        time.sleep(1)
    finally:
        clients.finished = True
        load.join(60)
        sampler.finished.set()
        sampler.join(10)
    return time.monotonic() - began


def _wait_until_counted(cluster: BenchCluster, names: list[str]) -> None:
    """Wait until the load balancers have nothing in flight, and what they log and the workers count is written."""
    wait_for(
        lambda: not any(cluster.counters(name)["in_flight"] for name in names), 15, "the LBs have nothing in flight"
    )
    # Workers may still be counting what nobody waits for any more, and the last lines of the logs be unwritten.
    time.sleep(0.5)


def _save_logs(report: Result, cluster: BenchCluster, target: Path) -> None:
    """Keep the events and logs of a cluster that is about to be removed."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(cluster.folder / ".comet" / "logs", target)
    shutil.copy(cluster.folder / ".comet" / "events.jsonl", target)
    report.notes.append(f"events and logs are kept in {target}")


def _load(clients: ClosedModel, ports: dict[str, int], each: int) -> None:
    asyncio.run(run_clients(clients, ports, each))


def lb_counts(cluster: BenchCluster, name: str) -> LbBook:
    counted = cluster.counters(name)
    responses = sum(counted[f"responses_{digit}xx"] for digit in range(2, 6))
    return LbBook(counted["requests"], responses, counted["aborted"], counted["retries"])


def subtract(after: LbBook, before: LbBook) -> LbBook:
    fields = ("requests", "responses", "aborted", "retries")
    return LbBook(*(getattr(after, each) - getattr(before, each) for each in fields))


def worker_counts(cluster: BenchCluster) -> WorkerBook:
    with urllib.request.urlopen(f"http://127.0.0.1:{cluster.worker_port(0)}/worker/stats", timeout=20) as answer:
        stats = json.load(answer)

    def rows(key: str) -> dict[str, int]:
        return {name: int(value) for entry in stats[key] for name, value in entry.items()}

    successes = rows("SuccessfulRequests")
    successes.pop("total")
    return WorkerBook(successes, rows("FailedRequests")["total"])


def _single_entries(cluster: BenchCluster) -> tuple[dict[str, tuple[int, int]], list[tuple[str, Entry]]]:
    """Read what the workers counted by row, and their single entries, at one time."""
    connection = sqlite3.connect(cluster.folder / "worker-stats.db", isolation_level=None)
    try:
        connection.execute("BEGIN")
        counts = {
            name: (good, bad) for name, good, bad in connection.execute("SELECT name, successful, failed FROM workers")
        }
        kept = connection.execute("SELECT worker, id, failed FROM counted_requests").fetchall()
    finally:
        connection.close()
    return counts, [(id, Entry(row, bool(failed))) for row, id, failed in kept]


def _with_recovery_times(deaths: list[Death], events: list[dict[str, Any]]) -> list[Death]:
    """Add the time at which each killed replica was ready again, as the events report it."""
    offset = time.monotonic() - time.time()
    ready = [
        (event.get("replica"), datetime.fromisoformat(event["at"]).timestamp() + offset)
        for event in events
        if event["event"] == "replica_ready"
    ]

    def back(death: Death) -> float | None:
        return min((at for name, at in ready if name == death.replica and at > death.at), default=None)

    return [replace(death, back=back(death)) for death in deaths]
