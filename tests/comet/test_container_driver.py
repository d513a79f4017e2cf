"""The driver of containers against an engine played by the test; the real one is in tests/integration."""

import asyncio
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import MagicMock

import docker
import requests

from comet.drivers.container import AWAY, ContainerDriver, ContainerLaunch
from comet.events import Event
from comet.observation import Observation, Revived, Started, StartFailed
from tests.comet.fakes import spec

LAUNCH = ContainerLaunch("image", (), {}, "", "127.0.0.1", 8080, (), 1 << 27, 100, "made so")


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
        return {"State": {"Running": True, "Pid": 7}, "NetworkSettings": {"Ports": self.ports[container]}}

    def _events(self, **_: Any) -> Iterator[dict[str, Any]]:
        if not self.up.is_set():
            raise requests.exceptions.ConnectionError("no such socket")
        return self._stream()

    def _stream(self) -> Iterator[dict[str, Any]]:
        self.down.wait(30)
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
            loop, lambda name, instance, what: self.seen.put_nowait(what), self.told.put_nowait, client, "cluster"
        )
        self.engine.come()
        assert self.driver.watch()

    async def saw(self) -> Observation:
        return await asyncio.wait_for(self.seen.get(), 5)

    async def heard(self) -> str:
        return (await asyncio.wait_for(self.told.get(), 5)).name

    def close(self) -> None:
        self.driver.close()
        self.engine.go()


WORKER = spec("worker-0", driver="container", launch=LAUNCH)


def test_nothing_is_asked_of_an_engine_that_is_away_and_all_is_tried_when_it_is_back() -> None:
    async def story() -> None:
        stage = Stage()
        stage.driver.start(WORKER, 1)
        assert isinstance(await stage.saw(), Started)
        stage.engine.go()
        assert await stage.heard() == "engine_lost"
        asked = stage.engine.api.start.call_count
        stage.driver.start(WORKER, 2)
        assert await stage.saw() == StartFailed(AWAY)
        assert stage.engine.api.start.call_count == asked
        stage.engine.come()
        assert await stage.heard() == "engine_back"
        assert await stage.saw() == Revived()
        stage.driver.start(WORKER, 3)
        assert isinstance(await stage.saw(), Started)
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
        stage.engine.api.remove_container.assert_called_with("comet-cluster-worker-0", force=True, v=True)
        stage.close()

    asyncio.run(story())
