"""Thousands of random histories of containers that others stop, start, pause, rename and remove, with events that come
late, twice, in another order or never: what runs and answers is in rotation in the end.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import docker
import docker.errors
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from comet.balancers.routing_table import table
from comet.events.event import Event
from comet.reconcile.observations import Endpoint, Observation, Ready
from comet.reconcile.replica import ManagedReplica, State, Wanted
from comet.runtimes.docker import driver as container
from comet.runtimes.docker.container_spec import ContainerLaunch
from comet.runtimes.docker.driver import ContainerDriver
from comet.supervisor.reconcile_loop import Supervisor
from lb.interface.settings import UP
from tests.support.fakes import FakeTime, spec
from tests.support.histories import histories

pytestmark = pytest.mark.slow  # Random histories, and many of them.

NAMES = ("worker-0", "worker-1")
names = st.sampled_from(NAMES)
LAUNCH = ContainerLaunch("image", (), {}, "", "127.0.0.1", 8080, (), 1 << 27, 100, "made so")


def refusal(status: int, text: str) -> docker.errors.APIError:
    kind = docker.errors.NotFound if status == 404 else docker.errors.APIError
    return kind(text, SimpleNamespace(status_code=status), text)  # type: ignore[no-untyped-call,no-any-return]


@dataclass
class Container:
    id: str
    name: str
    replica: str
    state: str = "created"
    began: str = "0001-01-01T00:00:00Z"
    ended: str = "0001-01-01T00:00:00Z"
    code: int = 0
    pid: int = 0
    always: bool = False


@dataclass
class Engine:
    """As much of an engine as the driver uses; what it would tell in events waits in `events` until somebody delivers
    it.
    """

    time: FakeTime
    there: dict[str, Container] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    count: int = 0

    def now(self) -> str:
        self.count += 1
        return f"{datetime.fromtimestamp(self.time.now + 1.7e9, UTC):%Y-%m-%dT%H:%M:%S}.{self.count:09}Z"

    def tell(self, action: str, each: Container) -> None:
        self.count += 1
        moment = int(self.time.now + 1.7e9) * 10**9 + self.count
        record = {
            "Action": action,
            "timeNano": moment,
            "Actor": {"ID": each.id, "Attributes": {"exitCode": str(each.code)}},
        }
        self.events.append(record)

    # What happens to containers, whoever does it.

    def begin(self, each: Container) -> None:
        self.count += 1
        each.state, each.began, each.pid = "running", self.now(), 10**7 + self.count
        self.tell("start", each)

    def end(self, each: Container, code: int, by_order: bool) -> None:
        if each.state in ("running", "paused"):
            each.state = "restarting" if each.always and not by_order else "exited"
            each.ended, each.code, each.pid = self.now(), code, 0
            self.tell("die", each)

    # The API.

    def create_host_config(self, **_: Any) -> dict[str, Any]:
        return {}

    def create_container(self, **made: Any) -> dict[str, Any]:
        if any(each.name == made["name"] for each in self.there.values()):
            raise refusal(409, "Conflict. The container name is already in use")
        self.count += 1
        each = Container(f"{self.count:064x}", made["name"], made["labels"]["comet.replica"])
        self.there[each.id] = each
        return {"Id": each.id}

    def start(self, identity: str) -> None:
        each = self._one(identity)
        if each.state == "paused":
            raise refusal(409, "cannot start a paused container, try unpause instead")
        if any(other.replica == each.replica and other is not each and other.pid for other in self.there.values()):
            raise refusal(500, "port is already allocated")
        if each.state not in ("running", "restarting"):
            self.begin(each)

    def unpause(self, identity: str) -> None:
        each = self._one(identity)
        if each.state != "paused":
            raise refusal(500, "it is not paused")
        each.state = "running"
        self.tell("unpause", each)

    def kill(self, identity: str, signal: int) -> None:
        each = self._one(identity)
        if each.state not in ("running", "paused"):
            raise refusal(409, "it is not running")
        self.end(each, 128 + signal, by_order=True)

    def remove_container(self, identity: str, **_: Any) -> None:
        each = self._one(identity)
        self.end(each, 137, by_order=True)
        del self.there[each.id]
        self.tell("destroy", each)

    def inspect_container(self, identity: str) -> dict[str, Any]:
        each = self._one(identity)
        alive = each.state in ("running", "paused", "restarting")
        state = {
            "Running": alive,
            "Paused": each.state == "paused",
            "Restarting": each.state == "restarting",
            "Pid": each.pid,
            "ExitCode": each.code,
            "StartedAt": each.began,
            "FinishedAt": each.ended,
        }
        return {"State": state, "NetworkSettings": {"Ports": {"8080/tcp": [{}]} if each.pid else {}}}

    def containers(self, filters: dict[str, Any], **_: Any) -> list[dict[str, Any]]:
        asked = {label for label in filters["label"] if label.startswith("comet.replica=")}
        return [
            {"Id": each.id, "State": each.state, "Labels": {"comet.replica": each.replica}}
            for each in self.there.values()
            if asked <= {f"comet.replica={each.replica}"}
        ]

    def disconnect_container_from_network(self, *_: Any, **__: Any) -> None:
        return

    def _one(self, identity: str) -> Container:
        found = next((each for each in self.there.values() if identity in (each.id, each.name)), None)
        if found is None:
            raise refusal(404, "no such container")
        return found


class KeyedWorkQueues:
    """In order for each name; whoever plays says when a piece of work is done."""

    def __init__(self, failed: Callable[[str, Exception], None]) -> None:
        self.failed = failed
        self.waiting: dict[str, list[Callable[[], None]]] = {}

    def put(self, name: str, work: Callable[[], None]) -> None:
        self.waiting.setdefault(name, []).append(work)

    def step(self, name: str) -> bool:
        if not self.waiting.get(name):
            return False
        try:
            self.waiting[name].pop(0)()
        except Exception as error:
            self.failed(name, error)
        return True

    def drain(self) -> None:
        while any(self.step(name) for name in list(self.waiting)):
            pass


class ReadinessProbe:
    def __init__(self) -> None:
        self.watched: dict[str, int] = {}

    def watch(self, name: str, instance: int, url: str, host: str | None = None) -> None:
        self.watched[name] = instance

    def forget(self, name: str) -> None:
        self.watched.pop(name, None)


class ContainerHistories(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.patience = patch.object(container, "RESTART_TIMEOUT", 0.0)
        self.patience.start()
        self.time = FakeTime()
        self.time.call_soon_threadsafe = lambda call, *arguments: call(*arguments)  # type: ignore[attr-defined]
        self.engine = Engine(self.time)
        self.told: list[Event] = []
        self.supervisor = Supervisor(self.time, self.told.append, clock=self.time, spread=lambda: 0.0)  # type: ignore[arg-type]
        client = cast(docker.DockerClient, SimpleNamespace(api=self.engine))
        self.driver = ContainerDriver(self.time, self.observe, self.told.append, client, "c")  # type: ignore[arg-type]
        self.lanes = self.driver._queues = KeyedWorkQueues(self.driver._on_error)  # type: ignore[assignment]
        self.driver._loop.call_later(container.SWEEP_INTERVAL, self.driver._schedule_sweep)
        self.prober = self.supervisor.prober = ReadinessProbe()  # type: ignore[assignment]
        self.supervisor.drivers = {"container": self.driver}
        for number, name in enumerate(NAMES):
            described = spec(name, driver="container", launch=LAUNCH, port=6000 + number, kind="container")
            self.supervisor.add(ManagedReplica(described, "http://{here}/", Endpoint("127.0.0.1", 6000 + number)))
        self.supervisor.tick()
        self.settle(5)

    def observe(self, name: str, instance: int | None, observation: Observation) -> None:
        self.supervisor.observe(name, instance, observation)

    def settle(self, seconds: int) -> None:
        """Let time pass with an engine that works and workers that answer; no event is delivered."""
        for _ in range(seconds):
            self.time.advance(1)
            self.lanes.drain()
            for name, instance in list(self.prober.watched.items()):
                if any(each.replica == name and each.state == "running" for each in self.engine.there.values()):
                    del self.prober.watched[name]
                    self.supervisor.observe(name, instance, Ready())

    def of(self, name: str) -> Container | None:
        return next((each for each in self.engine.there.values() if each.replica == name), None)

    @rule(name=names, code=st.sampled_from([0, 1, 137]))
    def dies_inside(self, name: str, code: int) -> None:
        if each := self.of(name):
            self.engine.end(each, code, by_order=False)

    @rule(name=names)
    def is_stopped(self, name: str) -> None:
        if each := self.of(name):
            self.engine.end(each, 143, by_order=True)

    @rule(name=names)
    def is_started(self, name: str) -> None:
        each = self.of(name)
        if each and each.state == "exited":
            self.engine.begin(each)

    @rule(name=names, times=st.integers(1, 2))
    def is_restarted(self, name: str, times: int) -> None:
        for _ in range(times):
            self.is_stopped(name)
            self.is_started(name)

    @rule(name=names, always=st.booleans())
    def is_given_a_policy(self, name: str, always: bool) -> None:
        if each := self.of(name):
            each.always = always

    @rule()
    def the_engine_restarts_what_waits(self) -> None:
        for each in self.engine.there.values():
            if each.state == "restarting":
                self.engine.begin(each)

    @rule(name=names)
    def is_paused_or_goes_on(self, name: str) -> None:
        each = self.of(name)
        if each and each.state in ("running", "paused"):
            each.state = "paused" if each.state == "running" else "running"
            self.engine.tell("pause" if each.state == "paused" else "unpause", each)

    @rule(name=names, former=names)
    def is_renamed(self, name: str, former: str) -> None:
        """To anything, also to the name of another one that is gone."""
        wanted = f"comet-c-{former}"
        if (each := self.of(name)) and all(other.name != wanted for other in self.engine.there.values()):
            each.name = wanted if former != name else f"renamed-{self.engine.count}"

    @rule(name=names)
    def is_removed(self, name: str) -> None:
        if each := self.of(name):
            self.engine.remove_container(each.id)

    @rule(which=st.integers(0, 20), often=st.sampled_from([0, 1, 1, 1, 2]))
    def an_event_arrives(self, which: int, often: int) -> None:
        if self.engine.events:
            record = self.engine.events.pop(which % len(self.engine.events))
            for _ in range(often):
                self.driver._on_event(record)

    @rule()
    def all_events_arrive(self) -> None:
        while self.engine.events:
            self.driver._on_event(self.engine.events.pop(0))

    @rule(name=st.sampled_from([*NAMES, container.SWEEP]))
    def some_work_is_done(self, name: str) -> None:
        self.lanes.step(name)

    @rule()
    def the_stream_is_opened_again(self) -> None:
        self.engine.events.clear()
        self.driver._reconcile()

    @rule(seconds=st.integers(1, 40))
    def time_passes(self, seconds: int) -> None:
        self.settle(seconds)

    @rule(name=names, wanted=st.sampled_from(Wanted))
    def is_wanted(self, name: str, wanted: Wanted) -> None:
        self.supervisor.want([name], wanted)

    def teardown(self) -> None:
        """Nobody meddles any more; the events that have not come yet never will."""
        try:
            for each in self.engine.there.values():
                each.state = "running" if each.state == "paused" else each.state
            self.settle(15)
            self.the_engine_restarts_what_waits()
            self.settle(60)
            self.assert_all_serve()
        finally:
            self.patience.stop()

    def assert_all_serve(self) -> None:
        replicas = self.supervisor.replicas
        endpoints = {name: Endpoint("127.0.0.1", 6000) for name in NAMES}
        words = {upstream.name: upstream.state for upstream in table(replicas.values(), endpoints)}
        for name, replica in replicas.items():
            own = [each for each in self.engine.there.values() if each.replica == name]
            if replica.wanted is Wanted.DOWN:
                assert (replica.state, own) == (State.STOPPED, [])
                continue
            assert (replica.state, replica.lost, words[name]) == (State.READY, False, UP)
            assert [(each.state, each.pid, each.id[:12]) for each in own] == [("running", replica.pid, replica.id)]


TestContainerHistories = ContainerHistories.TestCase
TestContainerHistories.settings = histories(150, 5000, 30)
