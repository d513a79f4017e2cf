"""A gate before a worker: a small proxy in this process that does to requests what the faults in force say.

While anything is wrong with a worker on purpose, the load balancer connects to the worker's gate instead of the worker; to the data path
that is a worker like any other, so what clients see of a fault, and what the load balancer makes of it, is what a real one would
bring about. Without faults there is no gate, and no cost.

One request per connection: the gate asks the worker with `Connection: close` and tells the load balancer the same. Heads come from our
own data path, well-formed; bodies pass in bounded pieces. Health checks pass untouched, but hang with everything else at `hang` 100.
"""

import asyncio
import contextlib
import logging
import os
import re
import socket
import struct
from collections.abc import Awaitable
from http import HTTPStatus
from pathlib import Path
from time import CLOCK_BOOTTIME, clock_gettime
from typing import Final, TypeVar

from lb.counters import EDGE_INJECTED, INJECTED
from lb.faults import Draw, Faults, Plan, Settings, parse
from lb.proxy import Proxy
from lb.upstream import Upstream

logger = logging.getLogger("lb")

LOOK: Final = 0.1  # seconds between two looks at the folder of the faults
LIMIT: Final = 1 << 20  # bytes of a head
PIECE: Final = 65536
BEAT: Final = 0.05  # seconds between two pieces of a slow body
CHECK: Final = b"\r\nUser-Agent: comet-health\r\n"
BODY: Final = b'{"error":"injected failure"}'

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)", re.IGNORECASE).search
_CONNECTION = re.compile(rb"\r\nconnection:", re.IGNORECASE).search

T = TypeVar("T")
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Gate:
    """The gate of one upstream; `address` is where the load balancer finds it."""

    def __init__(self, upstream: Upstream, faults: Faults) -> None:
        self._upstream = upstream
        self._faults = faults
        self._server: asyncio.Server | None = None
        self.address = ("127.0.0.1", 0)

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=LIMIT)
        self.address = self._server.sockets[0].getsockname()[:2]

    def close(self) -> None:
        """Take nothing new; what is under way goes on."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            now = clock_gettime(CLOCK_BOOTTIME)
            if CHECK in head and self._faults.current(now).hang < 100:
                await self._pass(head, (reader, writer), Draw(None, 0.0, Settings()))
            else:
                await self._treat(head, (reader, writer), self._faults.next(now))
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError):
            pass  # Either side went away, or the worker spoke no HTTP: the other one learns of it now.
        finally:
            writer.close()

    async def _treat(self, head: bytes, ours: Streams, fate: Draw) -> None:
        for kind in (fate.kind, "slow-body" if fate.kind is None and fate.settings.slow_body else None):
            if kind is not None:
                self._upstream.slots[EDGE_INJECTED + INJECTED.index(kind)] += 1
        reader, writer = ours
        if fate.kind == "hang":
            while await reader.read(PIECE):
                pass
        elif fate.kind == "reset":
            _reset(writer)
        elif fate.kind == "failure":
            writer.write(_failure(fate.settings.status))
            await writer.drain()
        else:
            if fate.delay:
                await asyncio.sleep(fate.delay)
            await self._pass(head, ours, fate)

    async def _pass(self, head: bytes, ours: Streams, fate: Draw) -> None:
        """Have the worker answer, and hand the answer on as the fate wants it."""
        theirs = await asyncio.open_connection(self._upstream.host, self._upstream.port, limit=LIMIT)
        theirs[1].write(head if _CONNECTION(head) else head[:-2] + b"Connection: close\r\n\r\n")
        sending = asyncio.ensure_future(_copy(ours[0], theirs[1]))
        try:
            await self._answer(ours[1], theirs[0], fate, sending)
        finally:
            sending.cancel()
            theirs[1].close()

    async def _answer(self, down: asyncio.StreamWriter, up: asyncio.StreamReader, fate: Draw, sending: "asyncio.Future[None]") -> None:
        while True:
            head = await _unless_left(up.readuntil(b"\r\n\r\n"), sending)
            status = int(head[9:12])
            final = status >= 200
            down.write(head if not final or _CONNECTION(head) else head[:-2] + b"Connection: close\r\n\r\n")
            if final or status == 101:
                break
        length = _LENGTH(head)
        if fate.kind == "truncate":
            await _cut(down, up, int(length[1]) // 2 if length else None)
        elif fate.settings.slow_body:
            await _slowly(down, up, fate.settings.slow_body)
        else:
            await _unless_left(_copy(up, down), sending)


async def _unless_left(work: Awaitable[T], sending: "asyncio.Future[None]") -> T:
    """The result of `work`; EOFError as soon as the load balancer has gone away, which ends `sending`."""
    working = asyncio.ensure_future(work)
    try:
        await asyncio.wait((working, sending), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise EOFError
        return working.result()
    finally:
        working.cancel()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Everything until the end, at the pace of the slower side."""
    with contextlib.suppress(OSError):
        while piece := await reader.read(PIECE):
            writer.write(piece)
            await writer.drain()


