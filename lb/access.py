"""One JSON line per exchange, where it is asked for (`access_log`): who asked what, who answered, after how many attempts, and where the
time went.

Load balancers that log are made of these two classes instead of those they extend, so that one that does not log pays nothing. Each
request is given an `X-Request-Id` if it brings none, and is logged under it; `traceparent` (W3C Trace Context) passes as it came, as
every field does that is not ours, and its trace id is noted.

`worker` is who answered or, where nobody did, who was asked last; `retries` counts how often the request was begun anew, as the counter
of that name does. Times are in ms: `wait` from the complete head to the request's way to that worker (queue, connecting, attempts that
failed), `worker` from there to the first byte of the answer, `total` to its last. An answer that came whole in one read has `worker` up
to its end.

Lines are written four times a second at the most, in the loop: the page cache takes them without a wait. Two files bound what is kept;
a full disk costs lines, never an exchange.
"""

import asyncio
import json
import os
import re
from datetime import UTC, datetime
from secrets import token_hex
from time import monotonic, time
from typing import Any, Final

from lb.connection import UpstreamConnection
from lb.counters import Counters
from lb.downstream import CONNECTING, QUEUED, RESPONDING, WAITING, Downstream
from lb.fields import Refusal
from lb.proxy import Proxy
from lb.request import RequestHead
from lb.settings import Settings

FLUSH: Final = 0.25  # seconds
BUFFERED: Final = 1 << 18  # bytes after which a flush does not wait
KEEP: Final = 16 << 20  # bytes of the file after which it is put aside as `.1`
CLIENT_GONE: Final = 499

_REQUEST_ID = re.compile(rb"\r\nx-request-id:[ \t]*([^\r\n]*?)[ \t]*\r\n", re.IGNORECASE).search
_TRACE = re.compile(rb"\r\ntraceparent:[ \t]*[0-9a-f]{2}-([0-9a-f]{32})-", re.IGNORECASE).search


class AccessLog:
    """The file. `write` never fails."""

    def __init__(self, loop: asyncio.AbstractEventLoop, path: str, keep: int = KEEP) -> None:
        self._loop = loop
        self._path = path
        self._keep = keep
        self._lines: list[bytes] = []
        self._size = 0
        self._timer: asyncio.TimerHandle | None = None

    def write(self, record: dict[str, Any]) -> None:
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        self._lines.append(line)
        self._size += len(line)
        if self._size > BUFFERED:
            self.flush()
        elif self._timer is None:
            self._timer = self._loop.call_later(FLUSH, self.flush)

    def flush(self) -> None:
        """Write what has come together."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        data, self._lines, self._size = b"".join(self._lines), [], 0
        try:
            # Opened anew each time: a successor on the same name may have put the file aside.
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                os.write(file, data)
                full = os.fstat(file).st_size > self._keep
            finally:
                os.close(file)
            if full:
                os.replace(self._path, f"{self._path}.1")
        except OSError:
            return


class LoggedDownstream(Downstream):
    """A client connection whose exchanges are logged."""

    __slots__ = ("_address", "_log", "asked", "first_at", "repeated", "request_id", "sent_at")

    def __init__(self, proxy: "LoggedProxy") -> None:
        super().__init__(proxy)
        self._log = proxy

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._address = self.tail[:-4]

    def connection_lost(self, exc: Exception | None) -> None:
        if self.state in (QUEUED, CONNECTING, WAITING, RESPONDING):
            self._log.log(self, CLIENT_GONE, self.upstream.name if self.upstream is not None else self.asked)
        super().connection_lost(exc)

    def _begin(self, head: RequestHead, prefix: bytes, size: int) -> None:
        found = _REQUEST_ID(prefix)
        self.request_id = found[1] if found is not None else token_hex(16).encode()
        self.tail = self._address + (b"\r\n\r\n" if found is not None else b"\r\nX-Request-Id: " + self.request_id + b"\r\n\r\n")
        self.sent_at = self.first_at = 0.0
        self.asked: str | None = None
        self.repeated = 0  # times, those that no budget counts too
        super()._begin(head, prefix, size)

    def request_started(self, now: float) -> None:
        self.sent_at = now
        super().request_started(now)

    def begin_response(self, head: Any) -> None:
        self.first_at = monotonic()
        super().begin_response(head)

    def _refuse(self, refusal: Refusal, head_only: bool) -> None:
        self._log.log_refusal(self._address, refusal)
        super()._refuse(refusal, head_only)


class LoggedProxy(Proxy):
    """Exchanges that leave a line when they end."""

    def __init__(self, loop: asyncio.AbstractEventLoop, settings: Settings, counters: Counters, local_host: bytes) -> None:
        super().__init__(loop, settings, counters, local_host)
        assert settings.access_log is not None
        self.access = AccessLog(loop, settings.access_log)

    def dispatch(self, client: Downstream) -> None:
        assert isinstance(client, LoggedDownstream)
        client.repeated += 1
        super().dispatch(client)

    def answered(self, connection: UpstreamConnection, client: Downstream, status: int, size: int) -> None:
        self.log(client, status, connection.upstream.name)
        super().answered(connection, client, status, size)

    def leave(self, client: Downstream, now: float) -> None:
        assert isinstance(client, LoggedDownstream)
        self.log(client, client.status, client.upstream.name if client.upstream is not None else client.asked)
        super().leave(client, now)

    def unassign(self, client: Downstream) -> None:
        assert isinstance(client, LoggedDownstream)
        if client.upstream is not None:
            client.asked = client.upstream.name
        super().unassign(client)

    def log(self, client: Downstream, status: int, worker: str | None) -> None:
        assert isinstance(client, LoggedDownstream)
        now = monotonic()
        method, _, rest = client.prefix[: client.prefix.index(b"\r\n")].partition(b" ")
        sent = client.sent_at or client.started
        trace = _TRACE(client.prefix)
        self.access.write(
            {
                "at": _iso(time() - (now - client.started)),
                "lb": self.settings.name,
                "request_id": client.request_id.decode("latin-1"),
                "trace_id": trace[1].decode() if trace is not None else None,
                "client": client._address.rpartition(b" ")[2].decode("latin-1"),
                "method": method.decode("latin-1"),
                "target": rest.rpartition(b" ")[0].decode("latin-1"),
                "status": status,
                "worker": worker,
                "retries": client.repeated,
                "wait_ms": round((sent - client.started) * 1000, 3),
                "worker_ms": round(((client.first_at or now) - sent) * 1000, 3),
                "total_ms": round((now - client.started) * 1000, 3),
            }
        )

    def log_refusal(self, address: bytes, refusal: Refusal) -> None:
        """A request that could not be understood has nothing to be named by."""
        client = address.rpartition(b" ")[2].decode("latin-1")
        self.access.write(
            {"at": _iso(time()), "lb": self.settings.name, "client": client, "status": refusal.status, "error": refusal.reason}
        )

    def close(self) -> None:
        super().close()
        self.access.flush()


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
