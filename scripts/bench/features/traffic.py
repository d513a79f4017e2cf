"""The traffic: workers that behave as a feature asks, and clients that repeat nothing.

All of them share one event loop. The workers are the same for every proxy; an answer's body is its worker's name.
"""

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from itertools import cycle

from comet.load.response import read_answer
from scripts.bench.proc import BenchError

ANSWER_TIMEOUT = 30.0
WAIT_TIMEOUT = 60.0


async def wait_until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition; BenchError if it does not come true."""
    deadline = time.monotonic() + WAIT_TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            raise BenchError(f"not within {WAIT_TIMEOUT:g} s: {what}")
        await asyncio.sleep(0.002)


class Worker:
    """Keeps what it receives, and answers as it `says`, once it may (`gate`); checks get the status `check`."""

    def __init__(self, name: str, port: int) -> None:
        self.name, self.port = name, port
        self.gate = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self.in_flight = 0

    def says(self, *statuses: int) -> None:
        """Answer with these in turn; 0 is to close in place of an answer."""
        self._statuses = cycle(statuses)

    async def reset(self) -> None:
        """Behave well again, and forget what was received."""
        self.says(200)
        self.check = 200
        self.heads: list[str] = []
        self.times: list[float] = []
        self.gate.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=1024)

    async def refuse(self) -> None:
        """Refuse connections from now on, and close those that are open."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for each in list(self._open):
            each.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):  # Cancelled at the end of the bench.
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                status = await self._status(head)
                if not status:
                    break
                fields = f"Content-Length: {len(self.name)}\r\nDate: Mon, 23 Nov 2026 10:00:00 GMT\r\n"
                writer.write(f"HTTP/1.1 {status} Said\r\n{fields}\r\n{self.name}".encode())
                if " HTTP/1.0\r\n" in head:
                    break
        self._open.discard(writer)
        writer.close()

    async def _status(self, head: str) -> int:
        """Return the status of the answer, 0 for none."""
        if " /healthz " in head:
            return self.check
        self.heads.append(head)
        self.times.append(time.monotonic())
        self.in_flight += 1
        try:
            await self.gate.wait()
        finally:
            self.in_flight -= 1
        return next(self._statuses)


@dataclass(frozen=True)
class Reply:
    """What a client got: status 0 without a valid answer; `begun` is when it sent the request."""

    status: int
    worker: str
    begun: float
    fields: Mapping[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        return self.status != 200


class Client:
    """A client with one connection, which it keeps if it may."""

    def __init__(
        self, port: int, tls: ssl.SSLContext | None = None, source: str = "127.0.0.1", first: bytes = b""
    ) -> None:
        self._address = {"host": "127.0.0.1", "port": port, "ssl": tls, "local_addr": (source, 0)}
        self._first = first
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.opened = 0

    async def ask(self, *fields: str, method: str = "GET", target: str = "/", keep: bool = True) -> Reply:
        """Send one request and return what becomes of it."""
        begun = time.monotonic()
        length = ["Content-Length: 0"] if method == "POST" else []
        lines = [f"{method} {target} HTTP/1.1", "Host: bench.example", *length, *fields, "", ""]
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                reader, writer = await self._connected()
                writer.write("\r\n".join(lines).encode())
                head, body, keeps = await read_answer(reader, method, b"")
        except (OSError, EOFError, ValueError):
            self.close()
            return Reply(0, "", begun)
        if not (keep and keeps):
            self.close()
        worker = body.decode("latin-1") if body.startswith(b"worker-") else ""  # Others are the proxy's own errors.
        return Reply(head.status, worker, begun, head.fields)

    async def certificate(self) -> bytes:
        """Return the certificate that a connection has got."""
        _, writer = await self._connected()
        shown: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return shown

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is not None and self._streams[0].at_eof():
            self.close()
        if self._streams is None:
            self._streams = await asyncio.open_connection(**self._address)
            self.opened += 1
            self._streams[1].write(self._first)
        return self._streams

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class Load:
    """Clients that each send their next request after the last answer: half on a kept connection, half on new ones."""

    def __init__(self, port: int, tls: ssl.SSLContext | None, size: int) -> None:
        self._clients = [Client(port, tls) for _ in range(size)]
        self._over = False
        self.replies: list[Reply] = []

    async def run(self) -> None:
        await asyncio.gather(*(self._one(each, n % 2 == 0) for n, each in enumerate(self._clients)))

    async def _one(self, client: Client, keep: bool) -> None:
        while not self._over:
            reply = await client.ask(keep=keep)
            self.replies.append(reply)
            if reply.failed:
                await asyncio.sleep(0.01)
        client.close()

    def end(self) -> None:
        self._over = True

    async def more(self, count: int) -> float:
        """Wait for the answers to this many requests that are sent from now on; return the present time."""
        now, start = time.monotonic(), len(self.replies)
        await wait_until(lambda: sum(each.begun > now for each in self.replies[start:]) >= count, "more answers")
        return now

    def since(self, begun: float) -> list[Reply]:
        return [each for each in self.replies if each.begun > begun]

    @property
    def errors(self) -> int:
        return sum(each.failed for each in self.replies)

    @property
    def reopened(self) -> int:
        """How often a client had to replace the connection that it would have kept."""
        return sum(each.opened - 1 for each in self._clients[::2])


@contextlib.asynccontextmanager
async def load(port: int, tls: ssl.SSLContext | None = None, size: int = 8) -> AsyncIterator[Load]:
    """Run a load for a block."""
    made = Load(port, tls, size)
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        made.end()
        await task
