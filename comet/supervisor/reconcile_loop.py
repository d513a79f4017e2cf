"""The supervisor's loop, which alone changes the state of replicas.

Observations and commands come in, `react` and `plan` (pure) decide what follows, and drivers carry it out. Nothing here
waits: a driver begins an action and reports its outcome later. A tick runs after every observation and at every
deadline, so the supervisor answers a death at once and does nothing while idle.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from signal import SIGKILL

from comet.balancers.router import Router
from comet.balancers.routing_table import table
from comet.events.event import Event
from comet.reconcile.driver_interface import Driver
from comet.reconcile.observations import (
    Endpoint,
    Exited,
    Lost,
    Observation,
    Replaced,
    Started,
    StartFailed,
    Unreachable,
)
from comet.reconcile.planner import Action, Verb, begin_stop, next_deadline, plan
from comet.reconcile.replica import ManagedReplica, Replica, Stage, State, Wanted, located
from comet.reconcile.transitions import Now, react
from comet.supervisor.readiness import ReadinessProbe

LOST_GRACE = 15.0
"""Seconds to wait for the details of a death; after them it counts as a death without details."""


class Supervisor:
    """Keeps its replicas as they are wanted. All methods run on the loop's thread."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        notify: Callable[[Event], None],
        clock: Callable[[], float] = time.monotonic,
        spread: Callable[[], float] = lambda: random.uniform(-1, 1),
    ) -> None:
        self._loop = loop
        self._notify = notify
        self._clock = clock
        self._spread = spread
        self._timer: asyncio.TimerHandle | None = None
        self._ticking = False
        self._tick_again = False
        self._probes: dict[str, tuple[str, str | None]] = {}
        self._endpoints: dict[str, Endpoint] = {}
        self._changed = asyncio.Event()
        self.replicas: dict[str, Replica] = {}
        self.changed: Callable[[], None] = lambda: None
        # Set before the first replica is added; making them needs `observe`.
        self.drivers: Mapping[str, Driver] = {}
        self.router: Router | None = None
        self.prober: ReadinessProbe | None = None

    def add(self, member: ManagedReplica, replica: Replica | None = None) -> None:
        """Supervise a replica from the next tick on, wanted UP; `replica` is its current state if it is adopted."""
        self.replicas[member.spec.name] = replica or Replica(member.spec, since=self._clock())
        if member.probe is not None:
            self._probes[member.spec.name] = member.probe, member.health_host
        if member.endpoint is not None:
            self._endpoints[member.spec.name] = member.endpoint

    def observe(self, name: str, instance: int | None, observation: Observation) -> None:
        """Apply an observation; ignore those of earlier instances and of unknown replicas."""
        replica = self.replicas.get(name)
        if replica is None or instance not in (None, replica.instance):
            return
        after, events = react(replica, observation, Now(self._clock(), self._spread()))
        self.replicas[name] = after
        for event in events:
            self._notify(event)
        self._probe(after, observation)
        if isinstance(observation, Lost) and after.lost:
            self._loop.call_later(LOST_GRACE, self._on_lost_timeout, name, after.instance)
        if after.unreachable and self.router is not None and isinstance(observation, Unreachable):
            self.router.mark_suspect(name, after.unreachable)
        if after is not replica:
            self.tick()

    def _on_lost_timeout(self, name: str, instance: int) -> None:
        replica = self.replicas.get(name)
        if replica is not None and replica.lost:
            self.observe(name, instance, Exited())

    def want(self, names: Iterable[str], wanted: Wanted) -> None:
        for name in names:
            self.replicas[name] = replace(self.replicas[name], wanted=wanted)
        self.tick()

    def stop_now(self) -> None:
        """Kill all living replicas at once and remove what is left."""
        for name, replica in self.replicas.items():
            if replica.state is not State.STOPPED:
                stage = Stage.KILL if replica.alive else Stage.REMOVE
                self.replicas[name], action = begin_stop(replace(replica, wanted=Wanted.DOWN), self._clock(), stage)
                self._act(action)
        self.tick()

    def restart(self, name: str, member: ManagedReplica | None = None) -> None:
        """Restart a replica on purpose, as `member` describes it if given; does not count as a crash."""
        if member is not None:
            self.update_spec(member)
        replica = replace(self.replicas[name], failures=0, reason="", start_timed_out=False)
        if replica.state is State.STOPPING:
            return
        if replica.state is State.BACKOFF:
            self.replicas[name], action = begin_stop(replica, self._clock(), Stage.REMOVE)
        else:
            self.replicas[name], action = begin_stop(replica, self._clock())
        self.tick_with(action)

    def update_spec(self, member: ManagedReplica) -> None:
        """Change the description of a replica; it applies from the next start on."""
        name = member.spec.name
        self.replicas[name] = replace(self.replicas[name], spec=member.spec)
        if member.probe is not None:
            self._probes[name] = member.probe, member.health_host
        if member.endpoint is not None:
            self._endpoints[name] = member.endpoint

    def managed(self, name: str) -> ManagedReplica:
        """Return the current description of a replica."""
        url, host = self._probes.get(name, (None, None))
        return ManagedReplica(self.replicas[name].spec, url, self._endpoints.get(name), host)

    def rename(self, former: str, name: str) -> None:
        """Rename a replica, also in its driver."""
        replica = self.replicas.pop(former)
        self.drivers[replica.spec.driver].rename(former, name)
        self.replicas[name] = replace(replica, spec=replace(replica.spec, name=name))

    def succeed(self, name: str, former: str) -> None:
        """Let a replica that took over another one's name go on with its count of restarts, and have its last exit.

        One that has died since has an exit of its own.
        """
        before, now = self.replicas[former], self.replicas[name]
        if now.restarts <= before.restarts:
            self.replicas[name] = replace(now, restarts=before.restarts, last_exit=before.last_exit)

    def remove(self, name: str) -> None:
        """Forget a replica that has stopped."""
        assert self.replicas[name].state is State.STOPPED
        del self.replicas[name]
        self._probes.pop(name, None)
        self._endpoints.pop(name, None)
        self.tick()

    def tick_with(self, *actions: Action) -> None:
        """Inform the load balancers, carry out the actions of a command, then tick."""
        self.publish()
        for action in actions:
            self._act(action)
        self.tick()

    async def until(self, condition: Callable[[Mapping[str, Replica]], bool]) -> None:
        """Return when the condition holds for the replicas."""
        while not condition(self.replicas):
            self._changed.clear()
            await self._changed.wait()

    def tick(self) -> None:
        """Do everything that is due. A driver that reports during the call causes one more round."""
        self._tick_again = True
        if self._ticking:
            return
        self._ticking = True
        try:
            while self._tick_again:
                self._tick_again = False
                made = plan(self.replicas, self._clock())
                self.replicas.update(made.replicas)
                self.publish()
                for event in made.events:
                    self._notify(event)
                for action in made.actions:
                    self._act(action)
        finally:
            self._ticking = False
        self.changed()
        self._changed.set()
        self._set_timer()

    def publish(self) -> None:
        """Send the current routing table to the load balancers."""
        if self.router is not None:
            self.router.publish(table(self.replicas.values(), self._endpoints))

    def _act(self, action: Action) -> None:
        replica = self.replicas[action.name]
        driver = self.drivers[replica.spec.driver]
        if action.verb is not Verb.START and replica.wanted is Wanted.DOWN:
            driver.release(action.name)
        if action.verb is Verb.START:
            driver.start(replica.spec, replica.instance)
        elif action.verb is Verb.DRAIN:
            driver.drain(action.name)
        elif action.verb is Verb.TERMINATE:
            driver.terminate(action.name)
        elif action.verb is Verb.KILL:
            driver.kill(action.name, SIGKILL)
        elif action.verb is Verb.REMOVE:
            driver.remove(action.name)

    def _probe(self, replica: Replica, observation: Observation) -> None:
        url, host = self._probes.get(replica.name, (None, None))
        if url is None or self.prober is None:
            return
        if isinstance(observation, Started | Replaced) and replica.state is State.STARTING:
            self.prober.watch(replica.name, replica.instance, located(url, replica.endpoint), host)
        elif isinstance(observation, Exited | StartFailed | Unreachable):
            self.prober.forget(replica.name)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = next_deadline(self.replicas.values())
        if deadline is not None:
            # Slightly late rather than early: the two clocks may differ by a rounding.
            self._timer = self._loop.call_later(max(0.0, deadline - self._clock()) + 0.0005, self.tick)
