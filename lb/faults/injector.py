"""Injects faults in front of a worker: a small proxy in this process that treats requests as the active faults say.

While a worker has active faults, the load balancer connects to the worker's fault injector instead of the worker. For
the data path that is a worker like any other, so clients and load balancer see the same effects as of a real fault.
Without active faults there is no fault injector, and no cost.

Each connection carries one request, since the next one on it would meet no fault. The fault injector sends `Connection:
close` to the worker and to the load balancer, whatever the worker says (the load balancer does not reuse the connection
anyway, see `Dispatcher.set_dial_address`). After a 101 everything is relayed unchanged. Requests come from the load
balancer's own data path and are well-formed. Responses come from a worker, so they are parsed as the data path parses
them, and one that it will refuse is relayed unchanged. Bodies are relayed in pieces of limited size. Health checks go
directly to the worker, but hang like every request while `hang` is 100.

A shortage on this side (above all of descriptors) is not a fault of the worker: the fault injector waits for its end,
and then responds like a full worker.
"""

import asyncio
import logging
import os
import re
import socket
from collections.abc import Awaitable
from http import HTTPStatus
from pathlib import Path
from time import CLOCK_BOOTTIME, clock_gettime, time
from typing import Final, TypeVar

from fault_rules import Sample
from lb.faults.rules import Faults, Plan, parse
from lb.faults.streams import (
    CHUNK_SIZE,
    MAX_SIZE,
    PACE_INTERVAL,
    Source,
    Streams,
    WorkerProtocol,
    WorkerReader,
    copy,
    reader_and_protocol,
    reset,
)
from lb.http.fields import Refusal
from lb.http.response import ResponseReader, head_end, head_start
from lb.interface.counters import INJECTED, INJECTED_SLOTS
from lb.proxy.dispatcher import SHORTAGE_PAUSE, Dispatcher
from lb.proxy.upstream_pool import Upstream
from lb.system.directory import Directory
from lb.system.regular_files import opened
from lb.system.shortage import is_local_shortage

logger = logging.getLogger("lb")

POLL_INTERVAL: Final = 0.1
"""Seconds between two checks of the folder of the faults files."""

TIMESTAMP_TICK: Final = 0.05
"""Seconds within which two changes of a folder may have the same time: the kernel's file times advance in ticks."""

FAILURE_BODY: Final = b'{"error":"injected failure"}'
BACKLOG: Final = 4096
SHORTAGE_RESPONSE: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: 28\r\nRetry-After: 1\r\n"
    b'X-Comet-Full: 1\r\nConnection: close\r\n\r\n{"error":"out of resources"}'
)

_LENGTH = re.compile(rb"\ncontent-length[ \t]*:[ \t]*([0-9]+)", re.IGNORECASE).search
_CONNECTION = re.compile(rb"\r\nconnection:", re.IGNORECASE).search
_OWN_OPTIONS: Final = (b"", b"close", b"keep-alive")

T = TypeVar("T")


