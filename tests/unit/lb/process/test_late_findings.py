"""What a load balancer finds of a worker while that restarts, and reads only when the worker is back: it concerns the
worker before its return.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from lb.interface.counters import Counters
from lb.interface.settings import DOWN, UP, Settings, UpstreamSpec
from lb.process.health_checks import HealthChecker
from lb.proxy.client_connection import Downstream
from lb.proxy.dialer import Dialer
from lb.proxy.dispatcher import Dispatcher
from tests.unit.lb.proxy.test_vanishing_workers import GET, Transport


class Refused(Dialer):
    """Every connection is refused, and that is read when the test says so."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.asked = asyncio.Semaphore(0)
        self.read = asyncio.Semaphore(0)

    async def connect(self, factory: Callable[[], Any], host: str, port: int, timeout: float) -> Any:
        self.asked.release()
        await self.read.acquire()
        raise ConnectionRefusedError


@contextlib.asynccontextmanager
async def by_check(proxy: Dispatcher, dialer: Refused) -> AsyncIterator[None]:
    checker = HealthChecker(proxy)
    checker.update()
    yield
    await dialer.asked.acquire()  # The next check follows the result of this one.
    checker.stop()


@contextlib.asynccontextmanager
async def by_request(proxy: Dispatcher, dialer: Refused) -> AsyncIterator[None]:
    client: Any = Downstream(proxy)
    client.connection_made(Transport())
    client.data_received(GET)
    yield
    while not client.transport.sent:
        await asyncio.sleep(0)


Look = Callable[[Dispatcher, Refused], contextlib.AbstractAsyncContextManager[None]]


def state(proxy: Dispatcher, wanted: str) -> None:
    proxy.set_upstreams((UpstreamSpec("worker-0", "127.0.0.1", 1, wanted),), None)


async def history(look: Look, returns: bool) -> tuple[bool, list[str]]:
    """Refuse one connection to a worker that `returns` before that is read; what is thought of the worker then."""
    loop, told = asyncio.get_running_loop(), list[str]()
    proxy = Dispatcher(loop, Settings(health_interval=0.01), Counters(), b"lb:1")
    proxy.dialer = dialer = Refused(loop)
    state(proxy, UP)
    async with look(proxy, dialer):
        await dialer.asked.acquire()
        if returns:
            state(proxy, DOWN)
            state(proxy, UP)
        proxy.on_health = lambda upstream: told.append(upstream.reason)
        dialer.read.release()
    proxy.wheel.close()
    return proxy.pool.order[0].ready, told


@pytest.mark.parametrize("look", [by_check, by_request])
def test_a_refusal_from_before_its_return_takes_no_worker_out(look: Look) -> None:
    assert asyncio.run(history(look, returns=True)) == (True, [])


@pytest.mark.parametrize("look", [by_check, by_request])
def test_any_other_refusal_takes_a_worker_out(look: Look) -> None:
    assert asyncio.run(history(look, returns=False)) == (False, ["connection refused"])
