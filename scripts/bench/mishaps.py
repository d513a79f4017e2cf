"""Measures failures other than the death of a replica: a load balancer that hangs, a supervisor that is killed. Each
runs in its own cluster.
"""

import os
import select
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf

from comet.report.model import Table
from scripts.bench.cluster import BenchCluster
from scripts.bench.kills import KILL_TIMEOUT, Bystander, first_200
from scripts.bench.proc import BenchError, wait_for
from scripts.bench.stats import median

WATCHDOG_MS = 3000.0
"""Milliseconds within which a hung load balancer must be noticed: the default of `watchdog-timeout`."""

ROTATION_MS = 50.0
"""Milliseconds from Docker's report of a worker's death within which it must be out of every rotation."""

HANGS, ADOPTED = "comet, LB hangs (SIGSTOP)", "comet, supervisor killed"


@dataclass(frozen=True)
class Mishap:
    """The outcome of one failure.

    `noticed_ms` is the time from the failure to the death of what hung, `over_ms` to the next 200 or to the end of the
    takeover. `errors` counts the answers other than 200 meanwhile, `changed` the replicas that a new supervisor did not
    adopt as they were.
    """

    noticed_ms: float | None
    over_ms: float | None
    errors: int
    changed: int = 0


def hang(cluster: BenchCluster) -> Mishap:
    """Stop lb-0 under load: its clients wait, and none may be refused."""
    pid = int(cluster.rows()["lb-0"]["pid"])
    death = _Death(pid)
    death.start()
    began = time.monotonic()
    os.kill(pid, signal.SIGSTOP)
    answered, answers = first_200(cluster.lb_port(0), "/healthz", KILL_TIMEOUT, wait_for_all=True)
    death.join(1)
    noticed = None if death.at is None else (death.at - began) * 1000
    return Mishap(noticed, None if answered is None else (answered - began) * 1000, sum(answers.values()))


def orphan(cluster: BenchCluster) -> Mishap:
    """Kill the supervisor and start a new one, with clients at both load balancers."""
    before = cluster.rows()
    bystanders = [Bystander(cluster.lb_port(number), "/healthz") for number in range(2)]
    for each in bystanders:
        each.start()
    began = time.monotonic()
    try:
        os.kill(cluster.ps()["supervisor"]["pid"], signal.SIGKILL)
        cluster.start()
        over = (time.monotonic() - began) * 1000
    finally:
        seen = [each.finish() for each in bystanders]
    after = cluster.rows()
    same = ("pid", "id", "restarts")
    changed = sum(any(row[key] != after[name][key] for key in same) for name, row in before.items())
    return Mishap(None, over, sum(count for each in seen for word, count in each.items() if word != "200"), changed)


class _Death(threading.Thread):
    """Waits for the end of a process; `at` is when it was seen (monotonic)."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pidfd = os.pidfd_open(pid)
        self.at: float | None = None

    def run(self) -> None:
        try:
            if select.select([self._pidfd], [], [], KILL_TIMEOUT)[0]:
                self.at = time.monotonic()
        finally:
            os.close(self._pidfd)


def wait_settled(cluster: BenchCluster) -> None:
    """Wait until the cluster is complete again."""
    try:
        wait_for(
            lambda: all(row["state"] == "ready" for row in cluster.rows().values()), 20, "all replicas are ready again"
        )
    except BenchError:
        return  # The next step reports it.


def table(mishaps: Mapping[str, Sequence[Mishap]]) -> Table:
    """Return the table of outcomes, a line per kind of failure."""
    columns = [
        "what",
        "times",
        "noticed after, median ms",
        "over after, median ms",
        "lowest",
        "highest",
        "errors seen",
        "replaced",
    ]
    made = Table("Other mishaps: until the next 200, or until a new supervisor has taken everything over", columns)
    for name, found in mishaps.items():
        noticed = [each.noticed_ms for each in found if each.noticed_ms is not None]
        over = [float("inf") if each.over_ms is None else each.over_ms for each in found]
        errors, changed = sum(each.errors for each in found), sum(each.changed for each in found)
        replaced = changed if name == ADOPTED else None
        made.rows.append(
            [
                name,
                len(found),
                median(noticed) if noticed else None,
                median(over),
                min(over),
                max(over),
                errors,
                replaced,
            ]
        )
    return made


def goals(mishaps: Mapping[str, Sequence[Mishap]], rotation_ms: Sequence[float]) -> Iterator[tuple[str, bool]]:
    """Return the goals, and whether they are met."""
    if hangs := [inf if each.noticed_ms is None else each.noticed_ms for each in mishaps.get(HANGS, ())]:
        worst = max(hangs)
        yield (
            f"an LB that hangs is noticed after {worst:,.0f} ms at most (goal: within {WATCHDOG_MS:,.0f})",
            worst <= WATCHDOG_MS,
        )
    if rotation_ms:
        middle, worst = median(rotation_ms), max(rotation_ms)
        text = (
            f"out of every rotation {middle:.1f} ms after Docker's die event, {worst:.1f} at most (goal: "
            f"{ROTATION_MS:g})"
        )
        yield text, middle <= ROTATION_MS
    if mishaps:
        errors = sum(each.errors + each.changed for found in mishaps.values() for each in found)
        yield f"{errors} errors and replaced replicas in these failures (goal: 0)", errors == 0
