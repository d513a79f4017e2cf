"""Generates closed-model load: a fixed number of HTTP clients, and counts of their results.

Each client sends one request after another on one keep-alive connection to one load balancer, as a browser or a service
would. If a connection that has already served a request closes before the first byte of an answer, a request with an
idempotent method is repeated once on a new connection (RFC 9110 section 9.2.2), and counted as repeated. Nothing else
is repeated. Every other failure counts as an error.
"""

import asyncio
import contextlib
import ssl
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from comet.common.figures import percentile
from comet.common.values import url_host
from comet.load.response import Head, read_answer

INJECTED = b'{"error":"injected failure"}'
ERROR_PAUSE = 0.05
"""Minimum pause in seconds after a failed connection, so that clients do not hammer a dead port."""

UNANSWERED = (OSError, EOFError, ValueError, IndexError, asyncio.LimitOverrunError)
"""Exceptions of a request that got no answer, or an answer that is not HTTP."""


REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})
"""The idempotent methods (RFC 9110 section 9.2.2): only these may be repeated."""


@dataclass(frozen=True)
class RequestSpec:
    """A request to send."""

    path: str
    method: str = "GET"
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    tls: bool = False

    def wire(self, host: str, port: int) -> bytes:
        """Return the bytes of the request for this address."""
        fields = {"Host": f"{url_host(host)}:{port}", "User-Agent": "comet-scenario"}
        if self.body or self.method in ("POST", "PUT", "PATCH"):
            fields["Content-Length"] = str(len(self.body))
        given = {name.lower() for name, _ in self.headers}
        lines = [f"{name}: {value}" for name, value in fields.items() if name.lower() not in given]
        lines += [f"{name}: {value}" for name, value in self.headers]
        return "\r\n".join([f"{self.method} {self.path} HTTP/1.1", *lines, "", ""]).encode("latin-1") + self.body


@dataclass
class Answer:
    """An answer; `injected_head` says that it is the head, without the body, of an injected failure."""

    status: int
    worker: str | None
    body: bytes
    repeated: bool
    injected_head: bool = False

    @property
    def injected(self) -> bool:
        """Whether it says that it is injected."""
        return self.injected_head or self.body == INJECTED


@dataclass
class ResultCounts:
    """What the clients of one step observed.

    An answer belongs to the step in which its request began, an error to the step in which it happened.
    """

    ok: int = 0
    injected: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    repeated: int = 0
    workers: Counter[str] = field(default_factory=Counter)
    times: list[float] = field(default_factory=list)

    def note(self, answer: Answer, seconds: float, now: "ResultCounts | None" = None) -> None:
        """Count an answer that took this many seconds; one that is an error in `now`, the counts of the present."""
        if not 200 <= answer.status < 300 and not answer.injected and now is not None and now is not self:
            now.note(answer, seconds)
            return
        self.times.append(seconds)
        self.repeated += answer.repeated
        if answer.worker is not None:
            self.workers[answer.worker] += 1
        self.statuses[answer.status] += 1
        if 200 <= answer.status < 300:
            self.ok += 1
        elif answer.injected:
            self.injected += 1
        else:
            self.errors[str(answer.status)] += 1

    @property
    def requests(self) -> int:
        return self.ok + self.injected + self.errors.total()

    @property
    def lost(self) -> int:
        """Requests without a complete answer."""
        return self.requests - self.statuses.total()

    def as_dict(self) -> dict[str, Any]:
        """Return the counts as JSON values.

        Percentiles are in milliseconds over all requests that got an answer, null where none did.
        """
        return {
            "requests": self.requests,
            "ok": self.ok,
            "injected": self.injected,
            "errors": dict(sorted(self.errors.items())),
            "repeated": self.repeated,
            "p50_ms": percentile_ms(self.times, 50),
            "p99_ms": percentile_ms(self.times, 99),
            "workers": dict(sorted(self.workers.items())),
        }


def percentile_ms(times: Sequence[float], percent: float) -> float | None:
    """Return a percentile of seconds, in milliseconds; None for no values."""
    value = percentile(times, percent)
    return None if value is None else round(value * 1000, 3)


def total(all_counts: Sequence[ResultCounts]) -> ResultCounts:
    summed = ResultCounts()
    for counts in all_counts:
        summed.ok += counts.ok
        summed.injected += counts.injected
        summed.repeated += counts.repeated
        summed.errors.update(counts.errors)
        summed.statuses.update(counts.statuses)
        summed.workers.update(counts.workers)
        summed.times.extend(counts.times)
    return summed


