"""Finds nothing of upstreams that already run: none of their processes is the cluster's."""

from collections.abc import Collection, Iterator
from typing import NoReturn

from comet.common.errors import UserError
from comet.engine.clients import Engines
from comet.runtimes.finder import Finder, Search
from comet.runtimes.orphan import Orphan
from comet.state.directory import Cluster

DRIVER, KIND = "external", "upstream"


class ExternalFinder(Finder):
    driver, kind = DRIVER, KIND
    asks_engine = False

    def find(self, search: Search) -> Collection[Orphan]:
        return ()

    def kill(self, orphan: Orphan, signal: int) -> None:
        refuse(orphan.name or "", "send no signal to it")

    def end(self, cluster: Cluster, orphans: Collection[Orphan], engines: Engines, grace: float) -> Iterator[str]:
        return iter(())

    def log(self, cluster: Cluster, name: str, count: int, follow: bool) -> Iterator[bytes]:
        refuse(name, "not read what it prints")


def refuse(name: str, what: str) -> NoReturn:
    raise UserError(f"{name}: is an upstream that Comet did not start: it can {what}", 2)


FINDER = ExternalFinder()
