"""The interface by which the replicas of a driver are found, read and ended from outside, without a supervisor."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property

from comet.engine.clients import Engines
from comet.runtimes.cluster_processes import processes
from comet.runtimes.orphan import Orphan
from comet.runtimes.replica_records import Record, StateFile
from comet.state.directory import Cluster


class Search:
    """One search for what is alive of a cluster; what several finders need is read once."""

    def __init__(self, cluster: Cluster, engines: Engines) -> None:
        self.cluster = cluster
        self.cluster_id = cluster.id or ""
        self.engines = engines

    @cached_property
    def records(self) -> Mapping[str, Record]:
        return StateFile(self.cluster.path("state.json")).read()

    @cached_property
    def processes(self) -> Collection[Orphan]:
        return processes(self.cluster_id, self.records.values())


class Finder(ABC):
    """Finds, reads, signals and ends the replicas of one driver; all methods may block.

    `driver` and `kind` are the names in the state file. A finder that `asks_engine` may not see what there is. What one
    with `holds_front_port` finds holds the common port of the load balancers.
    """

    driver: str
    kind: str
    asks_engine = True
    holds_front_port = False

    @abstractmethod
    def find(self, search: Search) -> Collection[Orphan]:
        """Return what is alive; UserError or one of `engine_errors()` where that cannot be seen."""

    @abstractmethod
    def kill(self, orphan: Orphan, signal: int) -> None:
        """Send a signal to a replica; UserError where that is impossible."""

    @abstractmethod
    def end(self, cluster: Cluster, orphans: Collection[Orphan], engines: Engines, grace: float) -> Iterator[str]:
        """Drain and end these, and remove what they leave; yield one line for each thing done.

        It is called with no orphans, too. `grace` is in seconds.
        """

    @abstractmethod
    def log(self, cluster: Cluster, name: str, count: int, follow: bool) -> Iterator[bytes]:
        """Yield the last `count` lines that a replica printed, then new output if `follow` is set."""

    def find_strays(self, search: Search) -> Collection[Orphan]:
        """Return what replicas have left among this process's own children."""
        return ()

    def marked_id(self, cluster: Cluster) -> str | None:
        """Return the cluster's id from what is marked with its folder; None where nothing is."""
        return None
