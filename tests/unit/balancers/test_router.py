"""The router against load balancers played by the test, over real sockets."""

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from comet.balancers import router
from comet.balancers.router import WATCH_INTERVAL, Router, is_hung
from comet.balancers.routing_table import table
from comet.config.schema import parse
from comet.reconcile.observations import Drained, Endpoint, Health, Hung, Observation, Ready
from comet.reconcile.replica import Replica, State
from comet.workloads import builtin
from lb.interface import messages
from lb.interface.settings import UpstreamSpec
from tests.support.fakes import spec


class PlayedLb:
    """The load balancer's end of the control connection."""

    def __init__(self, peer: socket.socket) -> None:
        self.peer = peer
        self.decoder = messages.Decoder()
        self.heard: list[dict[str, Any]] = []
        peer.setblocking(False)

    async def next(self, kind: str) -> dict[str, Any]:
        while True:
            for index, message in enumerate(self.heard):
                if message["type"] == kind:
                    del self.heard[: index + 1]
                    return message
            data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.peer, 65536), 120)
            assert data
            self.heard += self.decoder.feed(data)

    def say(self, message: dict[str, Any]) -> None:
        self.peer.sendall(messages.encode(message))


class Scene:
    def __init__(self, waits_for_requests: bool = False) -> None:
        self.seen: asyncio.Queue[tuple[str, Observation]] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        self.router = Router(
            loop, lambda name, instance, what: self.seen.put_nowait((name, what)), waits_for_requests=waits_for_requests
        )

    def lb(self, name: str) -> PlayedLb:
        ours, theirs = socket.socketpair()
        self.router.attach(name, 1, ours)
        return PlayedLb(theirs)

    async def saw(self) -> tuple[str, Observation]:
        return await asyncio.wait_for(self.seen.get(), 120)


@asynccontextmanager
async def scene(waits_for_requests: bool = False) -> AsyncIterator[Scene]:
    made = Scene(waits_for_requests)
    yield made
    made.router.close()


def upstreams(*states: str) -> tuple[UpstreamSpec, ...]:
    return tuple(
        UpstreamSpec(f"worker-{index}", "127.0.0.1", 6000 + index, state) for index, state in enumerate(states)
    )


def close(balancers: Iterable[PlayedLb]) -> None:
    for balancer in balancers:
        balancer.peer.close()


def test_a_new_load_balancer_is_told_the_table_at_once() -> None:
    async def story() -> None:
        async with scene() as stage:
            stage.router.publish(upstreams("up", "down"))
            balancer = stage.lb("lb-0")
            told = await balancer.next("upstreams")
            assert [(each["name"], each["state"]) for each in told["upstreams"]] == [
                ("worker-0", "up"),
                ("worker-1", "down"),
            ]
            balancer.say(messages.ready("lb-0", 1, 5050, 12.5))
            assert await stage.saw() == ("lb-0", Ready(12.5))
            close([balancer])

    asyncio.run(story())


@pytest.mark.parametrize("place", ["elsewhere", "at the same place"])
def test_a_late_complaint_is_not_about_the_successor(place: str) -> None:
    async def story() -> None:
        async with scene() as stage:
            balancer = stage.lb("lb-0")
            stage.router.publish(upstreams("up"))
            for _ in range(2):  # Of the attachment, and of the table.
                balancer.say(messages.pong((await balancer.next("ping"))["id"]))
            balancer.say(messages.health("worker-0", False, "connection refused"))
            assert await stage.saw() == ("worker-0", Health(False, "lb-0 finds: connection refused"))
            stage.router.publish(upstreams("down"))
            stage.router.publish((replace(upstreams("up")[0], port=7000),) if place == "elsewhere" else upstreams("up"))
            balancer.say(messages.health("worker-0", False, "no answer within 2 s"))
            balancer.say(messages.pong((await balancer.next("ping"))["id"]))
            balancer.say(messages.pong((await balancer.next("ping"))["id"]))
            balancer.say(messages.health("worker-0", False, "status 503"))
            assert await stage.saw() == ("worker-0", Health(False, "lb-0 finds: status 503"))
            close([balancer])

    asyncio.run(story())


