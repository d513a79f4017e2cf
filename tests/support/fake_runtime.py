"""A fleet without processes: its runtimes start nothing, over one fake driver."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

from comet.config.schema import Config
from comet.reconcile.replica import ManagedReplica, Replica, ReplicaSpec
from comet.runtimes.adoption import Adoption, Inheritance, running_workers
from comet.runtimes.interface import AdoptingRuntime, RenderContext, Replacement, Runtime, SingleRuntime
from comet.runtimes.orphan import Orphan
from comet.runtimes.replica_records import Record
from comet.supervisor.fleet import Fleet
from comet.workloads import builtin
from tests.support.fakes import SupervisorHarness


@dataclass(frozen=True)
class FakeLaunch:
    """What a replica is made of: the part of the config that makes it stale when it changes."""

    memory: int
    fingerprint: str = ""
    slot: str = "a"


class FakeRuntime(AdoptingRuntime):
    """Runs workers as the harness's driver says."""

    driver_name, kind = "worker-process", "process"

    def __init__(self, harness: SupervisorHarness) -> None:
        super().__init__(SimpleNamespace())  # type: ignore[arg-type]
        self.driver = harness.driver
        self.harness = harness
        self.adopted: list[str] = []

    def open(self) -> None:
        return

    @classmethod
    def render(cls, config: Config, context: RenderContext, index: int) -> ManagedReplica:
        launch = builtin.with_fingerprint(FakeLaunch(config.worker_memory), config.port("worker", index))
        member = builtin.worker(config, index, cls.kind, cls.driver_name, launch)
        return replace(member, probe=None)  # The script of the driver says when it is ready.

    def adoptable(
        self, members: Sequence[ManagedReplica], found: Iterable[Orphan], records: Mapping[str, Record]
    ) -> list[Adoption]:
        return running_workers(members, found, records)

    def adopt(self, adoption: Adoption, replica: Replica) -> None:
        self.adopted.append(replica.name)
        self.harness.driver.alive[replica.name] = replica.instance


class FakeBalancers(FakeRuntime):
    """Runs load balancers; those in `mute` do not answer, so that their sockets are inherited."""

    driver_name = "lb"
    replacement = Replacement.HAND_OVER
    is_upstream = False
    mute: frozenset[str] = frozenset()

    @classmethod
    def render(cls, config: Config, context: RenderContext, index: int) -> ManagedReplica:
        launch = FakeLaunch(0, fingerprint="code")
        port = config.port("lb", index)
        return ManagedReplica(ReplicaSpec(f"lb-{index}", "lb", cls.kind, cls.driver_name, port, 1, launch=launch))

    def address(self, config: Config, spec: ReplicaSpec) -> tuple[str, int] | None:
        return config.load_balancer_host, spec.port

    def adoptable(
        self, members: Sequence[ManagedReplica], found: Iterable[Orphan], records: Mapping[str, Record]
    ) -> list[Adoption]:
        answering = [orphan for orphan in found if orphan.name not in self.mute]
        return running_workers(members, answering, records)

    def inherit(
        self, members: Sequence[ManagedReplica], found: Iterable[Orphan], records: Mapping[str, Record]
    ) -> list[Inheritance]:
        running = {orphan.name: orphan for orphan in found if orphan.driver == self.driver_name}
        heirs = [member for member in members if member.spec.name in running]
        return [Inheritance(member, running[member.spec.name]) for member in heirs]

    def must_roll(self, before: ReplicaSpec, after: ReplicaSpec) -> bool:
        return False

    def successor(self, former: ReplicaSpec, spec: ReplicaSpec) -> ReplicaSpec:
        slot = "b" if former.launch.slot == "a" else "a"
        return replace(spec, launch=replace(spec.launch, slot=slot))


class FakeFleet(Fleet):
    """A fleet over a harness, with one runtime of workers or several parts of one."""

    def __init__(self, harness: SupervisorHarness, workers: Runtime | None = None) -> None:
        self.harness = harness
        self.notify = harness.events.append
        self.supervisor = harness.supervisor
        self.workers = workers or FakeRuntime(harness)
        self.balancers: SingleRuntime = FakeBalancers(harness)
        self.runtimes = {each.driver_name: each for each in (*self.workers.parts, self.balancers)}
        self.supervisor.drivers = dict.fromkeys(self.runtimes, harness.driver)
        nothing: Any = SimpleNamespace(
            limit=lambda share: None, restart_rates=lambda: None, watch=lambda *arguments: None, watchdog_timeout=0.0
        )
        self.router = self.prober = nothing
        self.traffic: Any = SimpleNamespace(paused=False, forget=lambda names: None)
        self.snapshots: Any = SimpleNamespace(meter=nothing)
        self.engines: Any = None

    def listen(self, config: Config, members: Iterable[ManagedReplica]) -> None:
        return
