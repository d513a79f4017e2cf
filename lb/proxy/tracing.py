"""Measures the spans of exchanges and hands them to the exporter (`span_socket`, `comet.tracing`).

A load balancer with a span socket uses these two classes instead of their base classes, so that one without pays
nothing. An exchange is a server span; each attempt at a worker is a client span below it. The context is W3C Trace
Context (https://www.w3.org/TR/trace-context/): an exchange continues the trace of a valid `traceparent`, else it begins
one, and the worker gets a `traceparent` that names the span of its attempt. Whether a trace is recorded is decided by
its first participant: the flag of `traceparent`, else by chance (`trace_sample` percent).

Spans are sent in datagrams of JSON lines, at most four times a second, without waiting. Where nobody reads them, or not
fast enough, the kernel refuses them and they are lost; no exchange notices.
"""

import asyncio
import contextlib
import json
import os
import re
import socket
from random import random
from secrets import token_hex
from time import monotonic, time
from typing import Any, Final

from lb.http.request_head import RequestHead
from lb.interface.counters import Counters
from lb.interface.settings import Settings
from lb.proxy.access_log import LineBuffer, LoggedDispatcher, LoggedDownstream, trace_parent
from lb.proxy.client_connection import Downstream

MAX_DATAGRAM: Final = 1 << 16
"""Bytes of lines above which they are sent at once: less than the kernel's limit of a datagram (unix(7))."""

MAX_TARGET: Final = 2048
"""Bytes of a request's target that its span has."""

_PARENTS = re.compile(rb"\r\ntraceparent:[^\r\n]*", re.IGNORECASE)
_CONTEXTS = re.compile(rb"\r\ntrace(?:parent|state):[^\r\n]*", re.IGNORECASE)
_SAMPLED: Final = 1


class Spans(LineBuffer):
    """The way to the exporter; `write` never fails."""

    def __init__(self, loop: asyncio.AbstractEventLoop, path: str) -> None:
        super().__init__(loop, path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def write(self, span: dict[str, Any]) -> None:
        line = json.dumps(span, separators=(",", ":")).encode() + b"\n"
        if self._size + len(line) > MAX_DATAGRAM:
            self.flush()
        self.write_line(line)

    def _write(self, data: bytes) -> None:
        """Send the lines, or lose them."""
        if data:
            with contextlib.suppress(OSError):
                self._socket.sendto(data, os.path.join(self._folder.address, self._name))

    def close(self) -> None:
        self.flush()
        self._socket.close()


class Attempt:
    """One attempt at a worker; `start` and `end` are monotonic times, `error` is why it gave no response."""

    __slots__ = ("end", "error", "id", "start", "status", "worker")

    def __init__(self, start: float) -> None:
        self.id = token_hex(8)
        self.start = start
        self.end = 0.0
        self.worker = ""
        self.status = 0
        self.error = ""


class TracedDownstream(LoggedDownstream):
    """A client connection whose exchanges are traced."""

    __slots__ = ("attempts", "parent", "sampled", "span", "trace")

    def __init__(self, proxy: "TracedDispatcher") -> None:
        super().__init__(proxy)
        self.sampled = False
        self.attempts: list[Attempt] = []

    def _begin(self, head: RequestHead, prefix: bytes, size: int) -> None:
        found = trace_parent(prefix)
        if found is not None:
            self.trace, self.parent = found[2].decode(), found[3].decode()
            self.sampled = bool(int(found[4], 16) & _SAMPLED)
        else:
            self.trace, self.parent = token_hex(16), ""
            self.sampled = 100.0 * random() < self._proxy.settings.trace_sample
        self.span = token_hex(8)
        self.attempts = [Attempt(monotonic())]
        replaced = _CONTEXTS if found is None else _PARENTS  # `tracestate` belongs to the parent's trace.
        super()._begin(head, replaced.sub(b"", prefix), size)

    def trace_id(self) -> str:
        return self.trace

    def added_fields(self) -> bytes:
        flags = _SAMPLED if self.sampled else 0
        return f"\r\ntraceparent: 00-{self.trace}-{self.attempts[-1].id}-{flags:02x}".encode()

    def request_again(self) -> None:
        """Begin another attempt, unless the last one has not reached a worker."""
        last = self.attempts[-1]
        if not last.worker:
            return
        last.error = self.failure[1]
        again = Attempt(monotonic())
        self.tail = self.tail.replace(last.id.encode(), again.id.encode(), 1)
        self.attempts.append(again)


class TracedDispatcher(LoggedDispatcher):
    """Dispatches exchanges and measures their spans."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, settings: Settings, counters: Counters, local_host: bytes
    ) -> None:
        super().__init__(loop, settings, counters, local_host)
        assert settings.span_socket is not None
        self._spans = Spans(loop, settings.span_socket)

    def make_client(self) -> Downstream:
        return TracedDownstream(self)

    def dispatch(self, client: Downstream) -> None:
        assert isinstance(client, TracedDownstream)
        client.request_again()
        super().dispatch(client)

    def unassign(self, client: Downstream) -> None:
        assert isinstance(client, TracedDownstream)
        if client.upstream is not None and client.attempts:
            last = client.attempts[-1]
            last.worker, last.end = client.upstream.name, monotonic()
        super().unassign(client)

    def log(self, client: Downstream, status: int, worker: str | None) -> None:
        assert isinstance(client, TracedDownstream)
        super().log(client, status, worker)
        if client.sampled and client.attempts:
            self._spans.write(self._measured(client, status))
        client.attempts = []

    def close(self) -> None:
        super().close()
        self._spans.close()

    def _measured(self, client: TracedDownstream, status: int) -> dict[str, Any]:
        now = monotonic()
        offset = time() - now
        last = client.attempts[-1]
        if client.upstream is not None:
            last.worker, last.end = client.upstream.name, now
            last.status = status if client.first_at or not client.error else 0
        if last.worker and not last.status:
            last.error = client.error or client.failure[1]
        method, _, rest = client.prefix[: client.prefix.index(b"\r\n")].partition(b" ")
        return {
            "lb": self.settings.name,
            "trace": client.trace,
            "span": client.span,
            "parent": client.parent or None,
            "start": _nanoseconds(client.started + offset),
            "end": _nanoseconds(now + offset),
            "client": client.client_ip().decode("latin-1"),
            "method": method.decode("latin-1"),
            "target": rest.rpartition(b" ")[0][:MAX_TARGET].decode("latin-1"),
            "status": status,
            "error": client.error or None,
            "body_bytes": client.body_bytes,
            "attempts": [
                {
                    "span": each.id,
                    "worker": each.worker,
                    "start": _nanoseconds(max(each.start, client.started) + offset),
                    "end": _nanoseconds(each.end + offset),
                    "status": each.status or None,
                    "error": each.error or None,
                }
                for each in client.attempts
                if each.worker
            ],
        }


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
