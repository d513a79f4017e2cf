"""Rolling updates: a replacement is ready before the old replica retires.

Where the replacement never becomes ready, the old replica stays and the operation fails.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import cast

from comet.common.errors import Busy, UserError
from comet.config.schema import Config
from comet.events.event import Event
from comet.reconcile.replica import FORMER_SUFFIX, NEXT_SUFFIX, ManagedReplica, Replica, State, Wanted, public_name
from comet.runtimes import failure_report
from comet.runtimes.interface import DelegatedRuntime, Replacement, Runtime, SingleRuntime
from comet.state.directory import Cluster
from comet.supervisor.fleet import Fleet

LOST_TIMEOUT = 10.0
"""Seconds for which an engine may be away during an operation, which ends then; what is to be removed goes later."""

LOST_POLL = 0.5
"""Seconds between two looks whether the engine is away."""

MAX_FAILED_STARTS = 3
"""Failed starts of a replacement in a row that end the operation."""


class RollingUpdate:
    """Replaces replicas of one fleet, on the loop's thread; UserError says why a replacement was undone."""

    def __init__(self, fleet: Fleet, cluster: Cluster) -> None:
        self._fleet = fleet
        self._cluster = cluster
        self._leaving: dict[asyncio.Task[None], list[str]] = {}
        """The names of replicas that are removed once their engine is back."""

    async def roll(
        self, config: Config, members: list[ManagedReplica], surge: Callable[[Collection[Runtime]], ManagedReplica]
    ) -> None:
        """Replace replicas, each as its runtime says.

        `surge` returns the one that serves next to the others, which one of the given runtimes runs.
        """
        groups: dict[Replacement, list[ManagedReplica]] = {way: [] for way in Replacement}
        for member in members:
            groups[self._runtime(member).replacement].append(member)
        if groups[Replacement.DELEGATED]:
            await self._delegate(groups[Replacement.DELEGATED])
        if groups[Replacement.SURGE]:
            beside = surge({self._runtime(member) for member in groups[Replacement.SURGE]})
            await self._replace_beside(config, groups[Replacement.SURGE], beside)
        for member in groups[Replacement.HAND_OVER]:
            await self._hand_over(member)

    async def _replace_beside(self, config: Config, members: list[ManagedReplica], extra: ManagedReplica) -> None:
        """Replace replicas one by one while an `extra` one serves."""
        self._fleet.notify(Event("surge_started", extra.spec.name, {"kind": extra.spec.kind}))
        await self.bring_up(config, [extra])
        replaced: list[ManagedReplica] = []
        try:
            for member in members:
                replaced.append(self._fleet.supervisor.managed(member.spec.name))
                await self._replace(member)
        except UserError:
            await self._roll_back(replaced)
            raise
        finally:
            await self.take_down([extra.spec.name])

    async def bring_up(self, config: Config, members: list[ManagedReplica]) -> None:
        """Start new replicas; if one does not become ready, remove all of them and raise UserError."""
        self.require_settled()
        self._fleet.listen(config, members)
        self._fleet.add(members)
        self._fleet.supervisor.tick()
        names = [member.spec.name for member in members]
        try:
            await self._until_ready(names)
        except UserError:
            await self.take_down(names)
            raise

    def require_settled(self) -> None:
        """Raise Busy while replicas of an earlier operation are to be removed."""
        if self._leaving:
            names = ", ".join(public_name(name) for each in self._leaving.values() for name in each)
            raise Busy(f"{names}: still to be removed, as the engine was away; try again")

    async def take_down(self, names: list[str]) -> None:
        """Stop replicas and stop supervising them.

        Where their engine is away for LOST_TIMEOUT seconds, a task of their own goes on with it, and UserError says so.
        """
        self._fleet.supervisor.want(names, Wanted.DOWN)
        removal = asyncio.ensure_future(self._remove(names))
        try:
            reason = await self._until_away(names, removal)
        except asyncio.CancelledError:
            removal.cancel()
            raise
        if reason:
            self._leaving[removal] = names
            removal.add_done_callback(self._leaving.pop)
            raise UserError(f"{reason} ({', '.join(map(public_name, names))}: removed when it is back)")
        await removal

    async def _until_away(self, names: list[str], work: asyncio.Future[None]) -> str:
        """Return "" once `work` is done, or why the replicas' engine is away, after LOST_TIMEOUT seconds of that."""
        away, clock = 0.0, asyncio.get_running_loop().time
        while not (await asyncio.wait([work], timeout=LOST_POLL))[0]:
            reason = self._reason_away(names)
            away = (away or clock()) if reason else 0.0
            if reason and clock() - away > LOST_TIMEOUT:
                return reason
        return ""

    async def _remove(self, names: list[str]) -> None:
        supervisor = self._fleet.supervisor
        await supervisor.until(lambda replicas: all(replicas[name].state is State.STOPPED for name in names))
        for name in names:
            supervisor.remove(name)
        self._fleet.traffic.forget(names)

    def _reason_away(self, names: list[str]) -> str:
        """Return why the engine of replicas that still run can do nothing for them; nothing where it can."""
        replicas = self._fleet.supervisor.replicas
        try:
            for name in names:
                if name in replicas and replicas[name].state is not State.STOPPED:
                    self._fleet.runtime_of(replicas[name]).require_orders()
        except UserError as error:
            return error.message
        return ""

    async def _delegate(self, members: list[ManagedReplica]) -> None:
        """Let the runtime replace all; roll back if replicas that it considers healthy never become ready."""
        supervisor, runtime = self._fleet.supervisor, cast(DelegatedRuntime, self._runtime(members[0]))
        former = [supervisor.managed(member.spec.name) for member in members]
        await runtime.roll(members[0])
        for member in members:
            supervisor.update_spec(member)
        try:
            await self._until_ready([member.spec.name for member in members])
        except UserError as error:
            if former[0].spec.launch == members[0].spec.launch:
                raise
            await runtime.roll_back(members[0])
            for member in former:
                supervisor.update_spec(member)
            raise UserError(f"the swarm went back to the former version: {error.message}") from None

    async def _replace(self, member: ManagedReplica) -> None:
        self._fleet.supervisor.restart(member.spec.name, member)
        await self._until_ready([member.spec.name])

    async def _roll_back(self, former: list[ManagedReplica]) -> None:
        """Restore replicas that were already replaced, while the surge replica still serves."""
        for member in reversed(former):
            if self._fleet.supervisor.replicas[member.spec.name].spec != member.spec:
                with suppress(UserError):  # If the old version does not start either, it is retried like any crash.
                    await self._replace(member)

    async def _hand_over(self, member: ManagedReplica) -> None:
        """Start a successor on the same socket; once it accepts, drain the old one."""
        supervisor, name = self._fleet.supervisor, member.spec.name
        former = supervisor.replicas[name]
        successor = replace(self._runtime(member).successor(former.spec, member.spec), name=name + NEXT_SUFFIX)
        supervisor.add(ManagedReplica(successor), Replica(successor, instance=former.instance))
        supervisor.tick()
        try:
            await self._until_ready([successor.name])
        except UserError:
            await self.take_down([successor.name])
            raise
        supervisor.rename(name, name + FORMER_SUFFIX)
        supervisor.rename(successor.name, name)
        drained = name + FORMER_SUFFIX
        supervisor.succeed(name, drained)
        supervisor.want([drained], Wanted.DOWN)
        await supervisor.until(lambda replicas: replicas[drained].state is State.STOPPED)
        supervisor.succeed(name, drained)  # Its exit is known now.
        await self.take_down([drained])

    def _runtime(self, member: ManagedReplica) -> SingleRuntime:
        return self._fleet.runtimes[member.spec.driver]

    async def _until_ready(self, names: Iterable[str]) -> None:
        wanted = list(names)

        def is_decided(replicas: Mapping[str, Replica]) -> bool:
            return all(replicas[name].ready for name in wanted) or any(_hopeless(replicas[name]) for name in wanted)

        decision = asyncio.ensure_future(self._fleet.supervisor.until(is_decided))
        try:
            reason = await self._until_away(wanted, decision)
        finally:
            decision.cancel()
        if reason:
            raise UserError(reason)
        await decision
        for name in wanted:
            replica = self._fleet.supervisor.replicas[name]
            if not replica.ready and _hopeless(replica):
                hint = self._fleet.runtime_of(replica).port_hint
                report = await asyncio.to_thread(failure_report.of, self._cluster, replica, hint)
                raise UserError(f"{public_name(name)}: the replacement does not become ready: {report}")


def _hopeless(replica: Replica) -> bool:
    return replica.failures >= MAX_FAILED_STARTS or replica.start_timed_out
