"""Thousands of random histories of crashes, slow starts, hangs and commands against the fake driver: what must hold in
every one.
"""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from comet.reconcile.observations import (
    Drained,
    Exit,
    Exited,
    Health,
    Hung,
    Observation,
    Ready,
    Removed,
    Started,
    StartFailed,
)
from comet.reconcile.replica import SERVING, State, Wanted
from tests.support.fake_driver import broken, healthy, slow
from tests.support.fakes import SupervisorHarness, spec
from tests.support.histories import histories

pytestmark = pytest.mark.slow  # Random histories, and many of them.

NAMES = ("lb-0", "lb-1", "worker-0", "worker-1", "worker-2")
names = st.sampled_from(NAMES)
news = st.frozensets(st.sampled_from([Started, StartFailed, Ready, Drained, Exited, Removed]))


class Histories(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        specs = [spec(name, rank=1 if name.startswith("lb") else 0, unhealthy_grace=20.0) for name in NAMES]
        self.harness = SupervisorHarness(*specs)
        self.supervisor = self.harness.supervisor
        self.driver = self.harness.driver

    @rule(script=st.sampled_from([healthy, slow, broken, lambda name, instance: ()]))
    def starts_go_otherwise(self, script: object) -> None:
        self.driver.script = script  # type: ignore[assignment]

    @rule(stubborn=st.booleans())
    def stops_go_otherwise(self, stubborn: bool) -> None:
        self.driver.stubborn = stubborn

    @rule(kinds=news)
    def news_get_lost(self, kinds: frozenset[type[Observation]]) -> None:
        self.driver.lost = kinds

    @rule()
    def look_again(self) -> None:
        replicas = self.supervisor.replicas.values()
        self.driver.look_again({replica.name: replica.instance for replica in replicas if replica.state in SERVING})

    @rule(name=names, code=st.integers(0, 255))
    def crash(self, name: str, code: int) -> None:
        self.driver.die(name, Exit(code=code))

    @rule(name=names, healthy=st.booleans())
    def health(self, name: str, healthy: bool) -> None:
        self.supervisor.observe(name, None, Health(healthy, "timeout"))

    @rule(name=names)
    def hang(self, name: str) -> None:
        self.supervisor.observe(name, self.driver.alive.get(name, -1), Hung("no answer"))

    @rule(name=names)
    def becomes_ready(self, name: str) -> None:
        self.supervisor.observe(name, self.driver.alive.get(name, -1), Ready())

    @rule(name=names, age=st.integers(1, 5))
    def stale_news(self, name: str, age: int) -> None:
        stale = self.supervisor.replicas[name].instance - age
        before = self.supervisor.replicas[name]
        for observation in (Exited(), Ready(), Removed()):
            self.supervisor.observe(name, stale, observation)
        assert self.supervisor.replicas[name] == before

    @rule(seconds=st.floats(0.001, 70))
    def time_passes(self, seconds: float) -> None:
        self.harness.time.advance(seconds)

    @rule(name=names, wanted=st.sampled_from(Wanted))
    def want(self, name: str, wanted: Wanted) -> None:
        self.supervisor.want([name], wanted)

    @rule(name=names)
    def restart(self, name: str) -> None:
        replica = self.supervisor.replicas[name]
        if replica.state in (State.READY, State.UNHEALTHY, State.BACKOFF):
            self.supervisor.restart(name)

    @invariant()
    def one_owner_of_a_name(self) -> None:
        assert self.driver.doubled == []

    @invariant()
    def what_is_stopped_or_waits_has_no_process(self) -> None:
        for name, replica in self.supervisor.replicas.items():
            if replica.state in (State.STOPPED, State.BACKOFF):
                assert name not in self.driver.alive
                assert replica.pid is None

    @invariant()
    def what_waits_for_something_has_a_deadline(self) -> None:
        for replica in self.supervisor.replicas.values():
            if replica.state in (State.STARTING, State.BACKOFF, State.STOPPING):
                assert replica.deadline is not None

    def teardown(self) -> None:
        """When faults stop, what is wanted comes about."""
        self.driver.script, self.driver.stubborn, self.driver.lost = healthy, False, frozenset()
        self.look_again()
        for name, replica in self.supervisor.replicas.items():
            if replica.state is State.STARTING and name not in self.driver.alive:
                # A driver may take its time for a start, but it does answer.
                self.supervisor.observe(name, replica.instance, StartFailed("the engine was away"))
        self.harness.time.advance(300)
        for name in NAMES:
            self.supervisor.observe(name, None, Health(True))
        # A load balancer's first start waits for workers that are wanted up; here they have all been ready once.
        for replica in self.supervisor.replicas.values():
            assert replica.state is (State.READY if replica.wanted is Wanted.UP else State.STOPPED), replica


TestHistories = Histories.TestCase
TestHistories.settings = histories(60, 3000, 40)
