"""A look at a cluster from outside: what its supervisor shows, or, where none answers, what psutil and the engine see.

One look (`once`) is `ps`. Whoever looks again and again (`Watcher`) reads CPU and memory himself: the process table costs
milliseconds that the supervisor's loop is better off without.
"""

from dataclasses import replace

from comet import __version__, orphans
from comet.cluster import Cluster, Lock
from comet.control import Silent, call
from comet.errors import UserError
from comet.snapshot import FleetSnapshot, SupervisorRow, Usage, from_dict
from comet.usage import SUPERVISOR, Sampler

TIMEOUT = 3.0
"""Seconds that a supervisor has for its answer."""


def once(cluster: Cluster) -> FleetSnapshot:
    """The cluster as it is, CPU and memory included."""
    try:
        return from_dict(call(cluster, "ps", timeout=TIMEOUT))
    except (ConnectionError, Silent):
        return without_answer(cluster)


def without_answer(cluster: Cluster) -> FleetSnapshot:
    """What can be seen of a cluster whose supervisor is dead, or does not answer (hung, or just starting)."""
    seen = orphans.snapshot(cluster, __version__)
    holder = Lock(cluster).holder()
    if holder is None:
        return seen
    rows = tuple(replace(row, orphan=False) for row in seen.replicas)  # What is seen has an owner.
    return FleetSnapshot(SupervisorRow(holder, True, None, __version__), rows)


class Watcher:
    """Looks again and again. Not for concurrent use."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._sampler = Sampler()

    def look(self) -> FleetSnapshot:
        """As `once`; the CPU's share is of the time since the last look, so the first one has none."""
        try:
            told = from_dict(call(self._cluster, "picture", timeout=TIMEOUT))
        except (ConnectionError, Silent):
            return without_answer(self._cluster)
        except UserError:  # A supervisor of another version.
            return once(self._cluster)
        usage = self._sampler.sample({row.name: row.pid for row in told.replicas} | {SUPERVISOR: told.supervisor.pid})
        me = replace(told.supervisor, memory_bytes=usage.get(SUPERVISOR, Usage()).memory_bytes)
        rows = tuple(replace(row, **vars(usage.get(row.name, Usage()))) for row in told.replicas)
        return replace(told, supervisor=me, replicas=rows)
