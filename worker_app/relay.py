"""`python -m worker_app.relay SOCKET HOST:PORT`: passes what comes in at a UNIX socket on to a TCP server, and back.

A container cannot reach a server that listens on the host's loopback alone, as PostgreSQL does by default. It can reach a socket in a
mounted directory: this program, in the host's network, is what listens there. It knows nothing of what it passes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

CONNECT_PATIENCE = 5.0  # seconds


class Side(asyncio.Protocol):
    """One end of a passage; `peer` is the other one. What cannot be sent on is not read."""

    def __init__(self, peer: Side | None = None) -> None:
        self.peer = peer
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.write(data)

    def pause_writing(self) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        # Closing sends what is still to be sent: a server's last word arrives.
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.close()


class Client(Side):
    """The end at the UNIX socket: connects to the server before it reads anything."""

    def __init__(self, host: str, port: int, spawn: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        super().__init__()
        self._address = (host, port)
        self._spawn = spawn

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self.transport is not None
        self.transport.pause_reading()
        self._spawn(self._connect())

    async def _connect(self) -> None:
        assert self.transport is not None
        try:
            async with asyncio.timeout(CONNECT_PATIENCE):
                _, self.peer = await asyncio.get_running_loop().create_connection(lambda: Side(self), *self._address)
        except (OSError, TimeoutError) as error:
            print(f"{self._address[0]}:{self._address[1]}: {error or 'no answer'}", file=sys.stderr, flush=True)
            self.transport.abort()
            return
        if self.transport.is_closing():
            self.connection_lost(None)
        else:
            self.transport.resume_reading()


async def serve(path: str, host: str, port: int) -> None:
    """Pass on until SIGTERM or SIGINT. OSError: the socket cannot be made."""
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)

    def spawn(work: Coroutine[Any, Any, None]) -> None:
        task = loop.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    server = await loop.create_unix_server(lambda: Client(host, port, spawn), path, backlog=1024)
    try:
        await ended.wait()
    finally:
        server.close()


def main(argv: Sequence[str]) -> int:
    try:
        path, address = argv
        host, _, port = address.rpartition(":")
        asyncio.run(serve(path, host.strip("[]"), int(port)))
    except ValueError:
        print("usage: python -m worker_app.relay SOCKET HOST:PORT", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{argv[0]}: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
