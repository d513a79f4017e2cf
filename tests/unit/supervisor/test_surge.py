"""The replica that serves beside those that are replaced needs nothing that they do not need themselves."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from comet.common.errors import UserError
from comet.config.chosen_ports import ChosenPorts
from comet.config.schema import Config, parse
from comet.reconcile.replica import ManagedReplica
from comet.runtimes.interface import RenderContext, SingleRuntime
from comet.state.directory import Cluster, Owner
from comet.statistics.database import Access
from comet.supervisor import operations
from tests.support.fake_runtime import FakeFleet, FakeRuntime
from tests.support.fakes import SupervisorHarness

FOLDER = Path("/nowhere")


class OfTheEngine(FakeRuntime):
    """Its engine does not answer."""

    driver_name, kind = "container", "container"

    def require_orders(self) -> None:
        raise UserError("the engine is away")


class Alternating(FakeRuntime):
    """Of its workers, those with an even number need the engine."""

    @property
    def parts(self) -> Sequence[SingleRuntime]:
        return OfTheEngine(self.harness), FakeRuntime(self.harness)

    @classmethod
    def render(cls, config: Config, context: RenderContext, index: int) -> ManagedReplica:
        return (OfTheEngine, FakeRuntime)[index % 2].render(config, context, index)


@pytest.mark.parametrize("workers", [2, 3])
def test_a_process_is_replaced_by_another_without_the_engine(monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    """Whether the next number is that of a container or of a process."""
    monkeypatch.setattr(operations, "_is_free", lambda host, port: True)
    monkeypatch.setattr(operations.fault_files, "write", lambda *arguments: None)
    text = f"worker: {workers}\npool: 1\nruntime: process\nworker-port: 6000\nadmin-port: 0\n"
    config = parse(text, FOLDER / "config.yaml")
    context = RenderContext(Cluster(FOLDER), Access({}), Owner(0, 0))
    harness = SupervisorHarness()
    fleet = FakeFleet(harness, Alternating(harness))
    ports = ChosenPorts(Cluster(FOLDER))
    running = operations.Operations(fleet, Cluster(FOLDER), config, config, context, ports)
    fleet.add(fleet.members(config, context).values())
    harness.supervisor.tick()

    async def both() -> None:
        assert await running.restart("worker-1") == {"restarted": ["worker-1"]}
        with pytest.raises(UserError, match="the engine is away"):
            await running.restart("worker-0")

    asyncio.run(asyncio.wait_for(both(), 60))
    beside = [event.replica for event in harness.events if event.name == "surge_started"]
    assert beside == ["worker-3"]