class FaultInjector:
    """The fault injector of one upstream; the load balancer connects to `address`."""

    def __init__(self, upstream: Upstream, faults: Faults, proxy: Dispatcher) -> None:
        """Start to accept; raise OSError if the socket cannot be created."""
        self._upstream = upstream
        self._proxy = proxy
        self._faults = faults
        self._loop = asyncio.get_running_loop()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
        self._listener.setblocking(False)
        self.address: tuple[str, int] = self._listener.getsockname()
        self._resuming: asyncio.TimerHandle | None = None
        self._accepted: set[socket.socket] = set()
        """Connections whose task has not begun: one that is canceled before would leave its socket open."""
        self._serving: set[asyncio.Task[None]] = set()
        self._listen()

    def close(self) -> None:
        """Stop accepting; present requests continue, those included that wait in the backlog."""
        self._loop.remove_reader(self._listener)
        while self._accept():
            pass
        self._listener.close()
        if self._resuming is not None:
            self._resuming.cancel()

    def end(self) -> None:
        """Stop accepting and end all connections."""
        self.close()
        for sock in self._accepted:
            sock.close()
        for task in self._serving:
            task.cancel()

    def _listen(self) -> None:
        # Not the loop's own server: without a free descriptor libuv's server closes connections that it cannot accept,
        # which looks like a worker that closes them.
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> bool:
        """Accept a connection; return whether there was one."""
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            self._proxy.on_shortage()
            self._loop.remove_reader(self._listener)
            self._resuming = self._loop.call_later(SHORTAGE_PAUSE, self._listen)
            return False
        sock.setblocking(False)
        self._accepted.add(sock)
        task = self._loop.create_task(self._serve(sock))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        return True

    async def _serve(self, sock: socket.socket) -> None:
        self._accepted.discard(sock)
        reader, protocol = reader_and_protocol(self._loop)
        try:
            transport, _ = await self._loop.connect_accepted_socket(lambda: protocol, sock)
        except OSError:
            sock.close()
            return
        writer = asyncio.StreamWriter(transport, protocol, reader, self._loop)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            await self._serve_with_faults(head, (reader, writer), self._faults.next(clock_gettime(CLOCK_BOOTTIME)))
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError):
            pass  # One side closed its connection, or the worker sent no HTTP: the other connection is closed now.
        finally:
            writer.close()

    async def _serve_with_faults(self, head: bytes, downstream: Streams, sample: Sample) -> None:
        for kind in (sample.kind, "slow-body" if sample.kind is None and sample.settings.slow_body else None):
            if kind is not None:
                self._upstream.slots[INJECTED_SLOTS[INJECTED.index(kind)]] += 1
        reader, writer = downstream
        if sample.kind is not None:
            self._mark(writer)
        if sample.kind == "hang":
            while await reader.read(CHUNK_SIZE):
                pass
        elif sample.kind == "reset":
            reset(writer)
        elif sample.kind == "failure":
            writer.write(_failure(sample.settings.status))
            await writer.drain()
        else:
            if sample.delay:
                await asyncio.sleep(sample.delay)
            await self._forward(head, downstream, sample)

    def _mark(self, writer: asyncio.StreamWriter) -> None:
        """Let the data path know that it is not the worker that fails the exchange on this connection."""
        port = writer.get_extra_info("peername")[1]
        for connection in self._upstream.connections:
            if connection.transport.get_extra_info("sockname")[1] == port:
                connection.injected = True

    async def _forward(self, head: bytes, downstream: Streams, sample: Sample) -> None:
        """Forward the request to the worker, and the response with the sampled fault."""
        try:
            upstream = await self._open()
        except OSError as error:
            if is_local_shortage(error):
                downstream[1].write(SHORTAGE_RESPONSE)
            return
        upstream[1].write(head if _CONNECTION(head) else head[:-2] + b"Connection: close\r\n\r\n")
        # It ends when the load balancer disconnects, unless in a tunnel. A worker that reads no more may have answered.
        sending = asyncio.ensure_future(copy(downstream[0], upstream[1], to_end=True))
        try:
            await self._relay_response(
                downstream[1], ResponseSource(upstream[0], self._upstream.reader), sample, sending
            )
        finally:
            sending.cancel()
            upstream[1].close()

    async def _open(self) -> Streams:
        reader = WorkerReader(MAX_SIZE, self._loop)
        protocol = WorkerProtocol(reader, self._loop)
        transport = await self._proxy.connect(lambda: protocol, self._upstream.host, self._upstream.port, lambda: True)
        return reader, asyncio.StreamWriter(transport, protocol, reader, self._loop)

    async def _relay_response(
        self, writer: asyncio.StreamWriter, response: "ResponseSource", sample: Sample, sending: "asyncio.Future[None]"
    ) -> None:
        status = 100
        while 100 <= status < 200 and status != 101:
            head, status = await _until_disconnect(response.head(), sending)
            writer.write(with_close_option(head) if status >= 200 else head)
        if status == 101:
            await asyncio.gather(copy(response, writer), sending)
            return
        length = _LENGTH(head)
        if sample.kind == "truncate":
            await _truncate(writer, response, int(length[1]) // 2 if length else None)
        elif sample.settings.slow_body:
            await _send_slowly(writer, response, sample.settings.slow_body)
        else:
            await _until_disconnect(copy(response, writer), sending)


class ResponseSource:
    """The responses of a worker: heads one by one, then the rest."""

    def __init__(self, reader: asyncio.StreamReader, heads: ResponseReader) -> None:
        self._reader = reader
        self._heads = heads
        self._data = b""

    async def head(self) -> tuple[bytes, int]:
        """Return the next head and its status, 0 if it is invalid; raise EOFError at the end of the stream."""
        checked = 0
        while True:
            begin = head_start(self._data, 0)
            end = head_end(self._data, begin)
            try:
                if end >= 0:
                    raw, self._data = self._data[begin:end], self._data[end:]
                    return raw, self._heads.read(raw).status
                checked = self._heads.check_incomplete(self._data, checked)
            except Refusal:
                raw, self._data = (raw, self._data) if end >= 0 else (self._data, b"")
                return raw, 0
            if len(self._data) > MAX_SIZE:
                raise ValueError("endless head")
            piece = await self._reader.read(CHUNK_SIZE)
            if not piece:
                raise EOFError
            self._data += piece

    async def read(self, size: int) -> bytes:
        """Return at most `size` bytes of what follows the last head; b"" at the end."""
        if self._data:
            piece, self._data = self._data[:size], self._data[size:]
            return piece
        return await self._reader.read(size)


def with_close_option(head: bytes) -> bytes:
    """Return the head with `Connection: close` in place of its other connection options."""
    *lines, _, _ = head.split(b"\n")
    fields = [line.partition(b":") for line in lines]
    named = [value for name, _, value in fields if name.strip().lower() == b"connection"]
    kept = [
        line
        for line, (name, _, _) in zip(lines, fields, strict=True)
        if name.strip().lower() not in (b"connection", b"keep-alive")
    ]
    options = [option for each in b",".join(named).split(b",") if (option := each.strip()).lower() not in _OWN_OPTIONS]
    return b"\n".join([*kept, b"Connection: " + b", ".join([b"close", *options]) + b"\r", b"\r", b""])


async def _until_disconnect(work: Awaitable[T], sending: "asyncio.Future[None]") -> T:
    """Return the result of `work`; raise EOFError as soon as the load balancer disconnects, which ends `sending`."""
    working = asyncio.ensure_future(work)
    try:
        await asyncio.wait((working, sending), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise EOFError
        return working.result()
    finally:
        working.cancel()


async def _truncate(writer: asyncio.StreamWriter, response: Source, length: int | None) -> None:
    """Relay half of the body (of an unknown length: half of its first piece), then reset the connection."""
    if length is None:
        piece = await response.read(CHUNK_SIZE)
        writer.write(piece[: len(piece) // 2])
    else:
        while length > 0 and (piece := await response.read(min(CHUNK_SIZE, length))):
            length -= len(piece)
            writer.write(piece)
            await writer.drain()
    await writer.drain()
    # Time for the load balancer to read the data: a reset discards what its socket still holds.
    await asyncio.sleep(PACE_INTERVAL)
    reset(writer)


async def _send_slowly(writer: asyncio.StreamWriter, response: Source, rate: float) -> None:
    size = max(1, int(rate * PACE_INTERVAL))
    while piece := await response.read(size):
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(len(piece) / rate)


def _failure(status: int) -> bytes:
    try:
        reason = HTTPStatus(status).phrase
    except ValueError:
        reason = "Injected Failure"
    head = (
        f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: "
        f"{len(FAILURE_BODY)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + FAILURE_BODY


class FaultInjectors:
    """Opens and closes fault injectors according to the faults files in a folder."""

    def __init__(self, loop: asyncio.AbstractEventLoop, proxy: Dispatcher, folder: str) -> None:
        self._loop = loop
        self._proxy = proxy
        self._folder = Directory(folder)
        self._boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        self._last_seen: tuple[int, tuple[Upstream, ...]] = (-1, ())
        self._faults: dict[Upstream, Faults] = {}
        self._injectors: dict[Upstream, FaultInjector] = {}
        self._task = loop.create_task(self._watch())

    def close(self) -> None:
        self._task.cancel()
        for injector in self._injectors.values():
            injector.end()

    async def _watch(self) -> None:
        while True:
            try:
                self.update()
            except OSError as error:
                logger.warning("faults: %s: %s; the current faults stay active", error.filename, error.strerror)
            await asyncio.sleep(POLL_INTERVAL)

    def update(self) -> None:
        """Read changed files, and run a fault injector for exactly those upstreams that have active faults."""
        # Files are replaced by rename(2), so every change of a file changes the folder.
        folder = self._folder.path
        wall_clock, changed, order = time(), os.stat(folder).st_mtime_ns, tuple(self._proxy.pool.order)
        if (changed, order) != self._last_seen:
            self._read(folder, order)
            # A second change in the same tick would not be noticed, so a folder that has just changed is read again.
            is_settled = abs(wall_clock - changed / 1e9) > TIMESTAMP_TICK
            self._last_seen = (changed if is_settled else -1, order)
        now = clock_gettime(CLOCK_BOOTTIME)
        for upstream, faults in self._faults.items():
            settings = faults.current(now)
            upstream.hangs = settings.hang >= 100
            if settings.harmless == (upstream in self._injectors):
                (self._remove if settings.harmless else self._open)(upstream)

    def _read(self, folder: str, order: tuple[Upstream, ...]) -> None:
        for upstream in [each for each in self._faults if each not in order]:
            del self._faults[upstream]
            injector = self._injectors.pop(upstream, None)
            if injector is not None:
                injector.close()
        for upstream in order:
            faults = self._faults.setdefault(upstream, self._made_faults(upstream))
            try:
                plan = parse(_content(Path(folder, f"{upstream.name}.json")))
            except FileNotFoundError:
                plan = Plan()
            except (OSError, ValueError) as error:
                logger.warning("faults of %s: %s; the current faults stay active", upstream.name, error)
                continue
            if plan != faults.plan:
                faults.plan = plan
                logger.info("active faults of %s: %s", upstream.name, plan)

    def _made_faults(self, upstream: Upstream) -> Faults:
        return Faults(upstream.name, lambda: self._folder.path, self._boot_id, self._proxy.settings.name)

    def _open(self, upstream: Upstream) -> None:
        injector = self._injectors[upstream] = FaultInjector(upstream, self._faults[upstream], self._proxy)
        self._proxy.set_dial_address(upstream, injector.address)

    def _remove(self, upstream: Upstream) -> None:
        self._proxy.set_dial_address(upstream, None)
        self._injectors.pop(upstream).close()


def _content(path: Path) -> str:
    """Return the content of a small file; OSError: missing or not a regular file; ValueError: not text."""
    with os.fdopen(opened(path, os.O_RDONLY), encoding="utf-8") as file:
        return file.read(MAX_SIZE)
