"""How replicas are replaced: what takes a place is ready before what had it is retired; where it never becomes ready nothing is lost."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace

from comet import lastwords
from comet.cluster import Cluster
from comet.config import Config
from comet.drivers.forkserver import LbLaunch
from comet.drivers.swarm import SwarmDriver
from comet.errors import UserError
from comet.fleet import Fleet
from comet.replica import FORMER, NEXT, Replica, State, Wanted, public_name
from comet.servicespec import ServiceLaunch
from comet.supervise import Enlisted
from comet.traffic import SLOTS

HOPELESS_AFTER = 3
"""So many failed starts in a row of a replacement end the operation."""


class Replacer:
    """Of one fleet; on the loop's thread. All that it begins it ends, or takes back: UserError says why."""

    def __init__(self, fleet: Fleet, cluster: Cluster) -> None:
        self._fleet = fleet
        self._cluster = cluster

    async def roll(self, config: Config, members: list[Enlisted], surge: Callable[[], Enlisted]) -> None:
        """Replace these one by one: processes that share a socket by succession, all others behind what `surge` makes."""
        shared = [member for member in members if isinstance(member.spec.launch, LbLaunch)]
        together = [member for member in members if isinstance(member.spec.launch, ServiceLaunch)]
        others = [member for member in members if member not in shared and member not in together]
        if together and self._fleet.swarm is not None:
            await self._roll_service(self._fleet.swarm, together)
        if others:
            extra = surge()
            await self.bring_up(config, [extra])
            replaced: list[Enlisted] = []
            try:
                for member in others:
                    replaced.append(self._fleet.supervisor.enlisted(member.spec.name))
                    await self._replace(member)
            except UserError:
                await self._roll_back(replaced)
                raise
            finally:
                await self.take_down([extra.spec.name])
        for member in shared:
            await self._succeed(member)

    async def bring_up(self, config: Config, members: list[Enlisted]) -> None:
        """Start new replicas; if one does not become ready, all of them are taken away again."""
        self._fleet.listen(config, members)
        self._fleet.enlist(members)
        self._fleet.supervisor.tick()
        names = [member.spec.name for member in members]
        try:
            await self._until_ready(names)
        except UserError:
            await self.take_down(names)
            raise

    async def take_down(self, names: list[str]) -> None:
        """Stop these and forget them."""
        supervisor = self._fleet.supervisor
        supervisor.want(names, Wanted.DOWN)
        await supervisor.until(lambda replicas: all(replicas[name].state is State.STOPPED for name in names))
        for name in names:
            supervisor.dismiss(name)

    async def _roll_service(self, swarm: SwarmDriver, members: list[Enlisted]) -> None:
        """Have the swarm replace the tasks of its service, and go back where those that it takes for well never become ready."""
        supervisor = self._fleet.supervisor
        former = [supervisor.enlisted(member.spec.name) for member in members]
        await swarm.roll(members[0].spec.launch, members[0].spec.start_timeout)
        for member in members:
            supervisor.respec(member)
        try:
            await self._until_ready([member.spec.name for member in members])
        except UserError as error:
            if former[0].spec.launch == members[0].spec.launch:
                raise
            await swarm.go_back(members[0].spec.start_timeout)
            for member in former:
                supervisor.respec(member)
            raise UserError(f"the swarm went back to the former version: {error.message}") from None

    async def _replace(self, member: Enlisted) -> None:
        self._fleet.supervisor.recycle(member.spec.name, member)
        await self._until_ready([member.spec.name])

    async def _roll_back(self, former: list[Enlisted]) -> None:
        """Make those that a roll got to what they were before it, the surge replica still beside them."""
        for member in reversed(former):
            if self._fleet.supervisor.replicas[member.spec.name].spec != member.spec:
                with suppress(UserError):  # What they were may not start any more either: then they are tried again like any crash.
                    await self._replace(member)

    async def _succeed(self, member: Enlisted) -> None:
        """A successor on the same socket; once it accepts, the old one drains."""
        supervisor, name = self._fleet.supervisor, member.spec.name
        former = supervisor.replicas[name]
        slot = next(each for each in SLOTS if f"{name}.{each}.counters" != former.spec.launch.counters)
        launch = replace(member.spec.launch, counters=f"{name}.{slot}.counters")
        heir = replace(member.spec, name=name + NEXT, launch=launch)
        supervisor.enlist(Enlisted(heir), Replica(heir, instance=former.instance))
        supervisor.tick()
        try:
            await self._until_ready([heir.name])
        except UserError:
            await self.take_down([heir.name])
            raise
        supervisor.rename(name, name + FORMER)
        supervisor.rename(heir.name, name)
        await self.take_down([name + FORMER])

    async def _until_ready(self, names: Iterable[str]) -> None:
        wanted = list(names)

        def settled(replicas: Mapping[str, Replica]) -> bool:
            return all(replicas[name].ready for name in wanted) or any(_hopeless(replicas[name]) for name in wanted)

        await self._fleet.supervisor.until(settled)
        for name in wanted:
            replica = self._fleet.supervisor.replicas[name]
            if not replica.ready and _hopeless(replica):
                told = await asyncio.to_thread(lastwords.of, self._cluster, replica)
                raise UserError(f"{public_name(name)}: the replacement does not become ready: {told}")


def _hopeless(replica: Replica) -> bool:
    return replica.failures >= HOPELESS_AFTER or replica.reason.startswith("not ready within")
