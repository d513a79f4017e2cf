"""Takes over what an earlier supervisor left; nothing that serves ends before its replacement is ready.

Every running replica that responds is adopted as it is. Adopted replicas of another config or version are rolled, as
`restart` does, once all are ready. From a load balancer that does not respond the new one inherits the listening
socket; the old one ends when the new one accepts. Only what is in the way (a dead container, a worker of another kind
on a wanted port) ends first.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from comet.common.errors import UserError, os_error_text
from comet.concurrency.cancellation import Interruptible
from comet.config.schema import Config
from comet.events.event import Event
from comet.host.process_identity import is_alive
from comet.reconcile.replica import ManagedReplica
from comet.runtimes import discovery
from comet.runtimes.adoption import Adoption, Inheritance
from comet.runtimes.interface import SingleRuntime
from comet.runtimes.orphan import Orphan
from comet.runtimes.replica_records import Record
from comet.state.directory import Cluster
from comet.supervisor.fleet import Fleet
from comet.supervisor.operations import Operations
from comet.workloads import builtin


@dataclass(frozen=True)
class Leftovers:
    """What is not adopted: `before` ends before the first start, `after` serves until its successors are ready."""

    before: tuple[Orphan, ...]
    after: tuple[Orphan, ...]


def leftovers(
    found: Iterable[Orphan], adopted: Iterable[Adoption], inherited: Iterable[Inheritance], ports: Iterable[int]
) -> Leftovers:
    """Sort what is not adopted: it may serve on if it holds none of the wanted `ports`, or its socket was inherited."""
    kept = {adoption.orphan.id for adoption in adopted}
    serving = {inheritance.orphan.id for inheritance in inherited}
    wanted = set(ports)
    rest = [orphan for orphan in found if orphan.id not in kept]
    later = [
        each
        for each in rest
        if each.id in serving or (each.running and each.name and each.port and each.port not in wanted)
    ]
    return Leftovers(tuple(each for each in rest if each not in later), tuple(later))


def reused_pids(records: Iterable[Record]) -> list[Record]:
    """Return records of dead processes whose PID belongs to another process now."""
    with_pid = [record for record in records if record.pid is not None and record.create_time is not None]
    return [
        each for each in with_pid if each.pid and is_alive(each.pid, None) and not is_alive(each.pid, each.create_time)
    ]


class Takeover:
    """The takeover of one `run`: call `begin`, then `complete` when all replicas are ready."""

    def __init__(
        self, fleet: Fleet, cluster: Cluster, config: Config, wait: Interruptible, step: Callable[[str], None]
    ) -> None:
        self._fleet = fleet
        self._cluster = cluster
        self._config = config
        self._wait = wait
        self._step = step
        self._adoptions: list[Adoption] = []
        self._outlived: tuple[Orphan, ...] = ()
        self.mounts_lost = False
        """Whether folders that workers have mounted were removed since: they do not see the new ones."""

    async def begin(self, found: list[Orphan], members: list[ManagedReplica]) -> list[ManagedReplica]:
        """Adopt, inherit sockets, and end what is in the way; return the replicas that have to be started."""
        fleet = self._fleet
        self._repair_id()
        records = fleet.state.file.read()
        if fleet.state.file.damage is not None:
            fleet.notify(Event("state_unreadable", None, {"reason": fleet.state.file.damage}))
        for record in reused_pids(records.values()):
            fleet.notify(Event("pid_reused", record.name, {"pid": record.pid}))
        members_of: dict[SingleRuntime, list[ManagedReplica]] = {runtime: [] for runtime in fleet.runtimes.values()}
        for member in members:
            members_of[fleet.runtimes[member.spec.driver]].append(member)
        adopting = [(runtime.adopting, each) for runtime, each in members_of.items() if runtime.adopting is not None]
        adoptions = await self._wait.blocking(
            lambda: [
                (runtime, adoption)
                for runtime, each in adopting
                for adoption in runtime.adoptable(each, found, records)
            ]
        )
        self._adoptions = [adoption for _, adoption in adoptions]
        # Workers come first, and each is in the routing table at once: a load balancer gets the table when it is
        # adopted.
        fleet.router.limit(builtin.in_flight_share(self._config))
        for runtime, adoption in adoptions:
            fleet.adopt(runtime, adoption)
            fleet.supervisor.publish()
        found = [orphan for orphan in found if not any(runtime.keeps(orphan) for runtime in fleet.runtimes.values())]
        adopted = {adoption.member.spec.name for adoption in self._adoptions}
        inherited = [
            inheritance
            for runtime, each in adopting
            for inheritance in runtime.inherit([it for it in each if it.spec.name not in adopted], found, records)
        ]
        left = leftovers(found, self._adoptions, inherited, [member.spec.port for member in members])
        await self._end_orphans(left.before)
        self._outlived = left.after
        heirs = {inheritance.member.spec.name: inheritance.member for inheritance in inherited}
        return [heirs.get(it.spec.name, it) for it in members if it.spec.name not in adopted]

    def _repair_id(self) -> None:
        try:
            for name in self._cluster.repair_id():
                self._fleet.notify(Event("state_unreadable", None, {"reason": "not understood", "file": name}))
        except OSError as error:
            self._fleet.notify(Event("state_unwritable", None, {"reason": os_error_text(error)}))

    async def complete(self, operations: Operations) -> None:
        """Roll stale replicas, which keep serving if their replacement fails; then end what is no longer needed."""
        cut_off = [
            each.member.spec.name
            for each in self._adoptions
            if self.mounts_lost and self._fleet.runtimes[each.member.spec.driver].is_upstream
        ]
        stale = [
            each.member.spec.name for each in self._adoptions if each.stale and each.member.spec.name not in cut_off
        ]
        if cut_off:
            self._step(f"replacing {', '.join(cut_off)}: folders that they use were removed")
        if stale:
            self._step(f"replacing {', '.join(stale)}: made by another config or version")
        if cut_off or stale:
            try:
                await self._wait.outcome(operations.replace_stale([*cut_off, *stale]))
            except UserError as error:
                self._step(f"{error.message}; the old ones serve on")
        await self._end_orphans(self._outlived)

    async def _end_orphans(self, left: Iterable[Orphan]) -> None:
        rest = list(left)
        if rest:
            self._step(f"ending {len(rest)} leftovers of an earlier supervisor")
            grace = self._config.shutdown_grace
            await self._wait.blocking(lambda: list(discovery.end(self._cluster, rest, self._fleet.engines, grace)))