def test_what_workers_say_of_counts_is_passed_on() -> None:
    async def story() -> None:
        async with scene() as stage:
            passed: list[Any] = []
            stage.router.on_counts = passed.append
            balancer = stage.lb("lb-0")
            stage.router.publish(upstreams("up"))
            for left in (3, 2):
                counts = {"worker-0": {"a": left}}
                balancer.say(messages.pong((await balancer.next("ping"))["id"], counts=counts))
            balancer.say({"type": "pong", "id": 1, "counts": {"worker-0": {"a": "many"}}})
            balancer.say({"type": "pong", "id": 1, "counts": {"worker-0": 5}})
            balancer.say(messages.health("worker-0", False, "status 404"))
            await stage.saw()
            assert passed == [{"worker-0": {"a": 3}}, {"worker-0": {"a": 2}}]
            close([balancer])

    asyncio.run(story())


def test_the_duration_of_a_check_is_kept_until_the_next_one() -> None:
    async def story() -> None:
        async with scene() as stage:
            balancer = stage.lb("lb-0")
            stage.router.publish(upstreams("up"))
            balancer.say(messages.pong((await balancer.next("ping"))["id"], checks={"worker-0": 1.4}))
            balancer.say(messages.pong((await balancer.next("ping"))["id"]))
            balancer.say(messages.health("worker-0", False, "status 404"))
            await stage.saw()
            assert stage.router.check_times() == {"lb-0": {"worker-0": 1.4}}
            close([balancer])

    asyncio.run(story())


def test_another_path_to_check_is_no_other_worker() -> None:
    async def story() -> None:
        async with scene() as stage:
            balancer = stage.lb("lb-0")
            stage.router.publish(upstreams("up"))
            for _ in range(2):
                balancer.say(messages.pong((await balancer.next("ping"))["id"]))
            balancer.say(messages.health("worker-0", False, "status 404"))
            assert await stage.saw() == ("worker-0", Health(False, "lb-0 finds: status 404"))
            stage.router.publish((replace(upstreams("up")[0], health_path="/well"),))
            balancer.say(
                messages.health("worker-0", True, "")
            )  # On its way before the new path was heard of, and said once.
            assert await stage.saw() == ("worker-0", Health(True))
            close([balancer])

    asyncio.run(story())


def test_a_worker_is_drained_once_every_lb_applied_it() -> None:
    async def story() -> None:
        async with scene() as stage:
            first, second = stage.lb("lb-0"), stage.lb("lb-1")
            stage.router.publish(upstreams("draining"))
            for balancer in (first, second):
                await balancer.next("ping")  # Of the attachment.
            asked = [await balancer.next("ping") for balancer in (first, second)]
            first.say(messages.pong(asked[0]["id"]))
            await asyncio.sleep(0.05)
            assert stage.seen.empty()
            second.say(messages.pong(asked[1]["id"]))
            assert await stage.saw() == ("worker-0", Drained())
            close([first, second])

    asyncio.run(story())


def test_a_custom_worker_is_drained_when_nothing_is_in_flight() -> None:
    async def story() -> None:
        async with scene(waits_for_requests=True) as stage:
            balancer = stage.lb("lb-0")
            stage.router.publish(upstreams("draining", "draining"))
            await balancer.next("ping")  # Of the attachment.
            for _ in range(3):
                balancer.say(messages.pong((await balancer.next("ping"))["id"], {"worker-1": 2}))
                assert await stage.saw() == ("worker-0", Drained())
            balancer.say(messages.pong((await balancer.next("ping"))["id"]))
            assert [await stage.saw() for _ in range(2)] == [("worker-0", Drained()), ("worker-1", Drained())]
            close([balancer])

    asyncio.run(story())


def test_a_dead_load_balancer_holds_up_no_drain() -> None:
    async def story() -> None:
        async with scene() as stage:
            balancer = stage.lb("lb-0")
            stage.router.publish(upstreams("draining"))
            balancer.peer.close()
            assert await stage.saw() == ("worker-0", Drained())

    asyncio.run(story())


