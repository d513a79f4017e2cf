"""What is found of a cluster where some of its runtimes cannot be seen, and in which order it ends."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

from comet.common.errors import UserError
from comet.engine.clients import Engines
from comet.runtimes import discovery, registry
from comet.runtimes.finder import Finder, Search
from comet.runtimes.orphan import Orphan
from comet.runtimes.replica_records import Record, StateFile
from comet.state.directory import Cluster


def orphan(name: str | None, driver: str) -> Orphan:
    return Orphan(name, driver, "process", 7, "7", 6000, 0.0)


class Stub(Finder):
    """Finds what it is given, or fails as it is told to."""

    def __init__(self, driver: str, found: Collection[Orphan], trouble: Exception | None, asks_engine: bool) -> None:
        self.driver, self.kind, self.asks_engine = driver, "process", asks_engine
        self._found, self._trouble = found, trouble
        self.asked = 0
        self.ended: list[Orphan] | None = None
        self.mark: str | None = None

    def find(self, search: Search) -> Collection[Orphan]:
        self.asked += 1
        if self._trouble is not None:
            raise self._trouble
        return self._found

    def kill(self, orphan: Orphan, signal: int) -> None:
        raise UserError(f"{orphan.name} got {signal}")

    def end(self, cluster: Cluster, orphans: Collection[Orphan], engines: Engines, grace: float) -> Iterator[str]:
        self.ended = list(orphans)
        yield from (str(each.name) for each in orphans)

    def log(self, cluster: Cluster, name: str, count: int, follow: bool) -> Iterator[bytes]:
        yield name.encode()

    def marked_id(self, cluster: Cluster) -> str | None:
        return self.mark


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    cluster = Cluster(tmp_path)
    cluster.create()
    return cluster


def use(monkeypatch: pytest.MonkeyPatch, trouble: Exception | None = None) -> tuple[Stub, Stub]:
    near = Stub("lb", [orphan("lb-0", "lb")], None, asks_engine=False)
    far = Stub("container", [orphan("worker-0", "container")], trouble, asks_engine=True)
    monkeypatch.setattr(registry, "finders", lambda: {"lb": near, "container": far})
    return near, far


def on_record(cluster: Cluster, name: str, driver: str) -> None:
    fields: dict[str, Any] = {"pid": None, "create_time": None, "id": None, "control": None}
    record = Record(name, "worker", "container", driver, 6000, "ready", 1, 0, **fields)
    StateFile(cluster.path("state.json")).write({name: record})


def test_all_finders_are_asked(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch)
    assert [each.name for each in discovery.find(cluster, complete=True)] == ["lb-0", "worker-0"]


@pytest.mark.parametrize("trouble", [UserError("no engine"), ConnectionError("no engine")])
def test_what_was_never_there_is_not_hidden(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    use(monkeypatch, trouble)
    assert [each.name for each in discovery.find(cluster, complete=True)] == ["lb-0"]


def test_what_is_on_record_and_cannot_be_seen_is_hidden(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, UserError("no engine"))
    on_record(cluster, "worker-0", "container")
    assert [each.name for each in discovery.find(cluster)] == ["lb-0"]
    with pytest.raises(UserError, match="nothing was done: no engine"):
        discovery.find(cluster, complete=True)


@pytest.mark.parametrize(("driver", "asked"), [("container", 1), ("lb", 0)])
def test_an_engine_is_asked_only_for_what_is_on_record(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, driver: str, asked: int
) -> None:
    near, far = use(monkeypatch)
    on_record(cluster, "worker-0", driver)
    discovery.find(cluster, recorded=True)
    assert (near.asked, far.asked) == (1, asked)


def test_each_ends_its_own_in_order(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = use(monkeypatch)
    found = [orphan("worker-0", "container"), orphan("lb-0", "lb")]
    assert list(discovery.end(cluster, found, Engines(), 0)) == ["lb-0", "worker-0"]
    assert (near.ended, far.ended) == ([found[1]], [found[0]])


def test_a_signal_goes_through_the_replicas_own_finder(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch)
    with pytest.raises(UserError, match="worker-0 got 9"):
        discovery.kill(cluster, "worker-0", 9)
    with pytest.raises(UserError, match="no such replica runs"):
        discovery.kill(cluster, "worker-9", 9)
