"""Warms up a load balancer process: it serves one request of its own client by its own worker, on ephemeral ports.

The next request is then served faster: memory pages shared with the parent process are already copied where they are
written to, and everything that is created at its first use exists.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Final, cast

from lb.interface.counters import Counters
from lb.interface.settings import UP, Settings, UpstreamSpec
from lb.process import server
from lb.process.event_loop import new_event_loop

_HOST: Final = "127.0.0.1"
_TIMEOUT: Final = 5.0
"""Seconds."""

_REQUEST: Final = b"GET / HTTP/1.1\r\nHost: warm-up\r\nConnection: close\r\n\r\n"
_RESPONSE: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


def warm_up() -> None:
    """Serve one request; raise OSError or TimeoutError if that fails."""
    loop = new_event_loop()
    try:
        loop.run_until_complete(asyncio.wait_for(_serve_once(loop), _TIMEOUT))
    finally:
        loop.close()


async def _serve_once(loop: asyncio.AbstractEventLoop) -> None:
    async with _worker(loop) as port, _balancer(loop, port) as balancer:
        reader, writer = await asyncio.open_connection(_HOST, balancer.port)
        try:
            writer.write(_REQUEST)
            await reader.read()
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def _worker(loop: asyncio.AbstractEventLoop) -> AsyncIterator[int]:
    worker = await loop.create_server(_Worker, _HOST, 0)
    try:
        yield worker.sockets[0].getsockname()[1]
    finally:
        worker.close()


@contextlib.asynccontextmanager
async def _balancer(loop: asyncio.AbstractEventLoop, worker_port: int) -> AsyncIterator[server.Server]:
    balancer = server.Server(loop, Settings("warm-up"), socket.create_server((_HOST, 0)), Counters(None))
    try:
        await balancer.start((UpstreamSpec("worker", _HOST, worker_port, UP),), None, None)
        yield balancer
    finally:
        for _ in range(2):  # The second signal ends it at once.
            balancer.on_signal()
        await balancer.ended


class _Worker(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods but not the base class.
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(_RESPONSE)
        self._transport.close()