def test_settings_are_confirmed_by_every_load_balancer() -> None:
    async def story() -> None:
        async with scene() as stage:
            balancers = [stage.lb("lb-0"), stage.lb("lb-1")]
            for balancer in balancers:
                balancer.say(messages.pong((await balancer.next("ping"))["id"]))
            await stage.router.applied()
            stage.router.configure("lb-0", {"retries": 1})
            confirmed = asyncio.ensure_future(stage.router.confirmed())
            await balancers[0].next("settings")
            for balancer in balancers:
                await asyncio.sleep(0.05)
                assert not confirmed.done()
                balancer.say(messages.pong((await balancer.next("ping"))["id"]))
            await asyncio.wait_for(confirmed, 120)
            close(balancers)

    asyncio.run(story())


def test_a_worker_is_unhealthy_while_any_lb_finds_it_so() -> None:
    async def story() -> None:
        async with scene() as stage:
            stage.router.publish(upstreams("up"))
            first, second = stage.lb("lb-0"), stage.lb("lb-1")
            first.say(messages.health("worker-0", False, "timeout"))
            assert await stage.saw() == ("worker-0", Health(False, "lb-0 finds: timeout"))
            second.say(messages.health("worker-0", True, ""))
            assert await stage.saw() == ("worker-0", Health(False, "lb-0 finds: timeout"))
            first.peer.close()
            assert await stage.saw() == ("worker-0", Health(True))
            close([second])

    asyncio.run(story())


def test_a_worker_is_unhealthy_until_a_balancer_finds_it_well() -> None:
    """The end of the only one that objects says nothing of the worker, and its successor gets the objection."""

    async def objections(balancer: PlayedLb) -> list[str]:
        return [each.get("objection", "") for each in (await balancer.next("upstreams"))["upstreams"]]

    async def story() -> None:
        async with scene() as stage:
            stage.router.publish(upstreams("up", "up"))
            former = stage.lb("lb-0")
            assert await objections(former) == ["", ""]
            for name, healthy in (("worker-0", True), ("worker-1", False)):
                former.say(messages.health(name, healthy, "timeout"))
            assert await stage.saw() == ("worker-0", Health(True))
            assert await stage.saw() == ("worker-1", Health(False, "lb-0 finds: timeout"))
            second = stage.lb("lb-1")
            assert await objections(second) == ["", "timeout"]
            second.say(messages.health("worker-0", True, "healthy"))
            assert await stage.saw() == ("worker-0", Health(True))
            former.peer.close()
            assert await stage.saw() == ("worker-0", Health(True))
            third = stage.lb("lb-2")
            assert await objections(third) == ["", "timeout"]
            third.say(messages.health("worker-1", True, "healthy"))
            assert await stage.saw() == ("worker-1", Health(True))
            second.say(messages.health("worker-1", False, "timeout"))
            assert await stage.saw() == ("worker-1", Health(False, "lb-1 finds: timeout"))
            # One uses it: another that starts tries it, too.
            fourth = stage.lb("lb-3")
            assert await objections(fourth) == ["", ""]
            third.peer.close()
            assert await stage.saw() == ("worker-1", Health(False, "lb-1 finds: timeout"))
            # A successor of the worker begins without it.
            stage.router.publish(upstreams("up", "down"))
            stage.router.publish(upstreams("up", "up"))
            fifth = stage.lb("lb-4")
            assert await objections(fifth) == ["", ""]
            close([second, fourth, fifth])

    asyncio.run(story())


def test_what_a_load_balancer_only_repeats_is_no_news() -> None:
    async def story() -> None:
        async with scene() as stage:
            stage.router.publish(upstreams("down"))
            balancer = stage.lb("lb-0")
            balancer.say(messages.health("worker-0", False, "as told"))
            balancer.say(messages.ready("lb-0", 1, 5050, 12.5))
            assert await stage.saw() == ("lb-0", Ready(12.5))
            close([balancer])

    asyncio.run(story())


