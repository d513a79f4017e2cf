"""Orders of the traffic, carried out by load balancers that the test plays."""

import asyncio
import errno
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import pytest

from comet.balancers.traffic_control import TrafficControl
from comet.common.errors import UserError
from comet.events.event import Event
from comet.host.process_identity import boot_id
from comet.reconcile.observations import Health
from comet.reconcile.replica import Replica
from comet.state import traffic_orders
from comet.state.directory import Cluster
from comet.state.traffic_orders import TrafficOrders
from lb.interface import messages
from lb.interface.settings import FOREVER
from tests.support.fakes import spec
from tests.unit.balancers.test_router import PlayedLb, Scene, upstreams

WORKER = Replica(spec("worker-1"))


@dataclass
class Ordered:
    stage: Scene
    cluster: Cluster
    events: list[Event]
    control: TrafficControl

    def again(self) -> "Ordered":
        """The control of a later supervisor."""
        self.control.close()
        return make(self.cluster)


def make(cluster: Cluster) -> Ordered:
    stage, events = Scene(), list[Event]()
    stage.router.publish(upstreams("up", "up"))
    control = TrafficControl(asyncio.get_running_loop(), cluster, stage.router, events.append)
    control.open(["worker-0", "worker-1"])
    return Ordered(stage, cluster, events, control)


@asynccontextmanager
async def ordered(folder: Path) -> AsyncIterator[Ordered]:
    cluster = Cluster(folder)
    cluster.create()
    made = make(cluster)
    yield made
    made.control.close()
    made.stage.router.close()


async def states(balancer: PlayedLb) -> list[str]:
    return [each["state"] for each in (await balancer.next("upstreams"))["upstreams"]]


def test_a_drain_returns_once_each_load_balancer_has_applied_it(tmp_path: Path) -> None:
    async def story() -> None:
        async with ordered(tmp_path) as scene:
            first, second = scene.stage.lb("lb-0"), scene.stage.lb("lb-1")
            order = asyncio.ensure_future(scene.control.drain(WORKER))
            for balancer in (first, second):
                assert await states(balancer) == ["up", "up"]  # At the attachment.
                assert await states(balancer) == ["up", "draining"]
                asked = await balancer.next("ping")
                assert not order.done()
                assert scene.events == []
                balancer.say(messages.pong(asked["id"]))
            assert await order == {"name": "worker-1", "drained": True, "changed": True}
            assert [event.name for event in scene.events] == ["drained"]
            assert (await scene.control.drain(WORKER))["changed"] is False
            late = scene.stage.lb("lb-2")
            assert await states(late) == ["up", "draining"]
            for balancer in (first, second, late):
                balancer.peer.close()

    asyncio.run(story())


def test_the_health_of_a_drained_worker_is_still_reported(tmp_path: Path) -> None:
    async def story() -> None:
        async with ordered(tmp_path) as scene:
            await scene.control.drain(WORKER)
            balancer = scene.stage.lb("lb-0")
            balancer.say(messages.health("worker-1", False, "timeout"))
            assert await scene.stage.saw() == ("worker-1", Health(False, "lb-0 finds: timeout"))
            await asyncio.wait_for(asyncio.gather(scene.control.undrain(WORKER), _answer(balancer)), 120)
            assert scene.stage.router.views() == {"lb-0": {"worker-1": "lb-0 finds: timeout"}}
            balancer.peer.close()

    asyncio.run(story())


async def _answer(balancer: PlayedLb) -> None:
    """Acknowledge the table of the attachment, and the next one."""
    for _ in range(2):
        balancer.say(messages.pong((await balancer.next("ping"))["id"]))


def test_orders_outlive_the_supervisor(tmp_path: Path) -> None:
    async def story() -> None:
        async with ordered(tmp_path) as scene:
            await scene.control.drain(WORKER)
            await scene.control.drain(Replica(spec("worker-0")))
            await scene.control.pause(None)
            scene.control.forget(["worker-0"])
            later = scene.again()
            assert later.stage.router.drained == {"worker-1"}
            assert later.stage.router.paused_until == FOREVER
            assert later.control.paused
            assert (await later.control.resume())["changed"]
            assert (await later.control.resume())["changed"] is False
            assert [event.fields for event in later.events] == [{"cause": "command"}]
            assert scene.again().stage.router.paused_until == 0.0
            later.stage.router.close()

    asyncio.run(story())


def test_a_pause_that_ended_while_no_supervisor_ran_is_over(tmp_path: Path) -> None:
    async def story() -> None:
        async with ordered(tmp_path) as scene:
            traffic_orders.write(scene.cluster, TrafficOrders(paused_until=monotonic() - 1.0))
            later = scene.again()
            while not later.events:
                await asyncio.sleep(0.01)
            assert (later.events[0].name, later.events[0].fields) == ("resumed", {"cause": "time"})
            assert not later.control.paused
            assert traffic_orders.read(scene.cluster) == TrafficOrders()
            later.stage.router.close()

    asyncio.run(story())


def test_a_pause_that_ends_before_all_follow_is_told_first(tmp_path: Path) -> None:
    async def story() -> None:
        async with ordered(tmp_path) as scene:
            balancer = scene.stage.lb("lb-0")
            order = asyncio.ensure_future(scene.control.pause(0.01))
            await asyncio.sleep(0)
            while scene.control.paused:
                await asyncio.sleep(0.01)
            assert not order.done()
            for _ in ("attached", "paused", "resumed"):
                balancer.say(messages.pong((await balancer.next("ping"))["id"]))
            await order
            assert [event.name for event in scene.events] == ["paused", "resumed"]
            balancer.peer.close()

    asyncio.run(story())


def test_the_last_pause_counts(tmp_path: Path) -> None:
    async def story() -> None:
        async with ordered(tmp_path) as scene:
            while [event.name for event in scene.events] != ["paused", "paused"]:
                scene.events.clear()  # The machine was busy: the first pause ended before the second began.
                await scene.control.pause(0.05)
                assert await scene.control.pause(3600.0) == {"paused": True, "for_s": 3600.0}
            await asyncio.sleep(0.1)
            assert scene.control.paused
            assert [event.name for event in scene.events] == ["paused", "paused"]

    asyncio.run(story())


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"drained": [1], "pause": null, "boot": ""}', '{"drained": [], "pause": {"until": "x"}, "boot": ""}'],
)
def test_a_broken_file_holds_no_orders(tmp_path: Path, text: str) -> None:
    cluster = Cluster(tmp_path)
    cluster.create()
    assert traffic_orders.read(cluster) == TrafficOrders()
    cluster.path(traffic_orders.FILE).write_text(text)
    assert traffic_orders.read(cluster) == TrafficOrders()


def test_a_pause_does_not_outlive_a_boot(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    cluster.create()
    content = {"drained": ["worker-0"], "pause": {"until": None}, "boot": "another"}
    cluster.path(traffic_orders.FILE).write_text(json.dumps(content))
    assert traffic_orders.read(cluster) == TrafficOrders(frozenset({"worker-0"}))
    cluster.path(traffic_orders.FILE).write_text(json.dumps(content | {"boot": boot_id()}))
    assert traffic_orders.read(cluster).paused_until == float("inf")


def test_an_order_that_cannot_be_kept_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(traffic_orders, "write", full)

    async def story() -> None:
        async with ordered(tmp_path) as scene:
            with pytest.raises(UserError, match=r"cannot be written.*nothing was changed"):
                await scene.control.drain(WORKER)
            assert scene.stage.router.drained == frozenset()

    asyncio.run(story())
