"""Random histories of scale and restart amid crashes and starts that are slow or fail, against the fake driver: no step
of them leaves fewer ready replicas than are wanted but for those that were disturbed, no port has two owners, and what
is wanted comes about.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from comet.common.errors import UserError
from comet.config.chosen_ports import ChosenPorts
from comet.config.schema import parse
from comet.reconcile.observations import Exit, Ready
from comet.reconcile.replica import Replica, State, Wanted, public_name
from comet.runtimes.interface import RenderContext
from comet.state.directory import Cluster, Owner
from comet.statistics.database import Access
from comet.supervisor import operations, rolling_update
from tests.support.fake_driver import Script, broken, healthy, slow
from tests.support.fake_runtime import FakeFleet
from tests.support.fakes import SupervisorHarness
from tests.support.histories import histories

pytestmark = pytest.mark.slow  # Random histories, and many of them.

FOLDER = Path("/nowhere")
CONFIG = parse(
    "worker: 3\npool: 2\nruntime: process\nload-balancer-port: 5050\nworker-port: 6000\nadmin-port: 0\n",
    FOLDER / "config.yaml",
)
SCRIPTS = st.sampled_from([healthy, slow, broken])
TARGETS = ("worker", "lb", "all", "worker-0", "worker-1", "lb-0")


async def at_once(work: Callable[..., Any], *arguments: Any) -> Any:
    """What stands in for asyncio.to_thread: a history has one thread."""
    return work(*arguments)


class Rolling(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.patches = contextlib.ExitStack()
        for where, name, stand_in in (
            (asyncio, "to_thread", at_once),
            (operations, "_is_free", lambda host, port: True),
            (rolling_update.failure_report, "of", lambda cluster, replica, hint: replica.reason),
            (operations.fault_files, "write", lambda *arguments: None),
            (operations.scale_override, "keep", lambda *arguments: None),
        ):
            self.patches.enter_context(mock.patch.object(where, name, stand_in))
        self.harness = SupervisorHarness()
        self.driver, self.supervisor = self.harness.driver, self.harness.supervisor
        self.task: asyncio.Task[Any] | None = None

    @initialize()
    def all_come_up(self) -> None:
        context = RenderContext(Cluster(FOLDER), Access({}), Owner(0, 0))
        fleet = FakeFleet(self.harness)
        ports = ChosenPorts(Cluster(FOLDER))
        self.operations = operations.Operations(fleet, Cluster(FOLDER), CONFIG, CONFIG, context, ports)
        fleet.add(fleet.members(CONFIG, context).values())
        self.supervisor.tick()

    @rule(worker=st.integers(0, 5), pool=st.integers(1, 4), script=SCRIPTS)
    def scale(self, worker: int, pool: int, script: Script) -> None:
        self.driver.script = script
        self.begin(lambda: self.operations.scale(worker, pool))

    @rule(which=st.sampled_from(TARGETS), script=SCRIPTS)
    def restart(self, which: str, script: Script) -> None:
        self.driver.script = script
        self.begin(lambda: self.operations.restart(which))

    @rule(script=SCRIPTS)
    def starts_go_otherwise(self, script: Script) -> None:
        self.driver.script = script

    @rule(stubborn=st.booleans())
    def stops_go_otherwise(self, stubborn: bool) -> None:
        self.driver.stubborn = stubborn

    @precondition(lambda self: self.driver.alive)
    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        self.driver.die(data.draw(st.sampled_from(sorted(self.driver.alive))), Exit(code=1))
        self.settle()

    @precondition(lambda self: self.driver.alive)
    @rule(data=st.data())
    def becomes_ready(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.driver.alive)))
        self.supervisor.observe(name, self.driver.alive[name], Ready())
        self.settle()

    @rule(seconds=st.floats(0.001, 70))
    def time_passes(self, seconds: float) -> None:
        self.harness.time.advance(seconds)
        self.settle()

    @invariant()
    def a_port_has_one_owner(self) -> None:
        """But for load balancers, whose successors share it on purpose."""
        alive = [self.supervisor.replicas[name].spec for name in self.driver.alive]
        assert self.driver.doubled == []
        assert max(Counter(spec.port for spec in alive if spec.role == "worker").values(), default=1) == 1

    @invariant()
    def no_step_takes_more_than_it_has_replaced(self) -> None:
        if hasattr(self, "operations"):
            for role, wanted in (("worker", self.operations.config.worker), ("lb", self.operations.config.pool)):
                mine = [replica for replica in self.supervisor.replicas.values() if replica.spec.role == role]
                ready = {
                    public_name(each.name) for each in mine if each.state is State.READY and each.wanted is Wanted.UP
                }
                disturbed = {public_name(each.name) for each in mine if is_disturbed(each)} - ready
                assert len(ready) + len(disturbed) >= wanted, [(each.name, each.state, each.failures) for each in mine]

    def teardown(self) -> None:
        """When faults stop, what is wanted comes about, and nothing else is left of an operation."""
        self.driver.script, self.driver.stubborn = healthy, False
        for _ in range(30):
            for name, instance in list(self.driver.alive.items()):
                self.supervisor.observe(name, instance, Ready())
            self.harness.time.advance(70)
            self.settle()
        try:
            if hasattr(self, "operations"):
                assert self.task is None or self.task.done()
                config = self.operations.config
                workers = {f"worker-{number}": config.worker_port + number for number in range(config.worker)}
                balancers = {f"lb-{number}": config.load_balancer_port + number for number in range(config.pool)}
                replicas = self.supervisor.replicas.values()
                assert {each.name: each.spec.port for each in replicas} == workers | balancers
                assert {each.state for each in replicas} == {State.READY}
        finally:
            self.patches.close()
            self.loop.close()

    def begin(self, operation: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Ask for an operation; one that comes while another is under way is refused, and so is what cannot be."""

        async def asked() -> None:
            with contextlib.suppress(UserError):
                await operation()

        if self.task is None or self.task.done():
            self.task = self.loop.create_task(asked())
        else:
            self.loop.run_until_complete(asked())
        self.settle()

    def settle(self) -> None:
        """Let whoever waits in the loop go on until all wait for something else."""

        async def idle() -> None:
            for _ in range(40):
                await asyncio.sleep(0)

        self.loop.run_until_complete(idle())


def is_disturbed(replica: Replica) -> bool:
    """Whether it is not ready for a reason that no operation has brought about."""
    return (
        replica.wanted is Wanted.UP
        and replica.state in (State.BACKOFF, State.STARTING)
        and bool(replica.failures or replica.reason)
    )


TestRolling = Rolling.TestCase
TestRolling.settings = histories(100, 2000, 30)
