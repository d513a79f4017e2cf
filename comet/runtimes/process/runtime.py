"""The runtime of workers that are OS processes."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from comet.config.schema import Config
from comet.host import confinement, port_owners
from comet.host.sockets import duplicate_listener
from comet.reconcile.observations import Endpoint
from comet.reconcile.replica import ManagedReplica, Replica, ReplicaSpec
from comet.runtimes.adoption import Adoption, running_workers
from comet.runtimes.cluster_processes import WORKER_DRIVER
from comet.runtimes.interface import AdoptingRuntime, RenderContext, RunServices
from comet.runtimes.orphan import Orphan
from comet.runtimes.process import memory_limits, render
from comet.runtimes.process.driver import Launched, ProcessDriver
from comet.runtimes.process.exec_launcher import ExecLauncher
from comet.runtimes.replica_records import Record
from comet.state.directory import worker_owner
from comet.statistics import access
from comet.statistics.database import Access, Place, Server


class ProcessRuntime(AdoptingRuntime):
    driver_name, kind = WORKER_DRIVER, "process"
    trims_logs = True
    driver: ProcessDriver

    def __init__(self, run: RunServices) -> None:
        super().__init__(run)
        self.launcher = ExecLauncher(run.cluster, run.listeners, run.notify)
        self.driver = ProcessDriver(run.loop, run.sink, self.launcher)

    async def prepare(self, where: Place | Server | None) -> RenderContext:
        cluster, owner = self.run.cluster, worker_owner()
        database = Access({}) if where is None else access.by_process(where, cluster, owner)
        return RenderContext(cluster, database, owner)

    def open(self) -> None:
        return

    @classmethod
    def render(cls, config: Config, context: RenderContext, index: int) -> ManagedReplica:
        return render.worker(config, context, index)

    def held_socket(self, config: Config, spec: ReplicaSpec) -> tuple[str, int, bool] | None:
        return (*spec.launch.listen, True) if spec.launch.listen is not None else None

    def adoptable(
        self, members: Sequence[ManagedReplica], found: Iterable[Orphan], records: Mapping[str, Record]
    ) -> list[Adoption]:
        """Return the workers that run; a listening socket that one was given is duplicated from it."""
        running = map(_with_listener, running_workers(members, found, records))
        return [adoption for adoption in running if adoption is not None]

    def adopt(self, adoption: Adoption, replica: Replica) -> None:
        assert replica.pid is not None
        if adoption.listener is not None:
            self.run.listeners.hold(replica.name, adoption.listener)
        group = memory_limits.group_of(replica.pid, self.run.cluster.id or "")
        # It is not a child of this process: its pidfd reports its death, but its exit status is unavailable.
        launched = Launched(replica.pid, lambda: None, group=group, leads_session=True)
        self.driver.watch(replica.spec, replica.instance, launched)

    def keeps_mounts(self, spec: ReplicaSpec) -> bool:
        return bool(spec.launch.needs) and os.getuid() == 0 and spec.launch.owner.uid != 0

    def has_lost_access(self, replica: Replica) -> bool:
        spec = replica.spec
        if not self.keeps_mounts(spec) or not replica.alive or replica.pid is None:
            return False
        return confinement.denies_access(replica.pid, spec.launch.needs, spec.launch.owner)

    def port_conflict(self, replica: Replica, endpoint: Endpoint) -> str:
        if replica.pid is None or replica.spec.launch.listen:
            return ""
        conflict = port_owners.port_conflict(replica.pid, replica.name, endpoint.host, endpoint.port)
        if conflict or replica.was_ready:
            return conflict
        if port_owners.goes_to_background(replica.pid):
            return port_owners.left_in_background(endpoint.port, "a process")
        # If it has ended since, its children are no longer seen to be its own.
        return port_owners.port_conflict(replica.pid, replica.name, endpoint.host, endpoint.port)

    def port_hint(self, replica: Replica) -> str:
        ended_well = replica.last_exit is not None and replica.last_exit.code == 0
        if ended_well or self.launcher.leaves_background(replica.spec):
            return port_owners.FOREGROUND
        pid, port = replica.pid, replica.spec.port
        return port_owners.port_conflict(pid, replica.name, None, port) if pid is not None else port_owners.taken(port)

    def record(self, replica: Replica) -> dict[str, Any]:
        created, begun = self.driver.times(replica.name)
        return {"create_time": created, "begun": begun}

    @property
    def awaited_pids(self) -> set[int]:
        return self.driver.pids


def _with_listener(adoption: Adoption) -> Adoption | None:
    """Return the adoption with the listening socket that the worker was given; None where that cannot be had."""
    listen, pid = adoption.member.spec.launch.listen, adoption.orphan.pid
    if listen is None or pid is None:
        return adoption
    listener = duplicate_listener(pid, *listen)
    return None if listener is None else replace(adoption, listener=listener)


RUNTIME = ProcessRuntime
