"""Reads what a replica that is a process printed: `.comet/logs/NAME.log`."""

import time
from collections.abc import Callable, Iterator
from math import inf

from comet.common.errors import UserError
from comet.host.process_identity import is_alive
from comet.runtimes import log_file
from comet.runtimes.replica_records import StateFile
from comet.state.directory import Cluster
from comet.state.lock import Lock

ALIVE_POLL_PAUSE = 1.0
"""Seconds between two polls whether any process is left that could write."""


def pieces(cluster: Cluster, name: str, count: int, follow: bool) -> Iterator[bytes]:
    """Yield the last `count` lines, then new output if `follow` is set; UserError where nothing was logged."""
    path = cluster.path("logs", f"{name}.log")
    try:
        yield from (
            log_file.follow(path, count, _liveness_check(cluster, name)) if follow else log_file.tail(path, count)
        )
    except FileNotFoundError:
        raise UserError(f"{name}: nothing was logged") from None


def _liveness_check(cluster: Cluster, name: str) -> Callable[[], bool]:
    """Return a function that says whether a supervisor, or at least the replica itself, is alive.

    It polls at most once per ALIVE_POLL_PAUSE.
    """
    polled, seen = -inf, True

    def alive() -> bool:
        nonlocal polled, seen
        now = time.monotonic()
        if now - polled >= ALIVE_POLL_PAUSE:
            record = StateFile(cluster.path("state.json")).read().get(name)
            is_running = record is not None and record.pid is not None and is_alive(record.pid, record.create_time)
            polled, seen = now, Lock(cluster).holder() is not None or is_running
        return seen

    return alive