async def _cut(down: asyncio.StreamWriter, up: asyncio.StreamReader, length: int | None) -> None:
    """Half of the body (of an unknown length: half of its first piece), then a reset, so that nobody takes it for whole."""
    if length is None:
        piece = await up.read(PIECE)
        down.write(piece[: len(piece) // 2])
    else:
        while length > 0 and (piece := await up.read(min(PIECE, length))):
            length -= len(piece)
            down.write(piece)
            await down.drain()
    await down.drain()
    # Time for the load balancer to read what came: a reset overtakes what still lies in its socket.
    await asyncio.sleep(BEAT)
    _reset(down)


async def _slowly(down: asyncio.StreamWriter, up: asyncio.StreamReader, rate: float) -> None:
    size = max(1, int(rate * BEAT))
    while piece := await up.read(size):
        down.write(piece)
        await down.drain()
        await asyncio.sleep(len(piece) / rate)


def _reset(writer: asyncio.StreamWriter) -> None:
    """End with a RST instead of a FIN: SO_LINGER with a time of zero (socket(7))."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _failure(status: int) -> bytes:
    try:
        reason = HTTPStatus(status).phrase
    except ValueError:
        reason = "Injected Failure"
    head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {len(BODY)}\r\nConnection: close\r\n\r\n"
    return head.encode() + BODY


class Gatekeeper:
    """Opens and closes gates as the files in a folder say."""

    def __init__(self, loop: asyncio.AbstractEventLoop, proxy: Proxy, folder: str) -> None:
        self._loop = loop
        self._proxy = proxy
        self._folder = folder
        self._boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        self._seen: tuple[int, tuple[Upstream, ...]] = (-1, ())
        self._faults: dict[Upstream, Faults] = {}
        self._gates: dict[Upstream, Gate] = {}
        self._task = loop.create_task(self._watch())

    def close(self) -> None:
        self._task.cancel()

    async def _watch(self) -> None:
        while True:
            try:
                await self.look()
            except OSError as error:
                logger.warning("faults in %s: %s; what was in force stays", self._folder, error.strerror)
            await asyncio.sleep(LOOK)

    async def look(self) -> None:
        """Read what has changed, and let each upstream have a gate exactly while something is wrong with it."""
        # Files are replaced by rename(2), so every change is one of the folder.
        seen = (os.stat(self._folder).st_mtime_ns, tuple(self._proxy.pool.order))
        if seen != self._seen:
            self._read(seen[1])
            self._seen = seen
        now = clock_gettime(CLOCK_BOOTTIME)
        for upstream, faults in self._faults.items():
            harmless = faults.current(now).harmless
            if harmless == (upstream in self._gates):
                await (self._shut if harmless else self._open)(upstream)

    def _read(self, order: tuple[Upstream, ...]) -> None:
        for upstream in [each for each in self._faults if each not in order]:
            del self._faults[upstream]
            gate = self._gates.pop(upstream, None)
            if gate is not None:
                gate.close()
        for upstream in order:
            faults = self._faults.setdefault(upstream, Faults(upstream.name, self._folder, self._boot_id))
            try:
                faults.plan = parse(Path(self._folder, f"{upstream.name}.json").read_text())
            except FileNotFoundError:
                faults.plan = Plan()
            except ValueError as error:
                logger.warning("faults of %s: %s; what was in force stays", upstream.name, error)

    async def _open(self, upstream: Upstream) -> None:
        gate = self._gates[upstream] = Gate(upstream, self._faults[upstream])
        await gate.open()
        self._proxy.lead(upstream, gate.address)

    async def _shut(self, upstream: Upstream) -> None:
        self._proxy.lead(upstream, None)
        self._gates.pop(upstream).close()
