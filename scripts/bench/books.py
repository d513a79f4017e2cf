"""The books of a load test: what the clients, the LBs and the workers counted of it, and whether these agree. `settle` is pure.

A closed model's clients leave with a request out on every connection, at the end of every slice: so many answers the LBs may have given,
and the workers counted, that no client saw. An open model waits for the last answer, so its books must agree to the request.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from comet import database, tallies
from comet.cluster import Cluster, worker_owner
from comet.config import load
from comet.errors import UserError
from lb import counters
from scripts.bench.cluster import BenchCluster
from scripts.bench.observed import BY_WORKER, OK, ORDERED, Observed
from scripts.bench.proc import tree_cpu

UNSEEN = ("hang", "reset", "truncate")  # injected, and no answer that says so


@dataclass(frozen=True)
class Row:
    """What a worker counted: requests, those that failed, and microseconds in it."""

    count: int = 0
    failed: int = 0
    micros: float = 0.0


@dataclass(frozen=True)
class Look:
    """All that counts, at one moment: by LB, by worker, what was injected by kind, CPU seconds by replica, and the answers that the LBs
    had from each worker."""

    at: float
    lbs: Mapping[str, Mapping[str, int]]
    workers: Mapping[str, Row]
    injected: Mapping[str, int]
    cpu: Mapping[str, float]
    shares: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Growth:
    """What came to it between two looks; `cpu` in percent of a core."""

    lbs: Mapping[str, Mapping[str, int]]
    workers: Mapping[str, Row]
    injected: Mapping[str, int]
    cpu: Mapping[str, float]
    shares: Mapping[str, int] = field(default_factory=dict)

    def all_lbs(self, field_: str) -> int:
        return sum(each[field_] for each in self.lbs.values())

    @property
    def responses(self) -> int:
        return sum(self.all_lbs(f"responses_{digit}xx") for digit in (2, 3, 4, 5))


def look(of: BenchCluster) -> Look:
    """Read all books. BenchError: the cluster does not tell."""
    rows = of.rows()
    names = {str(row["id"]): name for name, row in rows.items() if row["role"] == "worker"}
    workers, injected = _workers(of, names)
    lbs = {name: of.counters(name) for name, row in rows.items() if row["role"] == "lb"}
    cpu = {name: tree_cpu(int(row["pid"])) for name, row in rows.items() if row["pid"]}
    return Look(time.monotonic(), lbs, workers, injected, cpu, _shares(of))


def total(of: BenchCluster, names: Sequence[str]) -> dict[str, int]:
    """The LBs' counters, added up."""
    return dict(sum((Counter(of.counters(name)) for name in names), Counter()))


def _shares(of: BenchCluster) -> dict[str, int]:
    found: Counter[str] = Counter()
    for path in (of.folder / ".comet" / "run").glob("lb-*.counters"):
        with contextlib.suppress(OSError, ValueError):
            for name, edge in counters.look(path).edges().items():
                if name:
                    found[name] += sum(edge[1:6])  # by the status's first digit
    return dict(found)


def _workers(of: BenchCluster, names: Mapping[str, str]) -> tuple[dict[str, Row], dict[str, int]]:
    """From the database, or, for a service of one's own, from the LBs; a worker goes by its replica's name where it is known."""
    cluster = Cluster(of.folder)
    try:
        config = load(of.path)
        if config.own_service:
            told = tallies.report(cluster)
        else:
            told = database.report(database.place(config, cluster), worker_owner())
            if config.fault_point == "lb":
                told["total"]["injections"] = tallies.report(cluster)["total"]["injections"]
    except UserError:
        return {}, {}
    found = {}
    for row in told["workers"]:
        count = row["successful"] + row["failed"]
        name = names.get(row["name"]) or names.get(row["name"].partition(".")[0]) or row["name"]
        found[name] = Row(count, row["failed"], row["mean_ms"] * count * 1000)
    return found, dict(told["total"]["injections"])


def growth(before: Look, after: Look) -> Growth:
    """Workers that did nothing are in it with zeros, those that have ended are not."""
    workers = {}
    for name, now in after.workers.items():
        then = before.workers.get(name, Row())
        if now.count >= then.count and (name in after.cpu or now.count > then.count):
            workers[name] = Row(now.count - then.count, now.failed - then.failed, now.micros - then.micros)
    lbs = {name: {key: value - before.lbs.get(name, {}).get(key, 0) for key, value in now.items()} for name, now in after.lbs.items()}
    injected = {kind: count - before.injected.get(kind, 0) for kind, count in after.injected.items()}
    span = after.at - before.at
    cpu = {name: (spent - before.cpu[name]) / span * 100 for name, spent in after.cpu.items() if spent >= before.cpu.get(name, spent + 1)}
    shares = {name: count - before.shares.get(name, 0) for name, count in after.shares.items() if count > before.shares.get(name, 0)}
    return Growth(lbs, workers, injected, cpu, shares)


@dataclass(frozen=True)
class Settled:
    """Answers by book, and what is wrong with them, in words; `workers` is None where they do not count what was asked."""

    clients: int
    lbs: int
    workers: int | None
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counted = "" if self.workers is None else f", workers counted {self.workers:,}"
        beyond = max(self.lbs, self.workers or 0) - self.clients
        rest = f"; {beyond:,} went to clients that had broken off" if beyond > 0 and not self.wrong else ""
        verdict = "they do NOT agree: " + "; ".join(self.wrong) if self.wrong else "they agree"
        return f"clients had {self.clients:,} answers, LBs gave {self.lbs:,}{counted}: {verdict}{rest}"


def settle(seen: Observed, grown: Growth, counted: bool) -> Settled:
    """Compare. `counted`: the workers count all that was asked."""
    clients, lbs = seen.answered, grown.responses
    wrong = []
    loose = seen.unanswered
    if clients > lbs:
        wrong.append(f"{clients - lbs:,} answers stand in no LB's book")
    if lbs > clients + loose:
        wrong.append(f"the LBs answered {lbs - clients - loose:,} more than these clients asked (does somebody else use the cluster?)")
    workers = sum(row.count for row in grown.workers.values()) if counted and grown.workers else None
    if workers is not None:
        sure = seen.kinds[OK] + seen.kinds[ORDERED]
        most = sure + seen.kinds[BY_WORKER] + loose + grown.all_lbs("retries") + sum(grown.injected.get(kind, 0) for kind in UNSEEN)
        if workers < sure:
            wrong.append(f"{sure - workers:,} answers stand in no worker's book")
        if workers > most:
            wrong.append(f"the workers counted {workers - most:,} more than these clients asked (does somebody else use the cluster?)")
    return Settled(clients, lbs, workers, wrong)


def quiet(of: BenchCluster, names: list[str]) -> bool:
    """Whether no LB has anything in flight."""
    with contextlib.suppress(OSError, ValueError):
        return not any(of.counters(name).get("in_flight", 0) for name in names)
    return False
