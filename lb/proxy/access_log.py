"""Writes the access log: one JSON line per exchange, with client, request, worker, attempts and times (`access_log`).

A load balancer with an access log uses these two classes instead of their base classes, so that one without pays
nothing. Each request without an `X-Request-Id` gets one and is logged with it; an empty one counts as none, and of
several the first one counts. `traceparent` (W3C Trace Context) is forwarded unchanged like every other field, and the
trace id of a valid one is logged.

`worker` is the worker that responded or, if none did, the last one that was tried. `retries` is the number of repeated
attempts, like the counter of that name. Times are in ms. `wait` is from the complete head until the request is sent to
that worker (queue, connecting, failed attempts), `worker` from there to the first byte of the response, `total` to its
last byte. For a response received in one read, `worker` ends with the response. `body_bytes` is the number of bytes of
the body sent to the client, `bytes_sent` that of all bytes. `error` is why the client got no complete response. A
response that was cut off has the status of its head, which the client saw, and an `error`.

With the format `combined` a line is that of Apache and nginx, for their tools: client, time, request, status, bytes of
the body, Referer and User-Agent. Where the client got no complete response, the reason follows, quoted.

Lines are written at most four times a second, in the loop, since the page cache takes them without a wait. Two files
limit what is kept. A full disk costs lines, never an exchange.
"""

import asyncio
import json
import os
import re
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address
from secrets import token_hex
from time import monotonic, time
from typing import Any, Final

from lb.http.error_responses import error_body
from lb.http.fields import Refusal
from lb.http.request_head import RequestHead
from lb.interface.counters import BYTES_OUT, Counters
from lb.interface.settings import Settings
from lb.proxy.client_connection import Downstream
from lb.proxy.connection_end import IN_EXCHANGE
from lb.proxy.dispatcher import Dispatcher
from lb.proxy.upstream_connection import UpstreamConnection
from lb.system.directory import Directory
from lb.system.regular_files import opened
from lb.system.shortage import is_local_shortage

FLUSH_INTERVAL: Final = 0.25
"""Seconds between two writes."""

MAX_BUFFERED: Final = 1 << 18
"""Bytes of lines above which they are written at once."""

MAX_FILE_SIZE: Final = 16 << 20
"""Bytes of the file above which it is rotated to `.1`."""

CLIENT_GONE: Final = 499
"""Status in the log if the client disconnected before its response."""


COMBINED: Final = "combined"

_REFERER = re.compile(rb"\r\nreferer:[ \t]*([^\r\n]*)", re.IGNORECASE).search
_USER_AGENT = re.compile(rb"\r\nuser-agent:[ \t]*([^\r\n]*)", re.IGNORECASE).search
_UNSAFE = re.compile(r'[^\x20-\x7e]|["\\]').sub
_REQUEST_ID = re.compile(rb"\r\nx-request-id:[ \t]*([^\r\n]*?)[ \t]*\r\n", re.IGNORECASE).search
_PARENT = re.compile(
    rb"\r\n(?i:traceparent):[ \t]*(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})"
    rb"(-\S*)?[ \t]*(?=\r\n)"
).search
_PARENT_FIELD = re.compile(rb"\r\ntraceparent:", re.IGNORECASE).findall


def trace_parent(prefix: bytes) -> re.Match[bytes] | None:
    """Return version, trace, span and flags of `traceparent`; None without it.

    Several, or one of a form that nobody knows, are as none (https://www.w3.org/TR/trace-context/).
    """
    found = _PARENT(prefix)
    if found is None or (found[1] == b"00" and found[5]) or len(_PARENT_FIELD(prefix)) > 1:
        return None
    return found


class LineBuffer:
    """Collects lines for a path, whose folder may be renamed meanwhile, so that one call writes many of them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, path: str) -> None:
        self._loop = loop
        folder, self._name = os.path.split(os.path.abspath(path))
        self._folder = Directory(folder)
        self._lines: list[bytes] = []
        self._size = 0
        self._timer: asyncio.TimerHandle | None = None

    def write_line(self, line: bytes) -> None:
        self._lines.append(line)
        self._size += len(line)
        if self._size > MAX_BUFFERED:
            self.flush()
        elif self._timer is None:
            self._timer = self._loop.call_later(FLUSH_INTERVAL, self.flush)

    def flush(self) -> None:
        """Write the collected lines."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        data, self._lines, self._size = b"".join(self._lines), [], 0
        self._write(data)

    def _write(self, data: bytes) -> None:
        """Write these lines without waiting and without an error."""


