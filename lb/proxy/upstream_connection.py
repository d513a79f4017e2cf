"""Runs the upstream side of an exchange: one keep-alive connection to one worker.

States: IDLE (in the idle list of its upstream) -> AWAITING (request sent, no final response head yet) -> one of the
body states -> IDLE or closed. The client side gets the response by `begin_response`, `relay` and `end_body`. The proxy
decides how a failure is handled.

A complete response in one read takes the fast path, if the request allows it: one lookup, one write.
"""

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Final, cast

from lb.balance.upstream import MAX_IDLE_UNREPEATABLE
from lb.http.chunked import ChunkedReader
from lb.http.fields import Refusal
from lb.http.response import AMBIGUOUS, CHUNKED, ResponseHead, head_end, head_start
from lb.proxy.tunnel import upgrade
from lb.system.sockets import descriptor, readable, received, unsent

if TYPE_CHECKING:
    from lb.proxy.client_connection import Downstream
    from lb.proxy.dispatcher import Dispatcher
    from lb.proxy.upstream_pool import Upstream

CONNECTING: Final = 0
IDLE: Final = 1
AWAITING: Final = 2
LENGTH: Final = 3
CHUNKS: Final = 4
UNTIL_CLOSE: Final = 5
GONE: Final = 6
NAMES: Final = ("connecting", "idle", "awaiting", "length", "chunks", "until-close", "gone")

HIGH_WATER: Final = 65536
"""Bytes written and not yet sent above which the other side is not read."""

MAX_HEAD: Final = 65536

MAX_INTERIMS: Final = 16384
"""Interim responses before a final one."""

INTERIMS_PER_TURN: Final = 64
"""Interim responses handled in one iteration of the loop, before other connections are served."""


