"""Byte streams for the fault injectors: read in pieces of limited size, relayed at the pace of the slower side."""

import asyncio
import contextlib
from typing import Final, Protocol

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


def reader_and_protocol(
    loop: asyncio.AbstractEventLoop,
) -> tuple[asyncio.StreamReader, asyncio.StreamReaderProtocol]:
    reader = asyncio.StreamReader(limit=MAX_SIZE, loop=loop)
    return reader, asyncio.StreamReaderProtocol(reader, loop=loop)


async def copy(reader: Source, writer: asyncio.StreamWriter) -> None:
    """Relay everything until the end; a reset is relayed as a reset."""
    try:
        while piece := await reader.read(CHUNK_SIZE):
            writer.write(piece)
            await writer.drain()
    except OSError:
        reset(writer)
        return
    if writer.can_write_eof() and not writer.is_closing():
        with contextlib.suppress(OSError):
            writer.write_eof()


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with a RST instead of a FIN."""
    sockets.reset(writer.transport)
