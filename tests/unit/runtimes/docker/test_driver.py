"""The driver of containers against an engine played by the test; the real one is in tests/process and tests/docker."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import MagicMock

import docker
import pytest
import requests

from comet.common.clock import parse
from comet.common.errors import UserError
from comet.engine.errors import UNREACHABLE
from comet.events.event import Event
from comet.reconcile.observations import Exited, Found, Lost, Observation, Revived, Started, StartFailed
from comet.runtimes.docker.container_spec import ContainerLaunch
from comet.runtimes.docker.driver import ContainerDriver
from tests.support.fakes import spec

LAUNCH = ContainerLaunch("image", (), {}, "", "127.0.0.1", 8080, (), 1 << 27, 100, "made so")

MARK = "7:/home/ann/shop"


class PlayedEngine:
    """An engine whose event stream is open while it is `up`; it starts whatever it is asked to."""

    def __init__(self) -> None:
        self.up = threading.Event()
        self.down = threading.Event()
        self.api = MagicMock()
        self.api.events.side_effect = self._events
        self.made = 0
        self.ports: dict[str, dict[str, Any]] = {}
        self.api.create_container.side_effect = self._create
        self.api.inspect_container.side_effect = self._inspect
        self.api.containers.side_effect = lambda **_: [
            {"Id": identity, "State": "running", "Labels": {"comet.replica": "worker-0"}} for identity in self.ports
        ]
        self.began = "2026-11-25T10:00:00.5Z"

    def come(self) -> None:
        self.down.clear()
        self.up.set()

    def go(self) -> None:
        self.up.clear()
        self.down.set()

    def _create(self, **_: Any) -> dict[str, Any]:
        self.made += 1
        self.ports[f"{self.made}" * 64] = {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": "6000"}]}
        return {"Id": f"{self.made}" * 64}

    def _inspect(self, container: str) -> dict[str, Any]:
        return {
            "State": {"Running": True, "Pid": 7, "StartedAt": self.began},
            "NetworkSettings": {"Ports": self.ports[container]},
        }

    def _events(self, **_: Any) -> Iterator[dict[str, Any]]:
        if not self.up.is_set():
            raise requests.exceptions.ConnectionError("no such socket")
        return self._stream()

    def _stream(self) -> Iterator[dict[str, Any]]:
        self.down.wait(600)
        yield from ()


class Stage:
    """A driver, and what it says."""

    def __init__(self) -> None:
        self.engine = PlayedEngine()
        self.seen: asyncio.Queue[Observation] = asyncio.Queue()
        self.told: asyncio.Queue[Event] = asyncio.Queue()
        client = cast(docker.DockerClient, SimpleNamespace(api=self.engine.api))
        loop = asyncio.get_running_loop()
        self.driver = ContainerDriver(
            loop, lambda name, instance, what: self.seen.put_nowait(what), self.told.put_nowait, client, "cluster", MARK
        )
        self.engine.come()
        assert self.driver.watch()

    async def saw(self) -> Observation:
        return await asyncio.wait_for(self.seen.get(), 120)

    def hears(self, action: str, at: float) -> None:
        """An event of its container, `at` seconds after 10:00."""
        attributes = {"exitCode": "137"}
        moment = int((TEN + at) * 1e9)
        self.driver._on_event(
            {"Action": action, "timeNano": moment, "Actor": {"ID": "1" * 64, "Attributes": attributes}}
        )

    async def heard(self) -> str:
        return (await asyncio.wait_for(self.told.get(), 120)).name

    def close(self) -> None:
        self.driver.close()
        self.engine.go()


TEN = parse("2026-11-25T10:00:00Z") or 0.0
WORKER = spec("worker-0", driver="container", launch=LAUNCH)


@pytest.mark.slow
def test_an_absent_engine_gets_no_calls_until_it_is_back() -> None:
    async def story() -> None:
        stage = Stage()
        stage.driver.start(WORKER, 1)
        assert isinstance(await stage.saw(), Started)
        stage.engine.go()
        assert await stage.heard() == "engine_lost"
        asked = stage.engine.api.start.call_count
        stage.driver.start(WORKER, 2)
        assert await stage.saw() == StartFailed(UNREACHABLE)
        assert stage.engine.api.start.call_count == asked
        stage.engine.come()
        assert await stage.heard() == "engine_back"
        assert await stage.saw() == Found()
        assert await stage.saw() == Revived()
        stage.driver.start(WORKER, 3)
        assert isinstance(await stage.saw(), Started)
        stage.close()

    asyncio.run(story())


@contextlib.contextmanager
def hanging(call: MagicMock) -> Iterator[None]:
    """A call to the engine that gets no answer for a while."""
    freed, answer = threading.Event(), call.side_effect

    def wait(*arguments: Any, **options: Any) -> Any:
        freed.wait(600)
        return None if answer is None else answer(*arguments, **options)

    call.side_effect = wait
    try:
        yield
    finally:
        call.side_effect = answer
        freed.set()


def test_an_engine_that_hangs_is_lost_until_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its event stream stays open."""
    # One sweep, as there is one at a time: the timer of a second one could end after the first was answered.
    monkeypatch.setattr("comet.runtimes.docker.driver.SWEEP_INTERVAL", 3600)
    monkeypatch.setattr("comet.runtimes.docker.driver.HANG_TIMEOUT", 0.1)

    async def story() -> None:
        stage = Stage()
        stage.driver.start(WORKER, 1)
        assert isinstance(await stage.saw(), Started)
        with hanging(stage.engine.api.containers):
            stage.driver._schedule_sweep()
            assert await stage.heard() == "engine_lost"
            assert stage.driver.lost == UNREACHABLE
        assert await stage.heard() == "engine_back"
        assert not stage.driver.lost
        assert {type(await stage.saw()), type(await stage.saw())} == {Found, Revived}
        stage.close()

    asyncio.run(story())


