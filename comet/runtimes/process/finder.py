"""Finds and ends the processes of a cluster: workers, what they left, and the supervisor's helpers."""

import os
import time
from collections.abc import Collection, Iterable, Iterator

from comet.common.errors import UserError
from comet.engine.clients import Engines
from comet.host import process_identity
from comet.runtimes.cluster_processes import LB_DRIVER, WORKER_DRIVER, marked_id, processes
from comet.runtimes.finder import Finder, Search
from comet.runtimes.orphan import Orphan
from comet.runtimes.process import log, memory_limits
from comet.state.directory import Cluster

HELPER_GRACE = 1.0
"""Seconds that a helper may take to end; it has no work to finish."""


class ProcessFinder(Finder):
    kind = "process"
    asks_engine = False

    def __init__(self, driver: str) -> None:
        self.driver = driver

    def find(self, search: Search) -> Collection[Orphan]:
        return [orphan for orphan in search.processes if orphan.driver == self.driver]

    def kill(self, orphan: Orphan, signal: int) -> None:
        try:
            if not process_identity.send(orphan.pid, orphan.birth, signal):
                raise UserError(f"{orphan.name}: has just ended")
        except PermissionError:
            raise UserError(f"{orphan.name}: process {orphan.pid} is another user's: permission denied") from None

    def end(self, cluster: Cluster, orphans: Collection[Orphan], engines: Engines, grace: float) -> Iterator[str]:
        """End these; a load balancer and a worker both take SIGTERM as the order to finish the requests they have."""
        yield from _end_processes([orphan for orphan in orphans if orphan.name], grace)
        yield from _end_processes([orphan for orphan in orphans if not orphan.name], HELPER_GRACE)
        memory_limits.MemoryGroups(cluster.id or "").sweep()

    def log(self, cluster: Cluster, name: str, count: int, follow: bool) -> Iterator[bytes]:
        return log.pieces(cluster, name, count, follow)

    def find_strays(self, search: Search) -> Collection[Orphan]:
        found = processes(search.cluster_id, search.records.values(), {os.getpid()})
        return [
            each
            for each in found
            if each.driver == self.driver
            and each.pid is not None
            and "COMET_REPLICA" in process_identity.environment(each.pid)
        ]

    def marked_id(self, cluster: Cluster) -> str | None:
        return marked_id(cluster)


def _end_processes(orphans: Iterable[Orphan], grace: float) -> Iterator[str]:
    """End each process with its parts, all within the same grace.

    The parts that its main process leaves are asked to end when that process is dead.
    """
    every = [orphan for orphan in orphans if orphan.pid is not None]
    deadline = time.monotonic() + grace + 1
    # A second signal ends a load balancer at once: one that already drains gets the time that it needs.
    draining = [(orphan.pid, orphan.birth) for orphan in every if orphan.ending and orphan.driver == LB_DRIVER]
    process_identity.wait(draining, grace + 1)
    process_identity.end([(orphan.pid, orphan.birth) for orphan in every], max(0.0, deadline - time.monotonic()))
    left = [part for orphan in every for part in orphan.parts]
    process_identity.end(left, max(0.0, deadline - time.monotonic()))
    for orphan in every:
        if orphan.driver == WORKER_DRIVER and orphan.name and orphan.pid is not None:
            process_identity.end_members(orphan.pid, orphan.birth, max(0.0, deadline - time.monotonic()))
        if orphan.name:
            yield f"{orphan.name}: process {orphan.pid} ended"


FINDER = ProcessFinder(WORKER_DRIVER)
