"""Whole takeovers of random predecessors against the fake driver: what serves ends only when its replacement is ready,
nothing is started twice, and what is wanted comes about.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comet.config.chosen_ports import ChosenPorts
from comet.config.schema import Config, parse
from comet.reconcile.observations import Ready
from comet.reconcile.replica import ManagedReplica, State, public_name
from comet.runtimes.interface import RenderContext
from comet.runtimes.orphan import Orphan
from comet.runtimes.replica_records import Record
from comet.state.directory import Cluster, Owner
from comet.statistics.database import Access
from comet.supervisor import operations, rolling_update, takeover
from comet.supervisor.takeover import Takeover
from tests.support.fake_driver import healthy, slow
from tests.support.fake_runtime import FakeFleet
from tests.support.fakes import SupervisorHarness

pytestmark = pytest.mark.slow  # Random histories, and many of them.

T = TypeVar("T")
FOLDER = Path("/nowhere")
CONFIG = parse(
    "worker: 3\npool: 2\nruntime: process\nload-balancer-port: 5050\nworker-port: 6000\nadmin-port: 0\n",
    FOLDER / "config.yaml",
)
NAMES = ("worker-0", "worker-1", "worker-2", "worker-3", "lb-0", "lb-1", "lb-2")


@dataclass(frozen=True)
class Left:
    """What of a replica an earlier supervisor left: whether it runs and is on record, and how it was made."""

    runs: bool
    recorded: bool
    state: str
    stale: bool
    moved: bool


left_behind = st.builds(
    Left,
    runs=st.booleans(),
    recorded=st.booleans(),
    state=st.sampled_from(["ready", "starting", "unhealthy", "stopping", "backoff"]),
    stale=st.booleans(),
    moved=st.booleans(),
)


class Wait:
    """What stands in for the waits of a run: a history has one thread, and no stop."""

    async def outcome(self, work: Awaitable[T]) -> T:
        return await work

    async def blocking(self, work: Callable[[], T]) -> T:
        return work()


class Succession:
    """One run that takes over `former`; the load balancers in `mute` do not answer."""

    def __init__(self, former: dict[str, Left], mute: frozenset[str], script: Any) -> None:
        self.harness = SupervisorHarness(script=script)
        self.fleet = FakeFleet(self.harness)
        self.fleet.balancers.mute = mute  # type: ignore[attr-defined]
        context = RenderContext(Cluster(FOLDER), Access({}), Owner(0, 0))
        self.members = self.fleet.members(CONFIG, context)
        self.found: list[Orphan] = []
        self.records: dict[str, Record] = {}
        every = self.fleet.members(replace(CONFIG, worker=4, pool=3), context)
        for number, (name, left) in enumerate(former.items()):
            self._leave(every[name], left, 100 + number)
        self.ended: list[str] = []
        file = SimpleNamespace(read=lambda: self.records, damage=None)
        self.fleet.state = SimpleNamespace(file=file, enabled=False)  # type: ignore[assignment]
        cluster: Any = SimpleNamespace(repair_id=list)
        self.takeover = Takeover(self.fleet, cluster, CONFIG, Wait(), lambda text: None)  # type: ignore[arg-type]
        self.operations = operations.Operations(
            self.fleet, Cluster(FOLDER), CONFIG, CONFIG, context, ChosenPorts(Cluster(FOLDER))
        )

    def _leave(self, member: ManagedReplica, left: Left, pid: int) -> None:
        spec = member.spec
        port = spec.port + 1000 * left.moved
        fingerprint = "earlier" if left.stale else spec.launch.fingerprint
        if left.runs:
            self.found.append(
                Orphan(spec.name, spec.driver, spec.kind, pid, str(pid), port, 0.0, fingerprint=fingerprint)
            )
        if left.recorded:
            record = Record(
                spec.name, spec.role, spec.kind, spec.driver, port, left.state, 1, 0, pid, None, str(pid), None
            )
            self.records[spec.name] = replace(record, fingerprint=fingerprint)

    def end(self, cluster: Cluster, orphans: Iterable[Orphan], engines: object, grace: float) -> Iterator[str]:
        for orphan in orphans:
            assert orphan.name is not None
            wanted = self.members.get(orphan.name)
            successor = self.fleet.supervisor.replicas.get(orphan.name)
            if wanted is not None and orphan.port != wanted.spec.port:
                assert successor is not None, f"{orphan.name} was in nobody's way and has ended"
                assert successor.ready, f"{orphan.name} has ended before its successor is ready"
            self.ended.append(orphan.name)
            yield orphan.name

    async def play(self) -> None:
        not_adopted = await self.takeover.begin(self.found, list(self.members.values()))
        self.fleet.add(not_adopted)
        self.fleet.supervisor.tick()
        await self.fleet.supervisor.until(lambda replicas: all(each.was_ready for each in replicas.values()))
        await self.takeover.complete(self.operations)


@pytest.fixture(autouse=True)
def _no_effects() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for where, name, stand_in in (
            (operations, "_is_free", lambda host, port: True),
            (rolling_update.failure_report, "of", lambda cluster, replica, hint: replica.reason),
            (operations.fault_files, "write", lambda *arguments: None),
        ):
            stack.enter_context(mock.patch.object(where, name, stand_in))
        yield


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    former=st.dictionaries(st.sampled_from(NAMES), left_behind),
    mute=st.frozensets(st.sampled_from(["lb-0", "lb-1"])),
    script=st.sampled_from([healthy, slow]),
)
def test_a_takeover_of_whatever_was_left(former: dict[str, Left], mute: frozenset[str], script: Any) -> None:
    succession = Succession(former, mute, script)
    loop = asyncio.new_event_loop()
    with mock.patch.object(takeover.discovery, "end", succession.end):
        task = loop.create_task(succession.play())
        try:
            for _ in range(60):
                for _ in range(5):
                    loop.run_until_complete(asyncio.sleep(0))
                if task.done():
                    break
                for name, instance in list(succession.harness.driver.alive.items()):
                    succession.fleet.supervisor.observe(name, instance, Ready())
                succession.harness.time.advance(20)
            assert task.done()
            task.result()
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                loop.run_until_complete(task)
            loop.close()
    replicas = succession.fleet.supervisor.replicas
    assert set(replicas) == set(succession.members)
    assert {each.state for each in replicas.values()} == {State.READY}
    assert {name: each.spec.launch.fingerprint for name, each in replicas.items()} == {
        name: member.spec.launch.fingerprint for name, member in succession.members.items()
    }
    assert succession.harness.driver.doubled == []
    running = sorted(str(orphan.name) for orphan in succession.found)
    adopted = {event.replica for event in succession.harness.events if event.name == "adopted"}
    assert sorted([*adopted, *succession.ended]) == running  # Each is adopted or ended, once.
    assert {public_name(name) for name in replicas} == set(succession.members)


def _expected(former: Left, config: Config) -> bool:
    return former.runs and not former.moved and not (former.recorded and former.state == "stopping")


@pytest.mark.parametrize("state", ["ready", "stopping"])
@pytest.mark.parametrize("moved", [True, False])
def test_what_answers_at_its_port_is_adopted(state: str, moved: bool) -> None:
    left = Left(runs=True, recorded=True, state=state, stale=False, moved=moved)
    succession = Succession({"worker-0": left}, frozenset(), healthy)
    with mock.patch.object(takeover.discovery, "end", succession.end):
        asyncio.run(succession.play())
    adopted = {event.replica for event in succession.harness.events if event.name == "adopted"}
    assert adopted == ({"worker-0"} if _expected(left, CONFIG) else set())