@cache
def _any_certificate() -> ssl.SSLContext:
    """Return what accepts any certificate.

    The load is for this cluster's own load balancers; their certificate is often self-signed, or for another name.
    """
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Connection:
    """One client's connection, opened on demand."""

    def __init__(self, host: str, port: int) -> None:
        self.address = (host, port)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._response_began = False

    async def send_request(self, spec: RequestSpec) -> Answer:
        """Send one request and return its answer.

        Raises one of UNANSWERED where there is none; `failure` names its class.
        """
        reused = self._streams is not None
        try:
            return await self._send_once(spec, repeated=False)
        except (ConnectionError, EOFError):
            if not reused or self._response_began or spec.method not in REPEATABLE:
                raise
            self.close()
            return await self._send_once(spec, repeated=True)

    def failure(self, error: BaseException) -> str:
        """Return the class of an error, for the report."""
        if isinstance(error, TimeoutError):
            return "timeout"
        if self._response_began:
            return "cut short"
        if isinstance(error, ConnectionRefusedError):
            return "refused"
        if isinstance(error, ConnectionResetError | BrokenPipeError):
            return "reset"
        return "closed without an answer" if isinstance(error, EOFError) else "no connection"

    def close(self) -> None:
        if self._streams is not None:
            transport = self._streams[1].transport
            if transport.get_extra_info("ssl_object") is None:
                transport.close()
            else:
                transport.abort()  # The end of TLS waits for the peer's, which may come after the loop has ended.
            self._streams = None

    async def _send_once(self, spec: RequestSpec, repeated: bool) -> Answer:
        self._response_began = False
        if self._streams is None:
            context = _any_certificate() if spec.tls else None
            self._streams = await asyncio.open_connection(*self.address, ssl=context)
        reader, writer = self._streams
        writer.write(spec.wire(*self.address))
        first = await reader.readexactly(1)
        self._response_began = True
        head, body, reusable = await read_answer(reader, spec.method, first)
        if not reusable:
            self.close()
        worker, injected_head = head.fields.get("x-comet-worker"), _is_injected_head(spec.method, head)
        return Answer(head.status, worker, body, repeated, injected_head)


def _is_injected_head(method: str, head: Head) -> bool:
    """Return whether this answers a HEAD request with the type and length of an injected failure: it has no more."""
    fields = head.fields.get("content-type"), head.fields.get("content-length")
    return method == "HEAD" and head.status >= 500 and fields == ("application/json", str(len(INJECTED)))


class ClosedModel:
    """Clients that each send their next request after the answer to the previous one.

    The clients are spread evenly over `addresses`, those of the load balancers. `timeout` is how many seconds a client
    waits for an answer.
    """

    def __init__(self, addresses: Sequence[tuple[str, int]], request: RequestSpec | str, timeout: float) -> None:
        self._addresses = addresses
        self._request_spec = RequestSpec(request) if isinstance(request, str) else request
        self._timeout = timeout
        self._pause = 0.0
        self._size = 0
        self._counts = ResultCounts()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._may_begin = asyncio.Event()
        self._may_begin.set()

    def start(self, size: int, pause: float) -> ResultCounts:
        """Set the number of clients and their pause in seconds after an answer; return their new counts."""
        self._pause, self._counts = pause, ResultCounts()
        self._may_begin.set()
        self.resize(size)
        return self._counts

    def hold(self) -> None:
        """Let no request begin until `start` or `stop`; those in flight go on, and connections stay open."""
        self._may_begin.clear()

    def resize(self, size: int) -> None:
        """Set the number of clients; the counts stay."""
        self._size = size
        for number in range(size):
            if number not in self._tasks or self._tasks[number].done():
                self._tasks[number] = asyncio.create_task(self._client(number))

    def redirect(self, addresses: Sequence[tuple[str, int]]) -> None:
        """Send to these addresses from now on; a client changes its connection before its next request."""
        self._addresses = addresses

    async def stop(self) -> None:
        """Let every client finish its request, and cancel what is left one second after the clients' timeout."""
        self._size = 0
        self._may_begin.set()
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=self._timeout + 1)
        self.end()

    def end(self) -> None:
        for task in self._tasks.values():
            task.cancel()

    async def wait_closed(self) -> None:
        """Wait until all clients have ended and their connections are closed."""
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await asyncio.sleep(0)  # A closed transport ends in the loop's next iteration.

    async def _client(self, number: int) -> None:
        connection = Connection(*self._address(number))
        try:
            while await self._may_begin.wait() and number < self._size:
                if connection.address != self._address(number):
                    connection.close()
                    connection = Connection(*self._address(number))
                succeeded = await self._request(connection, self._counts)
                await asyncio.sleep(self._pause if succeeded else max(self._pause, ERROR_PAUSE))
        finally:
            connection.close()

    def _address(self, number: int) -> tuple[str, int]:
        return self._addresses[number % len(self._addresses)]

    async def _request(self, connection: Connection, counts: ResultCounts) -> bool:
        clock = asyncio.get_running_loop().time
        started = clock()
        try:
            async with asyncio.timeout(self._timeout):
                answer = await connection.send_request(self._request_spec)
        except UNANSWERED as error:
            self._counts.errors[connection.failure(error)] += 1
            with contextlib.suppress(OSError):
                connection.close()
            return False
        counts.note(answer, clock() - started, self._counts)
        return True
