"""The supervisor's loop: the one owner of all that changes.

Observations and commands come in, `react` and `plan` (pure) say what follows, drivers carry it out. Nothing here waits: a driver
starts what it is told to and reports later. A tick runs after every observation and when a deadline has passed, so that a death is
answered at once and an idle supervisor does nothing at all.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from signal import SIGKILL

from comet.drivers.base import Driver
from comet.events import Event
from comet.observation import Endpoint, Exited, Observation, Replaced, Started, StartFailed, Unheard
from comet.plan import Action, Verb, begin_stop, next_deadline, plan
from comet.probe import Prober
from comet.reactions import Moment, react
from comet.replica import Replica, ReplicaSpec, Stage, State, Wanted
from comet.router import Router, table

HERE = "{here}"
"""Host and port in the URL of a replica whose driver tells where it runs."""


@dataclass(frozen=True)
class Enlisted:
    """A replica to supervise, with what the loop does around it: the URL to ask until it is ready (None: it tells by itself), and
    where load balancers reach it (None: they do not, or its driver tells where that is; the URL then has HERE in that place)."""

    spec: ReplicaSpec
    probe: str | None = None
    endpoint: Endpoint | None = None


class Supervisor:
    """Keeps the enlisted replicas as they are wanted. All methods are called in the loop's thread."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        tell: Callable[[Event], None],
        clock: Callable[[], float] = time.monotonic,
        spread: Callable[[], float] = lambda: random.uniform(-1, 1),
    ) -> None:
        self._loop = loop
        self._tell = tell
        self._clock = clock
        self._spread = spread
        self._timer: asyncio.TimerHandle | None = None
        self._ticking = False
        self._again = False
        self._probes: dict[str, str] = {}
        self._endpoints: dict[str, Endpoint] = {}
        self._changed = asyncio.Event()
        self.replicas: dict[str, Replica] = {}
        self.changed: Callable[[], None] = lambda: None
        # Set before the first replica is enlisted; they need our `observe` to be made.
        self.drivers: Mapping[str, Driver] = {}
        self.router: Router | None = None
        self.prober: Prober | None = None

    def enlist(self, member: Enlisted, replica: Replica | None = None) -> None:
        """Supervise this from the next tick on, wanted UP; `replica` is its present where it is adopted."""
        self.replicas[member.spec.name] = replica or Replica(member.spec, since=self._clock())
        if member.probe is not None:
            self._probes[member.spec.name] = member.probe
        if member.endpoint is not None:
            self._endpoints[member.spec.name] = member.endpoint

    def observe(self, name: str, instance: int | None, observation: Observation) -> None:
        """Take in what a driver saw; of a former instance, or of nothing that is supervised, it is no news."""
        replica = self.replicas.get(name)
        if replica is None or instance not in (None, replica.instance):
            return
        after, events = react(replica, observation, Moment(self._clock(), self._spread()))
        self.replicas[name] = after
        for event in events:
            self._tell(event)
        self._probe(after, observation)
        if after.unheard and self.router is not None and isinstance(observation, Unheard):
            self.router.doubt(name, after.unheard)
        if after is not replica:
            self.tick()

    def want(self, names: Iterable[str], wanted: Wanted) -> None:
        for name in names:
            self.replicas[name] = replace(self.replicas[name], wanted=wanted)
        self.tick()

    def stop_now(self) -> None:
        """Skip the ladder: kill all that live and remove what is left."""
        for name, replica in self.replicas.items():
            if replica.state is not State.STOPPED:
                stage = Stage.KILL if replica.alive else Stage.REMOVE
                self.replicas[name], action = begin_stop(replace(replica, wanted=Wanted.DOWN), self._clock(), stage)
                self._act(action)
        self.tick()

    def recycle(self, name: str, member: Enlisted | None = None) -> None:
        """Stop this and start it anew, as `member` says if its description has changed; no crash, so nothing is counted as one."""
        if member is not None:
            self.respec(member)
        replica = replace(self.replicas[name], failures=0, reason="")
        if replica.state is State.STOPPING:
            return
        if replica.state is State.BACKOFF:
            self.replicas[name], action = begin_stop(replica, self._clock(), Stage.REMOVE)
        else:
            self.replicas[name], action = begin_stop(replica, self._clock())
        self.tick_with(action)

    def respec(self, member: Enlisted) -> None:
        """Describe a replica anew; what runs now is as it was started, its next start goes by the new description."""
        name = member.spec.name
        self.replicas[name] = replace(self.replicas[name], spec=member.spec)
        if member.probe is not None:
            self._probes[name] = member.probe
        if member.endpoint is not None:
            self._endpoints[name] = member.endpoint

    def enlisted(self, name: str) -> Enlisted:
        """A replica as it is described at present."""
        return Enlisted(self.replicas[name].spec, self._probes.get(name), self._endpoints.get(name))

    def rename(self, former: str, name: str) -> None:
        """Let a replica be known by another name from now on, to its driver and to the router as well."""
        replica = self.replicas.pop(former)
        self.drivers[replica.spec.driver].rename(former, name)
        self.replicas[name] = replace(replica, spec=replace(replica.spec, name=name))

    def dismiss(self, name: str) -> None:
        """Forget a replica that has stopped."""
        assert self.replicas[name].state is State.STOPPED
        del self.replicas[name]
        self._probes.pop(name, None)
        self._endpoints.pop(name, None)
        self.tick()

    def tick_with(self, *actions: Action) -> None:
        """Carry out what a command asks for, after telling the load balancers of it, and what follows."""
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
        """Do everything that is due. A driver that answers within the call only makes the tick go round once more."""
        self._again = True
        if self._ticking:
            return
        self._ticking = True
        try:
            while self._again:
                self._again = False
                made = plan(self.replicas, self._clock())
                self.replicas.update(made.replicas)
                self.publish()
                for event in made.events:
                    self._tell(event)
                for action in made.actions:
                    self._act(action)
        finally:
            self._ticking = False
        self.changed()
        self._changed.set()
        self._set_timer()

    def publish(self) -> None:
        """Tell the load balancers what the fleet is now."""
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
        url = self._probes.get(replica.name)
        if url is None or self.prober is None:
            return
        if isinstance(observation, Started | Replaced) and replica.state is State.STARTING:
            self.prober.watch(replica.name, replica.instance, located(url, replica.endpoint))
        elif isinstance(observation, Exited | StartFailed | Unheard):
            self.prober.forget(replica.name)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = next_deadline(self.replicas.values())
        if deadline is not None:
            # A hair late rather than early: the loop's clock and ours may differ by a rounding.
            self._timer = self._loop.call_later(max(0.0, deadline - self._clock()) + 0.0005, self.tick)


def located(url: str, endpoint: Endpoint | None) -> str:
    """The URL with the place filled in that was told."""
    if endpoint is None:
        return url
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    return url.replace(HERE, f"{host}:{endpoint.port}", 1)
