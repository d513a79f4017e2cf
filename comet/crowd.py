"""A bounded crowd of HTTP clients, and the book of what they saw.

Each client asks over and over on one keep-alive connection to one load balancer, as a browser or a service would: a GET that finds its
connection closed before the first byte of the answer is asked once more on a new one, if the connection had served before (RFC 9110 section
9.2.2); that is counted. Nothing else is repeated, and nothing is forgiven.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

INJECTED = b'{"error":"injected failure"}'
AFTER_TROUBLE = 0.05
"""Seconds that a client whose connection failed waits at least, so that a dead port is not hammered."""

UNANSWERED = (OSError, EOFError, ValueError, IndexError, asyncio.LimitOverrunError)
"""What a request raises that got no answer, or none that is HTTP."""


REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})
"""The idempotent methods (RFC 9110 section 9.2.2): only these may be asked once more."""


@dataclass(frozen=True)
class Ask:
    """What is asked for."""

    path: str
    method: str = "GET"
    body: bytes = b""

    def wire(self, host: str, port: int) -> bytes:
        """The request as it is sent to that address."""
        name = f"[{host}]" if ":" in host else host
        length = f"Content-Length: {len(self.body)}\r\n" if self.body else ""
        head = f"{self.method} {self.path} HTTP/1.1\r\nHost: {name}:{port}\r\nUser-Agent: comet-scenario\r\n{length}\r\n"
        return head.encode() + self.body


@dataclass
class Answer:
    status: int
    worker: str | None
    body: bytes
    repeated: bool


@dataclass
class Book:
    """What the clients of one step saw. A request belongs to the step in which it was begun."""

    ok: int = 0
    injected: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    repeated: int = 0
    workers: Counter[str] = field(default_factory=Counter)
    times: list[float] = field(default_factory=list)

    def note(self, answer: Answer, seconds: float) -> None:
        """An answer that came so many seconds after it was asked for."""
        self.times.append(seconds)
        self.repeated += answer.repeated
        if answer.worker is not None:
            self.workers[answer.worker] += 1
        if 200 <= answer.status < 300:
            self.ok += 1
        elif answer.body == INJECTED:
            self.injected += 1
        else:
            self.errors[str(answer.status)] += 1

    @property
    def requests(self) -> int:
        return self.ok + self.injected + self.errors.total()

    def as_dict(self) -> dict[str, Any]:
        """Percentiles in ms over all requests that got an answer, null where none did."""
        ordered = sorted(self.times)
        return {
            "requests": self.requests,
            "ok": self.ok,
            "injected": self.injected,
            "errors": dict(sorted(self.errors.items())),
            "repeated": self.repeated,
            "p50_ms": percentile(ordered, 50),
            "p99_ms": percentile(ordered, 99),
            "workers": dict(sorted(self.workers.items())),
        }


def percentile(ordered: Sequence[float], percent: int) -> float | None:
    """Of sorted seconds, in ms: the smallest value that so many percent do not exceed."""
    if not ordered:
        return None
    return round(ordered[max(0, -(-len(ordered) * percent // 100) - 1)] * 1000, 1)


def total(books: Sequence[Book]) -> Book:
    whole = Book()
    for book in books:
        whole.ok += book.ok
        whole.injected += book.injected
        whole.repeated += book.repeated
        whole.errors.update(book.errors)
        whole.workers.update(book.workers)
        whole.times.extend(book.times)
    return whole


class Connection:
    """One client's connection, made when it is needed."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._began = False

    async def ask(self, what: Ask) -> Answer:
        """One request and its answer. OSError and EOFError mean what they say; `trouble` puts them into words."""
        reused = self._streams is not None
        try:
            return await self._ask_once(what, repeated=False)
        except (ConnectionError, EOFError):
            if not reused or self._began or what.method not in REPEATABLE:
                raise
            self.close()
            return await self._ask_once(what, repeated=True)

    def trouble(self, error: BaseException) -> str:
        """The class of an error, for the report."""
        if isinstance(error, TimeoutError):
            return "timeout"
        if self._began:
            return "cut short"
        if isinstance(error, ConnectionRefusedError):
            return "refused"
        if isinstance(error, ConnectionResetError | BrokenPipeError):
            return "reset"
        return "closed without an answer" if isinstance(error, EOFError) else "no connection"

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _ask_once(self, what: Ask, repeated: bool) -> Answer:
        self._began = False
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._address)
        reader, writer = self._streams
        writer.write(what.wire(*self._address))
        first = await reader.readexactly(1)
        self._began = True
        head = first + await reader.readuntil(b"\r\n\r\n")
        line, *fields = head.decode("latin-1").split("\r\n")
        values = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in fields)}
        status = int(line.split()[1])
        length = "0" if what.method == "HEAD" or status in (204, 304) else values.get("content-length")
        body = await (reader.readexactly(int(length)) if length is not None else reader.read())
        if length is None or values.get("connection", "").lower() == "close":
            self.close()
        return Answer(status, values.get("x-comet-worker"), body, repeated)


class Crowd:
    """`addresses` are the load balancers', shared out evenly; `timeout` in seconds is how long a client waits for an answer."""

    def __init__(self, addresses: Sequence[tuple[str, int]], path: str, timeout: float) -> None:
        self._addresses = addresses
        self._ask = Ask(path)
        self._timeout = timeout
        self._pause = 0.0
        self._size = 0
        self._book = Book()
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def gather(self, size: int, pause: float) -> Book:
        """From now on so many clients ask, with so many seconds between an answer and the next request; their book."""
        self._size, self._pause, self._book = size, pause, Book()
        for number in range(size):
            if number not in self._tasks or self._tasks[number].done():
                self._tasks[number] = asyncio.create_task(self._client(number))
        return self._book

    async def disperse(self) -> None:
        """Let every client finish its request, for at most the time that it would wait for an answer."""
        self._size = 0
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=self._timeout + 1)
        self.end()

    def end(self) -> None:
        for task in self._tasks.values():
            task.cancel()

    async def gone(self) -> None:
        """Return when all have ended and their connections are closed."""
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await asyncio.sleep(0)  # A transport that was closed ends in the loop's next turn.

    async def _client(self, number: int) -> None:
        connection = Connection(*self._addresses[number % len(self._addresses)])
        try:
            while number < self._size:
                good = await self._request(connection, self._book)
                await asyncio.sleep(self._pause if good else max(self._pause, AFTER_TROUBLE))
        finally:
            connection.close()

    async def _request(self, connection: Connection, book: Book) -> bool:
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            async with asyncio.timeout(self._timeout):
                answer = await connection.ask(self._ask)
        except UNANSWERED as error:
            book.errors[connection.trouble(error)] += 1
            with contextlib.suppress(OSError):
                connection.close()
            return False
        book.note(answer, clock() - began)
        return True
