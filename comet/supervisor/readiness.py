"""Checks over HTTP whether a replica is ready: it answers with one of the expected statuses.

Each attempt runs on a thread of a small pool; between two attempts a replica costs nothing. A starting worker refuses,
resets (Docker's proxy accepts before the worker does) or is slow, and is asked again. A finding is reported when it
changes, so that users see why a replica is not ready yet.
"""

import asyncio
import contextlib
import errno
import http.client
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from comet.reconcile.driver_interface import Sink
from comet.reconcile.observations import NotReady, Ready
from lb.interface.settings import EXPECTED_STATUSES, is_among, parse_statuses

ATTEMPT_PAUSE = 0.025
"""Seconds between two attempts; on average half of that is added to a start."""

SLOW_ATTEMPT_PAUSE = 0.25
"""Seconds between two attempts once a start has taken 5 s."""

FAST_ATTEMPTS = 200

LISTENING_FIELD = "X-Comet-Listening"


class _FinalResponse(http.client.HTTPResponse):
    """Skips all interim responses (RFC 9110 section 15.2); http.client skips 100 alone."""

    def _read_status(self) -> tuple[str, int, str]:
        status: tuple[str, int, str] = super()._read_status()  # type: ignore[misc]
        while 100 < status[1] < 200 and status[1] != http.client.SWITCHING_PROTOCOLS:
            http.client.parse_headers(self.fp)
            status = super()._read_status()  # type: ignore[misc]
        return status


class ReadinessProbe:
    """Checks watched replicas and reports `Ready` to the sink once for each."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sink: Sink, timeout: float) -> None:
        self._loop = loop
        self._sink = sink
        self.timeout = timeout
        self.statuses = EXPECTED_STATUSES
        """Statuses that mean ready, as `lb.interface.settings.parse_statuses` reads them."""
        self._pool = ThreadPoolExecutor(16, thread_name_prefix="probe")
        self._wanted: dict[str, tuple[int, str, str | None]] = {}
        self._closed = False
        self.port_conflict: Callable[[str], str] = lambda name: ""
        """Returns why something else answers for this replica, "" where nothing else does.

        Called on a thread of the pool.
        """

    def watch(self, name: str, instance: int, url: str, host: str | None = None) -> None:
        """Request `url`, with this Host field, until the answer is good.

        The checks also end when another instance or URL is watched under this name, or `forget` is called.
        """
        wanted = self._wanted[name] = instance, url, host
        self._start_attempt(name, wanted, 0, "")

    async def try_twice(self, url: str, host: str | None, timeout: float, statuses: str) -> str:
        """Request `url` at most twice; return why neither attempt succeeded, "" where one did."""
        found: Ready | NotReady = NotReady("")
        for _ in range(2):
            found = await self._loop.run_in_executor(self._pool, probe, url, timeout, host, statuses)
            if isinstance(found, Ready):
                return ""
        return found.reason if isinstance(found, NotReady) else ""

    def forget(self, name: str) -> None:
        self._wanted.pop(name, None)

    def close(self) -> None:
        self._closed = True
        self._wanted.clear()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _start_attempt(self, name: str, wanted: tuple[int, str, str | None], attempt: int, reported: str) -> None:
        """Start one attempt; `reported` is the last finding that was reported."""
        if self._wanted.get(name) != wanted:
            return
        future = self._loop.run_in_executor(self._pool, self._attempt, name, wanted[1], wanted[2])
        future.add_done_callback(lambda done: self._on_attempt_done(done, name, wanted, attempt, reported))

    def _attempt(self, name: str, url: str, host: str | None) -> Ready | NotReady:
        found = probe(url, self.timeout, host, self.statuses)
        port_conflict = self.port_conflict(name) if isinstance(found, Ready) else ""
        return NotReady(port_conflict) if port_conflict else found

    def _on_attempt_done(
        self,
        done: "asyncio.Future[Ready | NotReady]",
        name: str,
        wanted: tuple[int, str, str | None],
        attempt: int,
        reported: str,
    ) -> None:
        if self._closed or done.cancelled() or self._wanted.get(name) != wanted:
            return
        error = done.exception()
        found = done.result() if error is None else NotReady(f"the check failed: {type(error).__name__}")
        if isinstance(found, Ready):
            del self._wanted[name]
            self._sink(name, wanted[0], found)
            return
        if found.reason != reported:
            self._sink(name, wanted[0], found)
        pause = ATTEMPT_PAUSE if attempt < FAST_ATTEMPTS else SLOW_ATTEMPT_PAUSE
        self._loop.call_later(pause, self._start_attempt, name, wanted, attempt + 1, found.reason)


def probe(url: str, timeout: float, host: str | None = None, statuses: str = EXPECTED_STATUSES) -> Ready | NotReady:
    """Return whether a GET of `url` is answered with one of these statuses within `timeout` seconds.

    The load balancers' checks use the same criterion. The built-in worker reports in a header field when it began to
    listen, on the monotonic clock that containers and host share.
    """
    headers = {"Accept": "*/*", "Connection": "close", "User-Agent": "comet-probe"}
    address, _, path = url.partition("://")[2].partition("/")
    try:
        with contextlib.closing(http.client.HTTPConnection(address, timeout=timeout)) as connection:
            connection.response_class = _FinalResponse
            connection.request("GET", f"/{path}", headers=headers | ({} if host is None else {"Host": host}))
            answer = connection.getresponse()
            if is_among(answer.status, parse_statuses(statuses)):
                return Ready(_parse_time(answer.headers.get(LISTENING_FIELD, "")))
            return NotReady(f"GET /{path}: status {answer.status}")
    except (http.client.HTTPException, OSError, ValueError) as error:  # ValueError: not a valid URL
        return NotReady(f"GET /{path}: {_describe(error, timeout)}")


def _describe(error: Exception, timeout: float) -> str:
    """Describe a failed attempt with the phrases that the load balancers' checks use."""
    if isinstance(error, TimeoutError):
        return f"no answer in {timeout:g} s"
    if isinstance(error, http.client.RemoteDisconnected):
        return "closed without an answer"
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return "connection reset"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, socket.gaierror):
        return f"cannot be resolved: {error.strerror}"
    if isinstance(error, http.client.HTTPException | UnicodeError):
        return "no HTTP answer"
    if isinstance(error, OSError) and error.errno is not None and error.errno in errno.errorcode:
        return os.strerror(error.errno).lower()
    return f"no HTTP answer ({type(error).__name__})"


def _parse_time(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
