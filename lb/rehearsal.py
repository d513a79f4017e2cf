"""One request served for practice, from a client and by a worker of one's own, on ports that nobody knows.

Whoever has served once serves the next request faster: what is shared with the process that forked this one has been copied where it is
written to, and all that is made at the first use is made.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Final, cast

from lb import server
from lb.counters import Counters
from lb.settings import UP, Settings, UpstreamSpec

_HOST: Final = "127.0.0.1"
_PATIENCE: Final = 5.0  # seconds
_REQUEST: Final = b"GET / HTTP/1.1\r\nHost: rehearsal\r\nConnection: close\r\n\r\n"
_RESPONSE: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


def rehearse() -> None:
    """Serve one request. OSError or TimeoutError: it could not be done."""
    loop = server.new_event_loop()
    try:
        loop.run_until_complete(asyncio.wait_for(_serve_once(loop), _PATIENCE))
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
    balancer = server.Server(loop, Settings("rehearsal"), socket.create_server((_HOST, 0)), Counters(None))
    try:
        await balancer.start((UpstreamSpec("worker", _HOST, worker_port, UP),), None, None)
        yield balancer
    finally:
        for _ in range(2):  # Asked a second time it ends at once.
            balancer.on_signal()
        await balancer.ended


class _Worker(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # By its methods: uvloop's do not descend from it.

    def data_received(self, data: bytes) -> None:
        self._transport.write(_RESPONSE)
        self._transport.close()
