"""One client's connection at the front: reads its requests and relays them to the data path, with the sampled faults.

The data path gets a connection of its own for each client's connection, so that it treats requests as it does without
faults: keep-alive, retries, errors, refusals. Its responses are well-formed. What the front does not understand (an
invalid head, a tunnel) is relayed unchanged from there on, and the data path decides about it.

A response that cannot be completed ends with a RST, so that no client takes it for complete.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from math import inf
from time import monotonic
from typing import Final, NamedTuple, cast

from lb.faults.front_heads import (
    CHUNKED,
    UNTIL_CLOSE,
    Head,
    framing,
    own_answer,
    read_head,
    same_resource,
    too_slow,
    without,
)
from lb.faults.front_input import Input
from lb.faults.front_rules import FrontSample, FrontSettings, Request
from lb.faults.streams import CHUNK_SIZE, PACE_INTERVAL, Streams, close, copy, drained, reset
from lb.http.chunked import ChunkedReader, frame, last
from lb.http.fields import Refusal
from lb.http.proxy_protocol import read
from lb.system.sockets import descriptor, failed, readable, unsent

GARBAGE: Final = b"\x16\x03\x01\x00\xff\x00no HTTP\r\n\x00\xfe\xff\r\n\r\n"
MAX_EARLY: Final = 65536
"""Bytes of later requests that are read during an exchange."""

HEAD_PIECES: Final = 10
"""Pieces in which a slow head is sent."""

TUNNEL_POLL_INTERVAL: Final = 0.5
"""Seconds between two looks whether anything moves in a tunnel."""

_OF_FRAMING: Final = (b"content-length", b"transfer-encoding")

OpenInner = Callable[[str | None], Awaitable[Streams]]
"""Connects to the data path, for a client of the given address, None for that of the connection."""

HeaderRefused = Callable[[str, bytes], None]
"""Gets why a header of the PROXY protocol is malformed, and the bytes."""


class Timeouts(NamedTuple):
    """Those of the data path, in seconds: for the begin of a head, its end, the progress of a body, and of a tunnel."""

    idle: float
    head: float
    body: float
    tunnel: float


class FrontConnection:
    """Serves one client; `sample` samples the faults of a request, `open_inner` connects to the data path."""

    def __init__(
        self,
        client: Streams,
        sample: Callable[[Request], FrontSample],
        open_inner: OpenInner,
        timeouts: Timeouts,
        early: bytes = b"",
        header_refused: HeaderRefused | None = None,
    ) -> None:
        """Make the connection; with `header_refused` it may begin with a header of the PROXY protocol."""
        self._input = Input(client[0])
        self._input.data = early
        self._writer = client[1]
        self._sample = sample
        self._open_inner = open_inner
        self._timeouts = timeouts
        self._header_refused = header_refused
        self._address: str | None = None
        self._inner: tuple[Input, asyncio.StreamWriter] | None = None
        self._incomplete = self._upgraded = False
        self.idle_since = inf
        """Since when it has waited for a request (monotonic seconds); inf while it serves one."""

    def has_input(self) -> bool:
        """Return whether something of a request has come."""
        return bool(self._input.data) or readable(descriptor(cast(asyncio.Transport, self._writer.transport)))

    async def run(self) -> None:
        """Serve requests until the connection ends."""
        try:
            if self._header_refused is not None:
                await self._read_header(self._header_refused)
            while await self._serve_next():
                pass
        except (OSError, EOFError, Refusal, ValueError, TimeoutError):
            if self._incomplete:
                reset(self._writer)
        finally:
            self._writer.close()
            if self._inner is not None:
                self._inner[1].close()
        await close(self._writer, self._timeouts.body)

    async def _read_header(self, refused: HeaderRefused) -> None:
        await self._wait_for_request()
        async with asyncio.timeout(self._timeouts.head):
            try:
                while (header := read(self._input.data)) is None:
                    if not await self._input.more():
                        return
            except ValueError as error:
                refused(str(error), self._input.data)
                self._incomplete = True
                raise
        self._input.data = self._input.data[header.size :]
        self._address = None if header.address is None else str(header.address)

    async def _wait_for_request(self) -> None:
        """Wait for the first byte of what the client sends next, or for its end."""
        self.idle_since = monotonic()
        async with asyncio.timeout(self._timeouts.idle):
            await self._input.wait()
        self.idle_since = inf

    async def _serve_next(self) -> bool:
        await self._wait_for_request()
        try:
            async with asyncio.timeout(self._timeouts.head):
                head = await self._input.head()
        except TimeoutError:
            return await self._refuse_slow("head", self._input.data[:5] == b"HEAD ")
        found = read_head(head) if head else None
        if found is None:
            if head or self._input.data:
                await self._tunnel(head)
            return False
        sample = self._sample(found.request)
        if sample.kind in ("hang", "reset", "garbage", "redirect", "failure"):
            return await self._answer(found, sample)
        if sample.delay:
            await asyncio.sleep(sample.delay)
        return await self._forward(head, found, sample)

    async def _answer(self, head: Head, sample: FrontSample) -> bool:
        """Treat a request that the data path does not get; return whether the connection goes on."""
        if sample.kind == "hang":
            while await self._input.read(CHUNK_SIZE):
                pass
            return False
        if sample.kind == "reset":
            reset(self._writer)
            return False
        if sample.kind == "garbage":
            self._writer.write(GARBAGE)
            await self._drained()
            return False
        keeps = head.keeps and not head.expects
        settings = sample.settings
        if not head.expects and not await self._skip_body(head.length):
            return await self._refuse_slow("body", head.request.method == "HEAD")
        if sample.kind == "redirect":
            settings = FrontSettings(status=302, headers=(f"Location: {same_resource(head.request.target)}",), body="")
        self._writer.write(own_answer(settings, head.request.method == "HEAD", keeps))
        await self._drained()
        return keeps

    async def _refuse_slow(self, part: str, head_only: bool) -> bool:
        self._writer.write(own_answer(too_slow(part), head_only, keeps=False))
        await self._drained()
        return False

    async def _drained(self) -> None:
        """Wait until the client takes more; TimeoutError, and a reset in the end, where it has stopped reading."""
        try:
            await drained(self._writer, self._timeouts.body)
        except TimeoutError:
            self._incomplete = True
            raise

    # Requests.

    async def _skip_body(self, length: int) -> bool:
        """Read a body that nobody gets; return False if it makes no progress in time."""
        body = self._request_body(length)
        with contextlib.suppress(StopAsyncIteration):
            while True:
                try:
                    async with asyncio.timeout(self._timeouts.body):
                        await anext(body)
                except TimeoutError:
                    return False
        return True

    async def _request_body(self, length: int) -> AsyncIterator[bytes]:
        """Yield the body of a request as it arrived."""
        if length != CHUNKED:
            while length > 0:
                piece = await self._input.read(min(length, CHUNK_SIZE))
                if not piece:
                    raise EOFError
                length -= len(piece)
                yield piece
            return
        reader = ChunkedReader()
        while not reader.done:
            piece = await self._input.read(CHUNK_SIZE)
            if not piece:
                raise EOFError
            reader.feed(piece)
            if reader.done and reader.rest:
                self._input.data = reader.rest + self._input.data
                piece = piece[: -len(reader.rest)]
            yield piece

    async def _forward(self, raw: bytes, head: Head, sample: FrontSample) -> bool:
        """Relay a request and its response; return whether the connection goes on."""
        if self._inner is not None and self._inner[0].has_ended:
            self._inner[1].close()
            self._inner = None
        if self._inner is None:
            reader, writer = await self._open_inner(self._address)
            self._inner = Input(reader), writer
        self._inner[1].write(raw)
        sending = asyncio.ensure_future(self._send(head.length, sample))
        responding = asyncio.ensure_future(self._respond(head, sample))
        try:
            await asyncio.wait((sending, responding), return_when=asyncio.FIRST_COMPLETED)
            if not responding.done() and sending.exception() is not None:
                return False  # The client is gone.
            keeps = await responding and head.keeps
        finally:
            sending.cancel()
            responding.cancel()
            await asyncio.gather(sending, responding, return_exceptions=True)
        if self._upgraded:
            await self._tunnel(b"")
            return False
        if keeps and sample.kind == "close-kept":
            await self._input.wait()
            return False
        return keeps

    async def _send(self, length: int, sample: FrontSample) -> None:
        """Relay the body of a request; then read early requests, so that the end of the client is noticed."""
        assert self._inner is not None
        writer = self._inner[1]
        rate = sample.settings.slow_upload
        async for piece in self._request_body(length):
            async for part in self._paced(piece, rate, sample):
                with contextlib.suppress(OSError):  # The data path has answered already, and reads no more.
                    writer.write(part)
                    await writer.drain()
        while len(self._input.data) < MAX_EARLY and await self._input.more():
            pass
        if not self._input.data:
            with contextlib.suppress(OSError):
                writer.write_eof()

    async def _paced(self, data: bytes, rate: float, sample: FrontSample) -> AsyncIterator[bytes]:
        """Yield data in parts, at a rate in bytes per second and with the jitter."""
        jitter = sample.settings.jitter / 1000
        size = max(1, int(rate * PACE_INTERVAL)) if rate else len(data)
        for at in range(0, len(data), max(size, 1)):
            part = data[at : at + size]
            if jitter:
                await asyncio.sleep(sample.random.random() * jitter)
            yield part
            if rate:
                await asyncio.sleep(len(part) / rate)

    # Responses.

    async def _respond(self, head: Head, sample: FrontSample) -> bool:
        """Relay the response; return whether it keeps the connection."""
        assert self._inner is not None
        source, status, raw = self._inner[0], 100, b""
        while 100 <= status < 200 and status != 101:
            raw = await source.head()
            if not raw:
                self._writer.write(source.data)
                return False
            status = int(raw[9:12])
            if status < 200:
                self._writer.write(raw)
        if status == 101:
            self._upgraded = True
            return True
        if sample.kind == "reset-after":
            reset(self._writer)
            return False
        bodiless = head.request.method == "HEAD" or status in (204, 304)
        length, closes = framing(raw)
        return await self._relay(raw, 0 if bodiless else length, closes, sample)

    async def _relay(self, raw: bytes, length: int, closes: bool, sample: FrontSample) -> bool:
        kind, cut = sample.kind, sample.kind in ("truncate", "reset-body")
        if kind == "wrong-length":
            said = length // 2 if length > 0 else 1 if length else 10
            raw = without(raw, *_OF_FRAMING) + b"Content-Length: %d\r\n\r\n" % said
        elif kind == "bad-framing":
            raw = without(raw, *_OF_FRAMING) + b"Transfer-Encoding: chunked\r\n\r\nno size\r\n"
        elif kind == "close-kept":
            raw = without(raw, b"connection") + b"\r\n"
        self._incomplete = True
        await self._write_head(raw, sample)
        left = length // 2 if cut and length > 0 else 1 << 62
        as_chunks = length == CHUNKED and kind not in ("wrong-length", "bad-framing")
        async for piece in self._response_body(length):
            piece = piece[: max(len(piece) // 2, 1)] if cut and length < 0 else piece[:left]
            left -= len(piece)
            async for part in self._paced(piece, sample.settings.slow_body, sample):
                self._writer.writelines(frame([part]) if as_chunks else [part])
                await self._drained()
            if cut and (length < 0 or left <= 0):
                break
        if cut:
            return await self._cut(kind == "reset-body")
        if as_chunks:
            self._writer.write(last([]))
        await self._drained()
        self._incomplete = False
        return not closes and kind != "bad-framing" and not (kind == "wrong-length" and not length)

    async def _cut(self, with_reset: bool) -> bool:
        """End the connection in the middle of a body."""
        await self._drained()
        if with_reset:
            # Time for the client to read the data: a reset discards what its socket still holds.
            await asyncio.sleep(PACE_INTERVAL)
            reset(self._writer)
        self._incomplete = False
        return False

    async def _write_head(self, raw: bytes, sample: FrontSample) -> None:
        pause = sample.settings.slow_head / 1000 / HEAD_PIECES
        size = -(-len(raw) // HEAD_PIECES) if pause else len(raw)
        for at in range(0, len(raw), size):
            if pause:
                await asyncio.sleep(pause)
            self._writer.write(raw[at : at + size])
            await self._drained()

    async def _response_body(self, length: int) -> AsyncIterator[bytes]:
        """Yield the body of a response, decoded."""
        assert self._inner is not None
        source = self._inner[0]
        reader = ChunkedReader(lax=True) if length == CHUNKED else None
        while length and not (reader is not None and reader.done):
            piece = await source.read(CHUNK_SIZE if length < 0 else min(length, CHUNK_SIZE))
            if not piece and length != UNTIL_CLOSE:
                raise EOFError
            if not piece:
                return
            if reader is not None:
                for decoded in reader.feed(piece):
                    yield decoded
                if reader.done:
                    source.data = reader.rest + source.data
            else:
                length -= len(piece) if length > 0 else 0
                yield piece

    async def _tunnel(self, head: bytes) -> None:
        """Relay everything unchanged from now on."""
        data = head + self._input.data
        self._input.data = b""
        if self._inner is None:
            reader, writer = await self._open_inner(self._address)
            self._inner = Input(reader), writer
        source, writer = self._inner
        writer.write(data)
        copies = [asyncio.create_task(copy(self._input, writer)), asyncio.create_task(copy(source, self._writer))]
        try:
            await self._while_it_moves(copies, source, writer)
        finally:
            for each in copies:
                each.cancel()

    async def _while_it_moves(
        self, copies: list["asyncio.Task[None]"], source: Input, inner: asyncio.StreamWriter
    ) -> None:
        """Return when both directions of a tunnel have ended; TimeoutError, and a reset, where it stands still.

        The loop does not notice that the data path has reset its side while what came from there waits for a client
        that does not read.
        """
        is_cut, moved, moved_at = False, (0, 0, 0, 0), monotonic()
        while (await asyncio.wait(copies, timeout=TUNNEL_POLL_INTERVAL))[1]:
            ends = [cast(asyncio.Transport, writer.transport) for writer in (self._writer, inner)]
            is_cut = is_cut or failed(ends[1])
            before, moved = moved, (self._input.taken, source.taken, unsent(ends[0]), unsent(ends[1]))
            if moved != before:
                moved_at = monotonic()
            elif monotonic() - moved_at >= (self._timeouts.body if is_cut else self._timeouts.tunnel):
                self._incomplete = True
                raise TimeoutError
