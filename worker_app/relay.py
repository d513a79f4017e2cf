"""Relays connections from a UNIX socket to a TCP server: `python -m worker_app.relay SOCKET HOST:PORT`.

A container cannot reach a server that listens on the host's loopback address alone, as PostgreSQL does by default. It
can reach a socket in a mounted directory, on which this program listens in the host's network. It does not interpret
the bytes. The end of one side ends both.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Sequence

CONNECT_TIMEOUT = 5.0
"""Seconds."""

READ_BYTES = 1 << 16


async def serve(path: str, host: str, port: int) -> None:
    """Relay until SIGTERM or SIGINT; raise OSError if the socket cannot be created."""
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                from_server, to_server = await asyncio.open_connection(host, port)
        except (OSError, TimeoutError) as error:
            print(f"{host}:{port}: {error or 'no response'}", file=sys.stderr, flush=True)
            writer.transport.abort()
            return
        await asyncio.gather(_copy(reader, to_server), _copy(from_server, writer))

    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    server = await asyncio.start_unix_server(relay, path, backlog=1024)
    try:
        await ended.wait()
    finally:
        server.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy to the end; closing the writer still sends what is buffered, so the last bytes arrive."""
    with contextlib.suppress(OSError):
        while data := await reader.read(READ_BYTES):
            writer.write(data)
            await writer.drain()
    writer.close()


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