def test_a_signal_that_the_engine_does_not_send_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that waits behind another call that hangs is not sent later."""

    async def story() -> None:
        stage = Stage()
        kill, signal = stage.engine.api.kill, stage.driver.send_signal
        stage.driver.start(WORKER, 1)
        assert isinstance(await stage.saw(), Started)
        await signal("worker-0", 10)
        with hanging(kill):
            first = asyncio.create_task(signal("worker-0", 9))
            while kill.call_count < 2:
                await asyncio.sleep(0.01)
            with monkeypatch.context() as patched:
                patched.setattr("comet.runtimes.docker.driver.ORDER_TIMEOUT", 0.01)
                with pytest.raises(UserError, match=f"worker-0: {UNREACHABLE}; "):
                    await signal("worker-0", 12)
        await first
        await signal("worker-0", 15)
        assert [call.args for call in kill.call_args_list] == [("1" * 64, number) for number in (10, 9, 15)]
        kill.side_effect = requests.exceptions.ReadTimeout("Read timed out. (read timeout=60)")
        with pytest.raises(UserError, match=f"worker-0: {UNREACHABLE}$"):
            await signal("worker-0", 9)
        stage.close()

    asyncio.run(story())


def test_a_container_has_the_folders_mark_to_recover_a_lost_id() -> None:
    async def story() -> None:
        stage = Stage()
        stage.driver.start(WORKER, 1)
        assert isinstance(await stage.saw(), Started)
        labels = stage.engine.api.create_container.call_args.kwargs["labels"]
        assert labels["comet.folder"] == MARK
        assert labels["comet.cluster"] == "cluster"
        stage.close()

    asyncio.run(story())


def test_a_container_that_comes_up_without_its_port_is_made_anew() -> None:
    async def story() -> None:
        stage = Stage()
        stage.driver.start(WORKER, 1)
        assert await stage.saw() == Started(7, "1" * 12)
        stage.engine.ports["1" * 64] = {}
        stage.driver.start(WORKER, 2)
        assert await stage.saw() == Started(7, "2" * 12)
        stage.engine.api.remove_container.assert_called_with("1" * 64, force=True, v=True)
        stage.close()

    asyncio.run(story())


def test_late_news_of_an_earlier_life_is_no_death() -> None:
    async def story() -> None:
        stage = Stage()
        stage.driver.start(WORKER, 1)
        assert isinstance(await stage.saw(), Started)
        stage.hears("die", at=0.4)
        assert await stage.saw() == Found()
        stage.hears("die", at=0.6)  # Its clock was set meanwhile: only the look can tell.
        assert await stage.saw() == Lost()
        assert await stage.saw() == Found()
        stage.close()

    asyncio.run(story())


def test_a_start_takes_over_a_life_that_others_began() -> None:
    async def story() -> None:
        stage = Stage()
        stage.driver.start(WORKER, 1)
        assert isinstance(await stage.saw(), Started)
        stage.engine.began = "2026-11-25T10:00:09Z"
        stage.hears("start", at=9)
        death = await stage.saw()
        assert isinstance(death, Exited)
        assert death.exit.code is None
        stage.hears("die", at=8)  # In the wrong order: what ended is known already.
        assert await stage.saw() == Found()  # It waits for its start, which need not wait any more.
        stage.driver.start(WORKER, 2)
        assert await stage.saw() == Started(7, "1" * 12)
        stage.engine.api.create_container.assert_called_once()
        stage.close()

    asyncio.run(story())