class UpstreamConnection:
    """One connection to `upstream`; `client` is the client of its present exchange, if any.

    It has the methods of an `asyncio.Protocol` without the base class, like `Downstream`.
    """

    __slots__ = (
        "_buffer",
        "_checked",
        "_chunks",
        "_fd",
        "_interims",
        "_left",
        "_options",
        "_proxy",
        "_recent",
        "_reusable",
        "client",
        "idle_since",
        "injected",
        "retired",
        "served",
        "state",
        "transport",
        "undelivered",
        "upstream",
    )

    transport: asyncio.Transport

    def __init__(self, proxy: "Dispatcher", upstream: "Upstream", client: "Downstream | None") -> None:
        # State of the connection.
        self._proxy = proxy
        self.upstream = upstream
        self._recent = upstream.reader.recent
        self.served = 0
        self.retired = False  # no further exchange may use it
        self.idle_since = 0.0
        self._fd = -1
        self.undelivered = False  # the worker closed before the request reached it
        # State of the exchange.
        self.client = client
        self.injected = False  # a fault was injected that makes this exchange fail
        self.state = CONNECTING
        self._buffer = b""
        self._checked = 0  # bytes of the buffer that are a valid beginning of a head
        self._interims = 0
        self._left = 0
        self._chunks: ChunkedReader | None = None
        self._options: list[bytes] = []
        self._reusable = False

    def __repr__(self) -> str:
        return f"<UpstreamConnection {self.upstream.name} {NAMES[self.state]} served={self.served}>"

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(high=HIGH_WATER)
        self.upstream.connections.add(self)
        self._proxy.connected(self)

    def data_received(self, data: bytes) -> None:
        if self.state == AWAITING:
            if self._buffer:
                data = self._buffer + data
                self._buffer = b""
            end = data.find(b"\r\n\r\n") + 4
            head = self._recent.find(data[:end])
            client = self.client
            assert client is not None
            if (
                head is not None
                and client.fast_path
                and client.sent
                and len(data) - end == head.length
                and head.fast_head
            ):
                self.state = IDLE
                self.client = None
                self.served += 1
                out = head.fast_head_close if client.closing else head.fast_head
                if head.length:
                    out += data[end:]
                client.transport.write(out)
                self._proxy.finish_exchange_fast(self, client, head.status, len(out), head.length)
            else:
                self._read_heads(data)
        elif self.state == IDLE or self.client is None:
            self.close()  # A response without a request.
        else:
            self._read_body(data)

    def eof_received(self) -> bool:
        self._note_undelivered()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and self.client is not None:
            exc = self._read_rest(exc)
        state, client = self.state, self.client
        self.state = GONE
        self.upstream.connections.discard(self)
        if state == IDLE and self in self.upstream.idle:
            self.upstream.idle.remove(self)
            if self.idle_since > monotonic() - MAX_IDLE_UNREPEATABLE:
                self.upstream.closed_early()
        if client is None:
            return
        if state == UNTIL_CLOSE and exc is None:
            self.client = None
            client.end_body([])
            self._proxy.finish_exchange(self, client)
        elif state == AWAITING:
            self._proxy.retries.lost_before_head(self, client, exc, self._buffer.strip(b"\r\n"))
        else:
            self._proxy.retries.truncated(
                self, client, "reset" if exc is not None else "closed before the end of the body", b""
            )

    def _read_rest(self, exc: Exception) -> Exception | None:
        """Read what the worker sent before the connection failed; return the error, or None after an orderly end.

        A failed write ends the transport at once; an early response to an upload is then still in the receive buffer.
        """
        self.retired = True
        self.process_buffered()
        while self.client is not None and self.state not in (CONNECTING, GONE):
            self.client.fast_path = False  # The fast path would reuse this connection.
            data = received(self.transport)
            if data is None:
                break
            if not data:
                # EPIPE means a RST after a FIN; with any other error there was a RST alone, so an empty read is no
                # orderly end.
                if not isinstance(exc, BrokenPipeError):
                    break
                self._note_undelivered()
                return None
            self.data_received(data)
        return exc

    def _next_turn(self) -> None:
        """Continue with a long sequence of interim responses."""
        if (
            self.state == AWAITING
            and self.client is not None
            and not self.client.blocked
            and not self.transport.is_closing()
        ):
            self.transport.resume_reading()
            self.process_buffered()

    def _note_undelivered(self) -> None:
        """Note at the worker's FIN whether it closed before the request arrived (its kernel acknowledged nothing)."""
        client = self.client
        if self.state == AWAITING and client is not None and not self._buffer and self.served:
            self.undelivered = client.is_held() and unsent(self.transport) >= client.size_sent()

    def has_input(self) -> bool:
        """Say whether this idle connection has unread input, usually the worker's FIN."""
        if self._fd < 0:
            self._fd = descriptor(self.transport)
        return readable(self._fd)

    def process_buffered(self) -> None:
        """Process what was buffered while the client did not read."""
        if self._buffer and self.state == AWAITING:
            self.data_received(b"")

    def pause_writing(self) -> None:
        if self.client is not None:
            self.client.hold_reading(True)

    def resume_writing(self) -> None:
        if self.client is not None:
            self.client.hold_reading(False)

    # Called by the proxy.

    def close(self) -> None:
        """Close at once, without a notification to the client in flight."""
        if self.state == IDLE and self in self.upstream.idle:
            self.upstream.idle.remove(self)
        self.state = GONE
        self.client = None
        self.transport.abort()

    def retire(self) -> None:
        """Close after the present exchange."""
        self.retired = True
        if self.client is not None:
            self.client.fast_path = False  # The fast path would reuse this connection.

    def become_idle(self, now: float) -> None:
        self.idle_since = now
        self.upstream.idle.append(self)

    # Reading a response.

    def _wait_for_head(self, data: bytes) -> None:
        self._buffer = data
        try:
            if len(data) > MAX_HEAD:
                raise Refusal(502, "response head too long", data)
            self._checked = self.upstream.reader.check_incomplete(data, self._checked)
        except Refusal as refusal:
            self._malformed(refusal.reason, refusal.data)

    def _malformed(self, why: str, data: bytes) -> None:
        client = self.client
        assert client is not None
        self.close()
        self._proxy.retries.malformed(self, client, why, data)

    def _read_heads(self, data: bytes) -> None:
        """Read the head at the start, and the next one after each interim response (RFC 9110 section 15.2)."""
        start = 0
        while True:
            begin = head_start(data, start)
            end = head_end(data, begin)
            if end < 0:
                self._wait_for_head(data[start:])
                return
            self._checked = 0
            head = self._head(data[begin:end])
            if head is None:
                return
            client = self.client
            assert client is not None
            if head.status >= 200:
                self._interims = 0
                self._begin(client, head, data[end:])
                return
            if head.status == 101:
                self._switch(client, head, data[end:])
                return
            self._interims += 1
            if self._interims > MAX_INTERIMS:
                self._malformed("too many interim responses", data[begin:end])
                return
            if not head.keep_alive:
                self.retired = True  # It announced a body, which may still arrive, or the end of the connection.
            if head.injected:
                self.injected = True  # It announces a fault that leaves no answer to mark.
            else:
                client.interim(head)
            if self.state != AWAITING or end == len(data):
                return
            if (client.blocked or self._interims % INTERIMS_PER_TURN == 0) and not self.retired:
                self._buffer = data[end:]
                if not client.blocked:
                    self.transport.pause_reading()
                    self._proxy.call_soon(self._next_turn)
                return
            start = end

    def _head(self, raw: bytes) -> ResponseHead | None:
        """Return the head in `raw`, or None if it was refused, which ends the exchange."""
        try:
            if len(raw) > MAX_HEAD:
                raise Refusal(502, "response head too long", raw)
            return self.upstream.reader.read(raw)
        except Refusal as refusal:
            self._malformed(refusal.reason, refusal.data or raw)
        return None

    def _switch(self, client: "Downstream", head: ResponseHead, rest: bytes) -> None:
        if head.upgrade and client.head.upgrades:
            self.state, self.client = IDLE, None
            upgrade(self._proxy, self, client, head, rest)
        else:
            self._malformed("101 to a request that asked for no upgrade", head.start)

    def _begin(self, client: "Downstream", head: ResponseHead, rest: bytes) -> None:
        length = 0 if client.head.is_head else head.length
        if length == AMBIGUOUS:
            self._malformed(head.fault, head.evidence)
            return
        self.served += 1
        if head.injected:
            self.injected = True
        if head.full and self._proxy.retries.has_alternative(client):
            self.client = None
            if self._is_reusable(client, head) and client.sent and len(rest) == length:
                self.state = IDLE
                self.become_idle(monotonic())
            else:
                self.close()
            self._proxy.retries.full(self.upstream, client)
            return
        if length >= 0:
            self.state, self._left = LENGTH, length
        elif length == CHUNKED:
            self.state, self._chunks, self._options = CHUNKS, ChunkedReader(lax=True), head.options
        else:
            self.state = UNTIL_CLOSE
        client.begin_response(head)
        if self.client is not client:
            return  # The client disconnected meanwhile.
        if length == 0:
            self._end(client, [], self._is_reusable(client, head) and not rest)
        else:
            self._reusable = self._is_reusable(client, head)
            if rest:
                self._read_body(rest)

    def _is_reusable(self, client: "Downstream", head: ResponseHead) -> bool:
        """Say whether the connection is reusable: some workers send a body after HEAD, and not always at once."""
        return head.keep_alive and not self.retired and (head.length == 0 or not client.head.is_head)

    def _read_body(self, data: bytes) -> None:
        client = self.client
        assert client is not None
        if self.state == LENGTH:
            left = self._left - len(data)
            if left > 0:
                self._left = left
                client.relay([data])
            else:
                client.relay([data[:left] if left else data])
                self._end(client, [], self._reusable and not left)
        elif self.state == CHUNKS:
            self._read_chunks(client, data)
        else:
            client.relay([data])

    def _read_chunks(self, client: "Downstream", data: bytes) -> None:
        chunks = self._chunks
        assert chunks is not None
        try:
            pieces = chunks.feed(data)
            trailers = self.upstream.reader.trailers(chunks.trailers, self._options) if chunks.done else []
        except Refusal as refusal:
            self.close()
            self._proxy.retries.truncated(self, client, refusal.reason, refusal.data)
            return
        if pieces:
            client.relay(pieces)
        if chunks.done and self.client is client:
            self._chunks = None
            self._end(client, trailers, self._reusable and not chunks.rest)

    def _end(self, client: "Downstream", trailers: list[bytes], reusable: bool) -> None:
        if self.client is not client:
            return
        self.client = None
        if reusable and client.sent and not self.retired:
            self.state = IDLE
        else:
            self.close()
        client.end_body(trailers)
        self._proxy.finish_exchange(self, client)