@pytest.mark.slow
def test_a_hung_load_balancer_does_not_hold_up_the_loop() -> None:
    async def story() -> None:
        async with scene() as stage:
            hung, well = stage.lb("lb-0"), stage.lb("lb-1")
            for number in range(2000):
                stage.router.publish(upstreams(*(["up"] * 20), "down" if number % 2 else "up"))
            stage.router.publish(upstreams("down"))
            while len((await well.next("upstreams"))["upstreams"]) != 1:
                pass
            # Nor does it cost memory: once it reads again it finds what the socket held, and the latest table behind
            # it.
            heard = 0
            while len((await hung.next("upstreams"))["upstreams"]) != 1:
                heard += 1
            assert heard < 1000
            close([hung, well])

    asyncio.run(story())


def test_the_table_follows_from_the_fleet() -> None:
    def worker(number: int, state: State, pid: int | None = 7) -> Replica:
        return Replica(spec(f"worker-{number}"), state=state, pid=pid)

    fleet = [
        worker(0, State.READY),
        worker(1, State.UNHEALTHY),
        worker(2, State.STARTING),
        worker(3, State.BACKOFF, None),
        worker(4, State.STOPPING),
        worker(5, State.STOPPED, None),
        Replica(spec("lb-0", rank=1), state=State.READY),
    ]
    endpoints = {f"worker-{number}": Endpoint("127.0.0.1", 6000 + number) for number in range(6)}
    assert [(each.name, each.state) for each in table(fleet, endpoints)] == [
        ("worker-0", "up"), ("worker-1", "up"), ("worker-2", "down"), ("worker-3", "down"), ("worker-4", "draining"),
    ]  # fmt: skip


def test_a_worker_that_is_dead_is_out_before_its_exit_is_known() -> None:
    (told,) = table(
        [Replica(spec("worker-0"), state=State.READY, pid=7, lost=True)], {"worker-0": Endpoint("127.0.0.1", 6000)}
    )
    assert told.state == "down"


def test_the_limit_in_flight_is_shared_among_the_load_balancers() -> None:
    config = parse("pool: 3\nworker-threads: 10\n", Path("/config.yaml"))
    assert builtin.in_flight_share(config) == 3
    assert builtin.in_flight_share(replace(config, worker_threads=2)) == 1

    async def story() -> None:
        async with scene() as stage:
            balancer = stage.lb("lb-0")
            assert (await balancer.next("upstreams"))["max_in_flight"] is None
            stage.router.limit(3)
            assert (await balancer.next("upstreams"))["max_in_flight"] == 3
            close([balancer])

    asyncio.run(story())


@pytest.mark.parametrize("timeout", [1, 1.5, 2, 3, 10, 3600])
def test_a_hung_lb_is_found_within_the_timeout_and_not_sooner(timeout: float) -> None:
    """Seconds from the last answered ping; the kill itself needs a moment more."""
    found = next(number for number in itertools.count(1) if is_hung(number, timeout)) * WATCH_INTERVAL
    assert timeout - WATCH_INTERVAL <= found < timeout


@pytest.mark.parametrize("ended", [False, True])
def test_a_load_balancer_that_no_order_reaches_is_hung(monkeypatch: pytest.MonkeyPatch, ended: bool) -> None:
    """It goes on to serve, also workers that are drained, and nobody would notice. One that has ended is not hung."""
    monkeypatch.setattr(router, "WATCH_INTERVAL", 0.01)

    async def story() -> None:
        async with scene() as stage:
            stage.router.watchdog_timeout = 0.05
            balancer, other = stage.lb("lb-0"), stage.lb("lb-1")
            balancer.say(messages.ready("lb-0", 1, 80, 0.0))
            assert (await stage.saw())[0] == "lb-0"
            balancer.peer.close()
            if ended:
                stage.router.detach("lb-0")
                await asyncio.sleep(0.2)
                assert stage.seen.empty()
            else:
                name, found = await stage.saw()
                assert (name, type(found)) == ("lb-0", Hung)
            close([other])

    asyncio.run(story())
