"""Byte streams for the fault injectors: read in pieces of limited size, relayed at the pace of the slower side."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, cast

from lb.system import sockets

MAX_SIZE: Final = 1 << 20
"""Bytes of a head, characters of a faults file."""

CHUNK_SIZE: Final = 65536

PACE_INTERVAL: Final = 0.05
"""Seconds between two pieces of a slow body."""

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Source(Protocol):
    """What bytes are read from; b"" at the end."""

    async def read(self, size: int) -> bytes: ...


def reader_and_protocol(loop: asyncio.AbstractEventLoop) -> tuple[asyncio.StreamReader, asyncio.StreamReaderProtocol]:
    reader = asyncio.StreamReader(limit=MAX_SIZE, loop=loop)
    return reader, asyncio.StreamReaderProtocol(reader, loop=loop)


class WorkerReader(asyncio.StreamReader):
    """Returns all that a worker sent before its connection failed, then raises why it did: `failure`."""

    failure: Exception | None = None

    async def read(self, n: int = -1) -> bytes:
        piece = await super().read(n)
        if not piece and self.failure is not None:
            raise self.failure
        return piece


class WorkerProtocol(asyncio.StreamReaderProtocol):
    """The connection of a `WorkerReader`: where it fails, what is left in the receive buffer is read first.

    A failed write ends the transport at once; an early response to an upload is then still in that buffer.
    """

    def __init__(self, reader: WorkerReader, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(reader, loop=loop)
        self._source = reader

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connection = cast(asyncio.Transport, transport)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            while data := sockets.received(self._connection):
                self._source.feed_data(data)
            # EPIPE means a RST after a FIN: with that, all that the worker wanted to send is there.
            self._source.failure = None if data == b"" and isinstance(exc, BrokenPipeError) else exc
        super().connection_lost(None)


async def copy(reader: Source, writer: asyncio.StreamWriter, *, to_end: bool = False) -> None:
    """Relay everything until the end; a reset is relayed as a reset.

    With `to_end` what the other side no longer takes is dropped, so that only the end of `reader` ends this.
    """
    try:
        while piece := await reader.read(CHUNK_SIZE):
            if to_end and writer.is_closing():
                continue
            with contextlib.suppress(OSError) if to_end else contextlib.nullcontext():
                writer.write(piece)
                await writer.drain()
    except OSError:
        reset(writer)
        return
    if writer.can_write_eof() and not writer.is_closing():
        with contextlib.suppress(OSError):
            writer.write_eof()


async def drained(writer: asyncio.StreamWriter, patience: float) -> None:
    """Wait until the peer has read enough for more; raise TimeoutError once it reads nothing for `patience` seconds."""
    if writer.transport.get_write_buffer_size():
        await _while_it_reads(writer, patience, writer.drain)
    else:
        await writer.drain()


async def close(writer: asyncio.StreamWriter, patience: float) -> None:
    """Close once the peer has got what is written, or reads nothing of it for `patience` seconds."""
    writer.close()
    closed = asyncio.gather(writer.wait_closed(), return_exceptions=True)
    try:
        # A wait that ends would end what all wait for (`StreamWriter.wait_closed`).
        await _while_it_reads(writer, patience, lambda: asyncio.shield(closed))
    except TimeoutError:
        writer.transport.abort()
        await closed


async def _while_it_reads(writer: asyncio.StreamWriter, patience: float, wait: Callable[[], Awaitable[Any]]) -> None:
    transport = cast(asyncio.Transport, writer.transport)
    left = sockets.unsent(transport)
    while True:
        try:
            async with asyncio.timeout(patience):
                await wait()
            return
        except TimeoutError:
            before, left = left, sockets.unsent(transport)
            if left >= before:
                raise


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with a RST instead of a FIN."""
    sockets.reset(writer.transport)