class AccessLog(LineBuffer):
    """The file; `write` never fails."""

    def __init__(self, loop: asyncio.AbstractEventLoop, path: str, max_size: int = MAX_FILE_SIZE) -> None:
        super().__init__(loop, path)
        self._max_size = max_size

    def write(self, record: dict[str, Any]) -> None:
        self.write_line(json.dumps(record, separators=(",", ":")).encode() + b"\n")

    def _write(self, data: bytes) -> None:
        try:
            # Opened each time: a successor with the same name may have rotated the file.
            path = os.path.join(self._folder.path, self._name)
            file = opened(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            try:
                os.write(file, data)
                full = os.fstat(file).st_size > self._max_size
            finally:
                os.close(file)
            if full:
                os.replace(path, f"{path}.1")
        except OSError as error:
            if is_local_shortage(error) and len(data) <= MAX_BUFFERED:
                self._lines, self._size = [data], len(data)  # The next line tries again.


class LoggedDownstream(Downstream):
    """A client connection whose exchanges are logged."""

    __slots__ = ("_address", "_log", "asked", "body_bytes", "bytes_sent", "first_at", "request_id", "retry_count")

    def __init__(self, proxy: "LoggedDispatcher") -> None:
        super().__init__(proxy)
        self._log = proxy

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._address = self.tail[:-4]

    def set_address(self, address: IPv4Address | IPv6Address) -> None:
        super().set_address(address)
        self._address = self.tail[:-4]

    def connection_lost(self, exc: Exception | None) -> None:
        if self.state in IN_EXCHANGE:
            self.error = "the client went away"
            self._log.log(self, CLIENT_GONE, self.upstream.name if self.upstream is not None else self.asked)
        super().connection_lost(exc)

    def _begin(self, head: RequestHead, prefix: bytes, size: int) -> None:
        found = _REQUEST_ID(prefix)
        given = found[1] if found is not None else b""
        if found is not None and (not given or _REQUEST_ID(prefix, found.end() - 2) is not None):
            prefix, given = _without_ids(prefix)
            found = None
        self.request_id = given or token_hex(16).encode()
        self.tail = (
            self._address
            + self.added_fields()
            + (b"\r\n\r\n" if found is not None else b"\r\nX-Request-Id: " + self.request_id + b"\r\n\r\n")
        )
        self.sent_at = self.first_at = 0.0
        self.bytes_sent = self.body_bytes = 0
        self.asked: str | None = None
        self.retry_count = 0  # all attempts but the first, including those that the retry budget does not count
        super()._begin(head, prefix, size)

    def added_fields(self) -> bytes:
        """Return the lines of further fields that the worker gets, each after an end of line."""
        return b""

    def trace_id(self) -> str | None:
        """Return the id of the trace that the request belongs to."""
        found = trace_parent(self.prefix)
        return None if found is None else found[2].decode()

    def begin_response(self, head: Any) -> None:
        self.first_at = monotonic()
        before = self._log.slots[BYTES_OUT]
        super().begin_response(head)
        self.bytes_sent += self._log.slots[BYTES_OUT] - before

    def relay(self, pieces: list[bytes]) -> None:
        before = self._log.slots[BYTES_OUT]
        super().relay(pieces)
        self.bytes_sent += self._log.slots[BYTES_OUT] - before
        self.body_bytes += sum(map(len, pieces))

    def end_body(self, trailers: list[bytes]) -> None:
        before = self._log.slots[BYTES_OUT]
        super().end_body(trailers)
        self.bytes_sent += self._log.slots[BYTES_OUT] - before

    def fail(self, status: int, message: str) -> None:
        before = self._log.slots[BYTES_OUT]
        super().fail(status, message)
        self.bytes_sent += self._log.slots[BYTES_OUT] - before
        self.body_bytes += 0 if self.head.is_head else len(error_body(message))

    def _refuse(self, refusal: Refusal, head_only: bool) -> None:
        self._log.log_refusal(self._address, refusal, 0 if head_only else len(error_body(refusal.reason)))
        super()._refuse(refusal, head_only)


class LoggedDispatcher(Dispatcher):
    """Dispatches exchanges and logs each one when it ends."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, settings: Settings, counters: Counters, local_host: bytes
    ) -> None:
        super().__init__(loop, settings, counters, local_host)
        path = settings.access_log
        self.access = AccessLog(loop, path) if path is not None else None
        self._combined = settings.access_log_format == COMBINED

    def make_client(self) -> Downstream:
        return LoggedDownstream(self)

    def dispatch(self, client: Downstream) -> None:
        assert isinstance(client, LoggedDownstream)
        client.retry_count += 1
        super().dispatch(client)

    def finish_exchange_fast(
        self, connection: UpstreamConnection, client: Downstream, status: int, size: int, body: int
    ) -> None:
        assert isinstance(client, LoggedDownstream)
        client.bytes_sent += size
        client.body_bytes += body
        self.log(client, status, connection.upstream.name)
        super().finish_exchange_fast(connection, client, status, size, body)

    def count_exchange_end(self, client: Downstream, now: float) -> None:
        assert isinstance(client, LoggedDownstream)
        self.log(client, client.status, client.upstream.name if client.upstream is not None else client.asked)
        super().count_exchange_end(client, now)

    def unassign(self, client: Downstream) -> None:
        assert isinstance(client, LoggedDownstream)
        if client.upstream is not None:
            client.asked = client.upstream.name
        super().unassign(client)

    def log(self, client: Downstream, status: int, worker: str | None) -> None:
        assert isinstance(client, LoggedDownstream)
        if self.access is None:
            return
        if self._combined:
            self.access.write_line(_combined(client, status))
            return
        now = monotonic()
        method, _, rest = client.prefix[: client.prefix.index(b"\r\n")].partition(b" ")
        sent = client.sent_at or client.started
        self.access.write(
            {
                "at": _iso(time() - (now - client.started)),
                "lb": self.settings.name,
                "request_id": client.request_id.decode("latin-1"),
                "trace_id": client.trace_id(),
                "client": client.client_ip().decode("latin-1"),
                "method": method.decode("latin-1"),
                "target": rest.rpartition(b" ")[0].decode("latin-1"),
                "status": status,
                "error": client.error or None,
                "body_bytes": client.body_bytes,
                "bytes_sent": client.bytes_sent,
                "worker": worker,
                "retries": client.retry_count,
                "wait_ms": round((sent - client.started) * 1000, 3),
                "worker_ms": round(((client.first_at or now) - sent) * 1000, 3),
                "total_ms": round((now - client.started) * 1000, 3),
            }
        )

    def log_refusal(self, address: bytes, refusal: Refusal, size: int) -> None:
        """Log a refused request, of which only the client's address is known; `size` is that of the answer's body."""
        if self.access is None:
            return
        client = address.rpartition(b" ")[2].decode("latin-1")
        if self._combined:
            self.access.write_line(_line(client, time(), "-", refusal.status, size, "-", "-", refusal.reason))
            return
        self.access.write(
            {
                "at": _iso(time()),
                "lb": self.settings.name,
                "client": client,
                "status": refusal.status,
                "error": refusal.reason,
                "body_bytes": size,
            }
        )

    def close(self) -> None:
        super().close()
        if self.access is not None:
            self.access.flush()


def _combined(client: "LoggedDownstream", status: int) -> bytes:
    """Return the line of an exchange in the combined format."""
    head = client.prefix[: client.prefix.index(b"\r\n")].decode("latin-1")
    request = f"{head[:-1]}{client.head.minor}"
    referer, agent = (
        found[1].decode("latin-1") if (found := search(client.prefix)) is not None else "-"
        for search in (_REFERER, _USER_AGENT)
    )
    began = time() - (monotonic() - client.started)
    address = client.client_ip().decode("latin-1")
    return _line(address, began, request, status, client.body_bytes, referer, agent, client.error)


def _line(client: str, at: float, request: str, status: int, size: int, referer: str, agent: str, error: str) -> bytes:
    """Return a line; what could end a field or the line is escaped as nginx does it."""
    texts = [_UNSAFE(lambda found: f"\\x{ord(found[0]):02X}", text) for text in (request, referer, agent, error)]
    moment = formatted(at)
    reason = f' "{texts[3]}"' if error else ""
    return f'{client} - - [{moment}] "{texts[0]}" {status} {size} "{texts[1]}" "{texts[2]}"{reason}\n'.encode()


_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def formatted(at: float) -> str:
    """Return a time as in the combined format, whatever the locale."""
    moment = datetime.fromtimestamp(at, UTC)
    return f"{moment.day:02}/{_MONTHS[moment.month - 1]}/{moment.year}:{moment:%H:%M:%S} +0000"


def _without_ids(prefix: bytes) -> tuple[bytes, bytes]:
    """Return the head without its X-Request-Id fields, and the first id that is not empty."""
    first, *fields = prefix.split(b"\r\n")
    named = [line.partition(b":") for line in fields]
    ids = [value.strip(b" \t") for name, _, value in named if name.lower() == b"x-request-id"]
    kept = [line for line, (name, _, _) in zip(fields, named, strict=True) if name.lower() != b"x-request-id"]
    return b"\r\n".join([first, *kept]), next((each for each in ids if each), b"")


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
