"""From one supervisor to the next: nothing that serves ends before what takes its place is ready.

Whatever runs and can be talked to is adopted as it is. What then turns out to be made by another config or version is rolled once all is
ready, as `restart` does it. From a load balancer that cannot be talked to its listening socket is inherited; it is ended when its
heir accepts. Only what is in the way (a dead container, a worker of another kind on a wanted port) goes first.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import docker

from comet import adopt, expand, orphans
from comet.adopt import Adoption, Heritage
from comet.cluster import Cluster
from comet.config import Config
from comet.errors import UserError
from comet.events import Event
from comet.fleet import Fleet
from comet.interruptible import Interruptible
from comet.operations import Operations
from comet.orphans import Orphan
from comet.supervise import Enlisted
from comet.traffic import SLOTS


class Succession:
    """One `run` taking over; `begin`, and `complete` when all replicas are ready."""

    def __init__(self, fleet: Fleet, cluster: Cluster, config: Config, wait: Interruptible, step: Callable[[str], None]) -> None:
        self._fleet = fleet
        self._cluster = cluster
        self._config = config
        self._wait = wait
        self._step = step
        self._adoptions: list[Adoption] = []
        self._later: tuple[Orphan, ...] = ()

    async def begin(self, found: list[Orphan], members: list[Enlisted], client: docker.DockerClient | None) -> list[Enlisted]:
        """Adopt, inherit, end what is in the way; returns the members that have to be started."""
        fleet, host = self._fleet, self._config.load_balancer_host
        self._mend_id()
        records = fleet.state.read()
        if fleet.state.damage is not None:
            fleet.tell(Event("state_unreadable", None, {"reason": fleet.state.damage}))
        for record in adopt.reused(records.values()):
            fleet.tell(Event("pid_reused", record.name, {"pid": record.pid}))
        of_lb = [member for member in members if member.spec.driver == "lb"]
        of_worker = [member for member in members if member.spec.driver != "lb"]
        balancers = await self._wait.blocking(lambda: adopt.balancers(self._cluster, host, of_lb, found, records))
        if self._config.runtime == "swarm":
            # The swarm keeps them whatever we do, and ends those that are too many when it is told how many there are to be.
            adopted = adopt.tasks(of_worker, found, records)
            found = [orphan for orphan in found if not orphan.is_of_swarm]
        else:
            adopted = adopt.workers(of_worker, found, records)
        self._adoptions = [*adopted, *balancers]
        # Workers first, and each is in the table at once: a load balancer is told its upstreams as soon as it is adopted.
        fleet.router.limit(expand.in_flight_share(self._config))
        for adoption in self._adoptions:
            fleet.adopt(adoption)
            fleet.supervisor.publish()
        heirs = adopt.heirs(host, of_lb, found, records, balancers)
        left = adopt.leftovers(found, self._adoptions, heirs, [member.spec.port for member in members])
        await self._end(left.before, client)
        self._later = left.after
        for name, heritage in heirs.items():
            fleet.listeners.hold(name, heritage.listener)
        return _fresh(members, self._adoptions, heirs)

    def _mend_id(self) -> None:
        try:
            for name in self._cluster.mend_id():
                self._fleet.tell(Event("state_unreadable", None, {"reason": "not understood", "file": name}))
        except OSError as error:
            self._fleet.tell(Event("state_unwritable", None, {"reason": error.strerror}))

    async def complete(self, operations: Operations, client: docker.DockerClient | None) -> None:
        """Roll what is stale; it serves on where its replacement does not become ready. End what was still of use until now."""
        stale = [adoption.member.spec.name for adoption in self._adoptions if adoption.stale]
        if stale:
            self._step(f"replacing {', '.join(stale)}: made by another config or version")
            try:
                await self._wait.outcome(operations.renew(stale))
            except UserError as error:
                self._step(f"{error.message}; the old ones serve on")
        await self._end(self._later, client)

    async def _end(self, left: Iterable[Orphan], client: docker.DockerClient | None) -> None:
        rest = list(left)
        if rest:
            self._step(f"ending {len(rest)} leftovers of an earlier supervisor")
            if client is None or self._config.runtime == "swarm":
                client = await self._wait.blocking(lambda: orphans.client_for(rest))
            grace = self._config.shutdown_grace
            await self._wait.blocking(lambda: list(orphans.end(self._cluster, rest, client, grace)))


def _fresh(members: Iterable[Enlisted], adoptions: Iterable[Adoption], heirs: Mapping[str, Heritage]) -> list[Enlisted]:
    adopted = {adoption.member.spec.name for adoption in adoptions}
    return [_beside(member, heirs.get(member.spec.name)) for member in members if member.spec.name not in adopted]


def _beside(member: Enlisted, heritage: Heritage | None) -> Enlisted:
    """An heir must not write the counters that the one before it still writes."""
    launch, name = member.spec.launch, member.spec.name
    if heritage is None or heritage.counters not in (None, launch.counters):
        return member
    other = next(file for slot in reversed(SLOTS) if (file := f"{name}.{slot}.counters") != launch.counters)
    return replace(member, spec=replace(member.spec, launch=replace(launch, counters=other)))
