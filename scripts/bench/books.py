"""Compares what clients, load balancers and workers counted in a load test. `settle` is pure.

When a slice of a closed model ends, each connection may have one request in flight: the load balancers may have
answered it, and the workers counted it, without any client seeing it. An open model waits for the last answer, so its
counts must agree exactly.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from comet.balancers import request_statistics
from comet.common.errors import UserError
from comet.config.schema import load
from comet.state.directory import Cluster, worker_owner
from comet.statistics import database
from lb.interface import counters
from scripts.bench.cluster import BenchCluster
from scripts.bench.observed import BY_WORKER, OK, ORDERED, Observed
from scripts.bench.proc import tree_cpu

UNSEEN = ("hang", "reset", "truncate")  # injected, and not visible in the answer


@dataclass(frozen=True)
class Row:
    """What a worker counted: requests, failed requests, and microseconds of work."""

    count: int = 0
    failed: int = 0
    micros: float = 0.0


@dataclass(frozen=True)
class Reading:
    """All counts at one time: by load balancer, by worker, injected faults by kind, CPU seconds by replica, and each
    load balancer's responses by worker.
    """

    at: float
    lbs: Mapping[str, Mapping[str, int]]
    workers: Mapping[str, Row]
    injected: Mapping[str, int]
    cpu: Mapping[str, float]
    shares: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Growth:
    """The increase between two readings; `cpu` in percent of a core."""

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


def read_counts(bench_cluster: BenchCluster) -> Reading:
    """Read all counts; BenchError if the cluster does not provide them."""
    rows = bench_cluster.rows()
    names = {str(row["id"]): name for name, row in rows.items() if row["role"] == "worker"}
    workers, injected = _workers(bench_cluster, names)
    lbs = {name: bench_cluster.counters(name) for name, row in rows.items() if row["role"] == "lb"}
    cpu = {name: tree_cpu(int(row["pid"])) for name, row in rows.items() if row["pid"]}
    return Reading(time.monotonic(), lbs, workers, injected, cpu, _shares(bench_cluster))


def total(bench_cluster: BenchCluster, names: Sequence[str]) -> dict[str, int]:
    """Return the sum of these load balancers' counters."""
    return dict(sum((Counter(bench_cluster.counters(name)) for name in names), Counter()))


def _shares(bench_cluster: BenchCluster) -> dict[str, int]:
    found: Counter[str] = Counter()
    for path in (bench_cluster.folder / ".comet" / "run").glob("lb-*.counters"):
        with contextlib.suppress(OSError, ValueError):
            for name, edge in counters.read_counters(path).edges().items():
                if name:
                    found[name] += sum(edge[1:6])  # by the status's first digit
    return dict(found)


def _workers(bench_cluster: BenchCluster, names: Mapping[str, str]) -> tuple[dict[str, Row], dict[str, int]]:
    """Return the counts by worker, from the database or, for a custom service, from the load balancers.

    A worker is listed under its replica's name if that is known.
    """
    cluster = Cluster(bench_cluster.folder)
    try:
        config = load(bench_cluster.path)
        if config.custom_service:
            rows_by_name = request_statistics.report(cluster)
        else:
            rows_by_name = database.report(database.place(config, cluster), worker_owner())
            if config.fault_point == "lb":
                rows_by_name["total"]["injections"] = request_statistics.report(cluster)["total"]["injections"]
    except UserError:
        return {}, {}
    found = {}
    for row in rows_by_name["workers"]:
        count = row["successful"] + row["failed"]
        name = names.get(row["name"]) or names.get(row["name"].partition(".")[0]) or row["name"]
        found[name] = Row(count, row["failed"], row["mean_ms"] * count * 1000)
    return found, dict(rows_by_name["total"]["injections"])


def growth(before: Reading, after: Reading) -> Growth:
    """Return the increase between two readings.

    Workers that did nothing are included with zeros; workers that have ended are left out.
    """
    workers = {}
    for name, now in after.workers.items():
        then = before.workers.get(name, Row())
        if now.count >= then.count and (name in after.cpu or now.count > then.count):
            workers[name] = Row(now.count - then.count, now.failed - then.failed, now.micros - then.micros)
    lbs = {
        name: {key: value - before.lbs.get(name, {}).get(key, 0) for key, value in now.items()}
        for name, now in after.lbs.items()
    }
    injected = {kind: count - before.injected.get(kind, 0) for kind, count in after.injected.items()}
    span = after.at - before.at
    cpu = {
        name: (spent - before.cpu[name]) / span * 100
        for name, spent in after.cpu.items()
        if spent >= before.cpu.get(name, spent + 1)
    }
    shares = {
        name: count - before.shares.get(name, 0)
        for name, count in after.shares.items()
        if count > before.shares.get(name, 0)
    }
    return Growth(lbs, workers, injected, cpu, shares)


@dataclass(frozen=True)
class CountComparison:
    """The counts of answers by source, and the differences; `workers` is None if they do not count all requests."""

    clients: int
    lbs: int
    workers: int | None
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counted = "" if self.workers is None else f", workers counted {self.workers:,}"
        beyond = max(self.lbs, self.workers or 0) - self.clients
        rest = f"; {beyond:,} went to clients that had disconnected" if beyond > 0 and not self.wrong else ""
        verdict = "they do NOT agree: " + "; ".join(self.wrong) if self.wrong else "they agree"
        return f"clients received {self.clients:,} answers, LBs sent {self.lbs:,}{counted}: {verdict}{rest}"


def compare_counts(seen: Observed, grown: Growth, counted: bool) -> CountComparison:
    """Compare the counts; `counted` means that the workers count all requests."""
    clients, lbs = seen.answered, grown.responses
    wrong = []
    in_flight = seen.unanswered
    if clients > lbs:
        wrong.append(f"{clients - lbs:,} answers were not counted by any LB")
    if lbs > clients + in_flight:
        wrong.append(
            f"the LBs answered {lbs - clients - in_flight:,} more than these clients sent (are there "
            "other clients of the cluster?)"
        )
    workers = sum(row.count for row in grown.workers.values()) if counted and grown.workers else None
    if workers is not None:
        certain = seen.kinds[OK] + seen.kinds[ORDERED]
        max_workers = (
            certain
            + seen.kinds[BY_WORKER]
            + in_flight
            + grown.all_lbs("retries")
            + sum(grown.injected.get(kind, 0) for kind in UNSEEN)
        )
        if workers < certain:
            wrong.append(f"{certain - workers:,} answers were not counted by any worker")
        if workers > max_workers:
            wrong.append(
                f"the workers counted {workers - max_workers:,} more than these clients sent (are there "
                "other clients of the cluster?)"
            )
    return CountComparison(clients, lbs, workers, wrong)


def is_idle(bench_cluster: BenchCluster, names: list[str]) -> bool:
    """Return whether no load balancer has a request in flight."""
    with contextlib.suppress(OSError, ValueError):
        return not any(bench_cluster.counters(name).get("in_flight", 0) for name in names)
    return False
