"""`bench.sh chaos [seconds]`: kill load balancers, workers and the supervisor at random under load, and account for every request.

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
import subprocess
import threading
import time
import urllib.request
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from scripts.bench.chart import Chart
from scripts.bench.cluster import BenchCluster, Row, cluster
from scripts.bench.kills import kill_and_wait
from scripts.bench.ledger import Death, LbBook, Verdict, WorkerBook, settle, unexplained_repeats
from scripts.bench.proc import BenchError, wait_for
from scripts.bench.report import RESULTS, Report, Samples, finish, say
from scripts.bench.stats import median
from scripts.bench.strict import Crowd, crowd, run_clients
from scripts.bench.table import Cell, Table

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
    """Reads the LBs' counters all the while: when which repeats happened."""

    def __init__(self, of: BenchCluster, names: list[str]) -> None:
        super().__init__(daemon=True)
        self._of, self._names = of, names
        self.over = threading.Event()
        self.repeats: list[tuple[float, int]] = [(time.monotonic(), 0)]

    def run(self) -> None:
        while not self.over.wait(SAMPLE):
            self.look()

    def look(self) -> None:
        with suppress(OSError, ValueError):
            total = sum(self._of.counters(name).get("retries", 0) for name in self._names)
            self.repeats.append((time.monotonic(), total))


def run(options: argparse.Namespace) -> int:
    if options.runtime == "docker" and shutil.which("docker") is None:
        raise BenchError("needs Docker; --runtime process does without")
    report = Report("chaos")
    seed = options.seed if options.seed is not None else random.randrange(1 << 30)
    settings = {"worker": options.workers, "pool": options.lbs, "avg_delay": 30, "failure": 12, "runtime": options.runtime}
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
        seconds = time.monotonic() - began
        wait_for(lambda: not any(of.counters(name)["in_flight"] for name in names), 15, "the LBs have nothing in flight")
        time.sleep(0.5)  # Workers may still be counting what nobody waits for any more.
        sampler.look()
        lbs = {name: less(book(of, name), before[name]) for name in names}
        workers = _worker_book(of)
        deaths = _with_returns(killer.deaths, of.events())
        verdict = settle(everyone.books, lbs, workers, deaths)
        fill(report, everyone, lbs, workers, deaths, verdict, killer, sampler, seconds)
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


def fill(
    report: Report, everyone: Crowd, lbs: dict[str, LbBook], workers: WorkerBook, deaths: list[Death], verdict: Verdict,
    killer: Killer, sampler: Sampler, seconds: float,
) -> None:  # fmt: skip
    """Make the report of what was found."""
    over, shares = unexplained_repeats(sampler.repeats, deaths)
    unexplained = [*verdict.reasons, *killer.complaints, *["a repeat while no worker was dead"] * over]
    books = everyone.books
    sent = sum(each.sent for each in books.values())
    result = Table("The ledger", ["what", "count", "must be"])
    result.rows.extend([
        ["lost (seen by a client, missing at the workers)", verdict.lost, "0"],
        ["counted twice without a repeat", verdict.doubled, "0"],
        ["unexplained", len(unexplained), "0"],
        ["repeated by an LB, each near a worker's death", verdict.repeated - over, ""],
        ["broken with their LB's death", verdict.broken, ""],
        ["requests in all", sent, ""],
    ])  # fmt: skip
    columns = ["LB", "sent", "200", "injected", "broken", "LB requests", "LB responses", "LB aborted", "LB repeats", "kills"]
    parties = Table("Client and LB", columns)
    for name, each in books.items():
        lb = lbs[name]
        kills = sum(death.replica == name for death in deaths)
        row: list[Cell] = [
            name,
            each.sent,
            sum(each.served.values()),
            each.injected,
            each.broken,
            lb.requests,
            lb.responses,
            lb.aborted,
            lb.retries,
            kills,
        ]
        parties.rows.append(row)
    rows = Table("Client and worker", ["row", "200 at the client", "successes at the worker"])
    for name in sorted(workers.successes):
        rows.rows.append([name, sum(each.served.get(name, 0) for each in books.values()), workers.successes[name]])
    rows.rows.append(["injected failures, all", sum(each.injected for each in books.values()), workers.failures])
    repeats = Table("Repeats by the death that explains them", ["death", "repeats"], [[key, value] for key, value in shares.items()])
    report.tables += [result, parties, rows, _killed(deaths), repeats]
    report.notes.append(f"{sent / seconds:,.0f} requests/s over {seconds:.0f} s, {len(deaths)} kills")
    report.notes.extend(unexplained[:20])
    report.passed = verdict.clean and not unexplained
    report.notes.append("all zero" if report.passed else "NOT all zero")
    report.data = {"deaths": [vars(death) for death in deaths], "unexplained": unexplained, "verdict": vars(verdict)}
    back = [death.back - death.at for death in deaths if death.back is not None]
    report.samples = {"requests": Samples("1/s", "more", [sent / seconds]), "kill until ready": Samples("s", "less", back)}
    counts = [[float(value)] for value in (verdict.lost, verdict.doubled, len(unexplained), verdict.repeated, verdict.broken)]
    labels = ["lost", "counted twice", "unexplained", "repeated", "broken with their LB"]
    report.charts.append(
        Chart("Chaos", f"{sent:,} requests, {len(deaths)} kills; the first three must be zero", ["requests"], labels, counts)
    )


def _killed(deaths: list[Death]) -> Table:
    table = Table("Kills", ["replica", "how", "times", "median s until ready"])
    grouped: dict[tuple[str, str], list[Death]] = {}
    for death in deaths:
        grouped.setdefault((death.replica, death.how), []).append(death)
    for (replica, how), found in sorted(grouped.items()):
        back = [death.back - death.at for death in found if death.back is not None]
        table.rows.append([replica, how, len(found), median(back) if back else None])
    return table
