"""Waits for a cluster: the command `wait`, and what commands show that take long."""

import argparse
import contextlib
import re
import sys
import threading
import time
from collections.abc import Collection, Iterator

from comet.cli.options import known_cluster
from comet.common.errors import UserError
from comet.common.wording import hint
from comet.events import event, journal
from comet.state.directory import Cluster
from comet.telemetry.snapshot import FleetSnapshot, Row
from comet.telemetry.status import Watcher
from comet.terminal.messages import HIDDEN_EVENTS, write

POLL_PAUSE = 0.1
"""Seconds between two looks at the cluster."""

PROGRESS_DELAY = 2.0
"""Seconds after which a command that is still under way shows what happens."""

EXIT_TIMEOUT = 5.0
"""Seconds that the supervisor has to notice that a killed replica is dead."""

REPLICA = re.compile(r"(?:worker|lb)-[0-9]+")


def wait(options: argparse.Namespace) -> int:
    cluster = known_cluster(options)
    for name in options.names:
        if name != "all" and not REPLICA.fullmatch(name):
            known = ["all", *(row.name for row in Watcher(cluster).snapshot().replicas)]
            raise UserError(f"wait: {event.visible(name)}: no replica's name ({hint(name, known)})", 2)
    deadline = time.monotonic() + options.timeout
    watcher = Watcher(cluster)
    while lack := missing(watcher.snapshot(), options.names, options.goal):
        if time.monotonic() > deadline:
            raise UserError(f"not {options.goal} within {options.timeout:g} s: {', '.join(lack)}")
        time.sleep(POLL_PAUSE)
    print(f"{', '.join(options.names)} {options.goal}")
    return 0


def missing(snapshot: FleetSnapshot, names: Collection[str], goal: str) -> list[str]:
    """Return what keeps these replicas from being `ready` or `gone`; an empty list where nothing does.

    A replica is ready when it may serve: a worker when every load balancer sends requests to it. The load balancers
    start last, so a cluster without any is not complete. A replica is gone when it is no longer part of the cluster.
    """
    rows = {row.name: row for row in snapshot.replicas}
    everything = "all" in names
    wanted = [*rows, *(name for name in names if name not in rows and name != "all")] if everything else list(names)
    if goal == "gone":
        left = [f"{name} {rows[name].state}" for name in wanted if name in rows]
        return left + (["the supervisor runs"] if everything and snapshot.supervisor.running else [])
    if not snapshot.supervisor.running:
        return ["no supervisor runs"]
    if snapshot.supervisor.problem:
        return [f"supervisor {snapshot.supervisor.problem}"]
    if everything and not any(row.role == "lb" for row in rows.values()):
        return ["the cluster is starting"]
    found = (_lack(name, rows.get(name), snapshot) for name in wanted)
    return [lack for lack in found if lack is not None]


def _lack(name: str, row: Row | None, snapshot: FleetSnapshot) -> str | None:
    """Return why a replica is not ready, None where it is."""
    if row is None:
        return f"{name} does not exist"
    if row.state != "ready":
        return f"{name} {row.state}" + (f" ({row.reason})" if row.reason else "")
    away = next((edge for edge in snapshot.edges if edge.worker == name and not edge.healthy), None)
    return None if away is None else f"{name} unhealthy for {away.lb}"


def await_exits(tail: journal.Tail, names: Collection[str]) -> None:
    """Return when the supervisor has noticed that these replicas died, so that `wait` sees the next life."""
    left, deadline = set(names), time.monotonic() + EXIT_TIMEOUT
    while left and time.monotonic() < deadline:
        left -= {str(record.get("replica")) for record in tail.fresh() if record["event"] == "replica_exited"}
        if left:
            time.sleep(0.01)


@contextlib.contextmanager
def progress(cluster: Cluster) -> Iterator[None]:
    """Show the cluster's events on stderr from PROGRESS_DELAY seconds on, those since the beginning first."""
    tail, ended = journal.Tail(cluster.path("events.jsonl")), threading.Event()

    def show() -> None:
        with contextlib.suppress(OSError):
            while not ended.wait(PROGRESS_DELAY if not shown else POLL_PAUSE):
                for record in tail.fresh():
                    if record["event"] not in HIDDEN_EVENTS:
                        write(2, f"  {event.line(record)}\n")
                shown.append(True)

    shown: list[bool] = []
    sys.stdout.flush()
    thread = threading.Thread(target=show, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(PROGRESS_DELAY)
