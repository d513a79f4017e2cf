"""Runs the client side of an exchange: one connection from a client, its requests one after the other.

    IDLE -> HEAD (a head has begun) -> QUEUED / CONNECTING / WAITING (for an upstream) -> RESPONDING -> IDLE
    BLOCKED: responded, but the client does not read yet; LINGER: refused, further input is discarded; CLOSED: flushing.

The state of the exchange is kept here, in a group of its own, because requests on one connection are answered in order,
one at a time (RFC 9112 section 9.3.2). Later requests wait in `buffer`, whose size is limited by pausing the reading.

The fast path: input that is exactly one cached head without a body costs one dictionary lookup.
"""

import asyncio
import re
from ipaddress import IPv4Address, IPv6Address
from time import monotonic
from typing import TYPE_CHECKING, Final, cast

from lb.http.chunked import frame, last
from lb.http.fields import MAX_REMEMBERED_HEAD, Refusal
from lb.http.request_head import RequestHead
from lb.http.response import ResponseHead, outgoing
from lb.http.trust import client_address
from lb.interface.counters import BYTES_IN, BYTES_OUT, CONNECTIONS, REQUESTS, RESPONSES
from lb.proxy.connection_end import (
    BLOCKED,
    CLOSED,
    COMPLETE,
    CONNECTING,
    FRAMED,
    HEAD,
    IDLE,
    IN_EXCHANGE,
    LINGER,
    NAMES,
    QUEUED,
    RESPONDING,
    TUNNEL,
    WAITING,
    Closing,
)
from lb.proxy.deadlines import UNSCHEDULED
from lb.proxy.request_body import MAX_HELD, RequestBody
from lb.proxy.upstream_connection import CONNECTING as NOT_CONNECTED
from lb.proxy.upstream_connection import HIGH_WATER, UpstreamConnection
from lb.system.sockets import unsent

if TYPE_CHECKING:
    from lb.proxy.dispatcher import Dispatcher
    from lb.proxy.upstream_pool import Upstream

NO_WORKER: Final = (503, "no worker is available", False)
"""What a client gets in the end: status, message, and whether an injected fault is the reason."""

MAX_EARLY: Final = 65536
"""Bytes of later requests that are read during an exchange."""

MAX_EMPTY: Final = 4096
"""Bytes of empty lines before a request; a client that sends more is disconnected."""

_EMPTY_LINES = re.compile(rb"(?:\r?\n)*+").match


class Downstream(Closing):
    """One client connection.

    It has the methods of an `asyncio.Protocol` without the base class, which would prevent its compilation.
    """

    __slots__ = (
        "_advancing", "_chunks", "_held", "_recent", "_requests", "_volume", "begun", "body", "closing", "connection",
        "due", "empty", "error", "failure", "fast_path", "fresh", "head", "interims", "payload", "prefix", "retries",
        "sent", "sent_at", "set_cookie", "started", "status", "tail", "tried", "upstream",
    )  # fmt: skip

    head: RequestHead
    prefix: bytes
    body: RequestBody | None
    started: float
    due: float

    def __init__(self, proxy: "Dispatcher") -> None:
        super().__init__(proxy)
        # State of the process.
        self._requests = proxy.readers.others
        self._recent = self._requests.recent
        # State of the connection.
        self.tail = b""
        self.empty = 0  # bytes of empty lines since the last request
        self._held = False  # the upstream does not read
        self._advancing = False
        # State of the exchange; `_begin` sets the rest.
        self.connection: UpstreamConnection | None = None
        self.upstream: Upstream | None = None
        self.fast_path = self.closing = self.begun = self._chunks = False
        self.sent = True
        self.sent_at = 0.0  # of the latest attempt (monotonic seconds); before `started`: of an earlier request
        self._volume = 0  # bytes of the response's body sent in pieces
        self.set_cookie = b""  # a field that the policy of choice adds to the response

    def __repr__(self) -> str:
        return f"<Downstream {NAMES[self.state]} buffered={len(self.buffer)} sent={self.sent} begun={self.begun}>"

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport = cast(asyncio.Transport, transport)
        if type(transport) is not self._proxy.limited_type:
            self._proxy.limit_writing(transport)
        self.tail = client_address(transport.get_extra_info("peername")) + b"\r\n\r\n"
        proxy = self._proxy
        if proxy.readers.networks or self._requests is not proxy.readers.others:
            self.choose_reader()
        proxy.clients.add(self)
        proxy.slots[CONNECTIONS] = len(proxy.clients)
        now = monotonic()
        self.deadline = now + proxy.idle_timeout
        self.slot = proxy.wheel.place(self, self.deadline, now)

    def data_received(self, data: bytes) -> None:
        if self.state == IDLE:
            if self.buffer:  # The first half of an empty line.
                data = self.buffer + data
            head = self._recent.find(data) if len(data) <= MAX_REMEMBERED_HEAD else None
            if head is not None and head.fast_request:
                self._begin(head, head.prefix, len(data))
            elif data[-4:] == b"\r\n\r\n" and (match := self._requests.match_template(data)) is not None:
                head, prefix = match
                self._begin(head, prefix, len(data))
            else:
                self.buffer = data
                self._advance()
        elif not self.sent and self.state in IN_EXCHANGE:
            self._feed_body(data)
        elif self.state < LINGER:
            self.buffer += data
            if self.state == HEAD:
                self._advance()
            elif len(self.buffer) > MAX_EARLY:
                self._update_reading()
        elif self.state == LINGER:
            self.extend_linger()

    def eof_received(self) -> bool:
        """Keep the connection of a client that sent FIN after a complete request: it may wait for the response."""
        self.eof = True
        if self.state == BLOCKED:
            return True
        if self.state not in IN_EXCHANGE or not self.sent:
            return False
        self.fast_path = False
        if self.state != RESPONDING:
            self._await_answer(monotonic())
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        proxy = self._proxy
        self.prepare_close(exc)
        proxy.wheel.take_out(self, self.slot)
        self.slot = UNSCHEDULED
        proxy.clients.discard(self)
        proxy.slots[CONNECTIONS] = len(proxy.clients)
        state, self.state = self.state, CLOSED
        self.buffer = b""
        if state in IN_EXCHANGE:
            proxy.retries.client_gone(self, state)
        if proxy.draining and not proxy.clients:
            proxy.drained()

    def pause_writing(self) -> None:
        self.blocked = True
        self.limit_writing()
        connection = self.connection
        # WAITING: interim responses can block too. After a complete response the connection may belong to another
        # client.
        if self.state in (WAITING, RESPONDING) and connection is not None and connection.client is self:
            connection.transport.pause_reading()
            if self.state == RESPONDING:
                self.watch_progress(monotonic())

    def resume_writing(self) -> None:
        self.blocked = False
        now = monotonic()
        if self.state == RESPONDING and self.connection is not None:
            self.deadline = now + self._proxy.body_timeout
            self.connection.transport.resume_reading()
        elif self.state == WAITING and self.connection is not None:
            self.connection.transport.resume_reading()
            self.connection.process_buffered()
        elif self.state == BLOCKED:
            self._become_idle(now)

    @property
    def peer(self) -> bytes:
        """Return the address of the peer, or the one that it has sent by the PROXY protocol."""
        return self.tail.partition(b"\r\n")[0]

    @property
    def is_trusted(self) -> bool:
        """Say whether the peer is a trusted proxy."""
        return self._requests is self._proxy.readers.trusted

    def choose_reader(self) -> None:
        """Choose the reader of requests by whether the peer is trusted, from the next request on."""
        readers = self._proxy.readers
        self._requests = readers.trusted if readers.trusts(self.peer) else readers.others
        self._recent = self._requests.recent

    def set_address(self, address: IPv4Address | IPv6Address) -> None:
        """Take this as the peer's address: a trusted peer has sent it, or it is that of a client of the front."""
        self.tail = client_address((str(address),)) + b"\r\n\r\n"
        self.choose_reader()

    def client_ip(self) -> bytes:
        """Return the client's address: the peer's, unless that is a trusted proxy."""
        return self._proxy.readers.client_of(self.peer, self.prefix) if self.is_trusted else self.peer

    # Requests.

    def _advance(self) -> None:
        """Process requests from the buffer, until one is incomplete or waits for its response."""
        if self._advancing:
            return  # A request was answered at once: the loop below continues.
        self._advancing = True
        while self.buffer and self.state <= HEAD and self._take_head():
            pass
        self._advancing = False
        if self.reading_held:
            self._update_reading()
        if self.eof and self.state <= HEAD:
            self.close()

    def _take_head(self) -> bool:
        """Start the exchange of the head at the start of the buffer; return False if it is incomplete or refused."""
        data = self.buffer
        if data[0] < 0x20 and not (data := self._without_empty_lines(data)):
            return False
        end = data.find(b"\r\n\r\n") + 4
        try:
            if end < 4 or end > self._proxy.settings.max_head:
                self._requests.check_incomplete(data, self._proxy.settings.max_head)
                if self.state == IDLE:
                    self.state = HEAD
                    self.deadline = monotonic() + self._proxy.settings.head_timeout
                return False
            head, prefix = self._requests.head_and_prefix(data[:end])
            self.buffer = data[end:]
            self._begin(head, prefix, end)
        except Refusal as refusal:
            self._refuse(refusal, data[:5] == b"HEAD ")
            return False
        return True

    def _without_empty_lines(self, data: bytes) -> bytes:
        """Drop the empty lines before a request (RFC 9112 section 2.2); return b"" if no head follows yet.

        They are not part of a head, so they neither start its timeout nor restart the idle timeout.
        """
        match = _EMPTY_LINES(data)
        end = match.end() if match is not None else 0
        self.empty += end
        if self.empty > MAX_EMPTY:
            self.buffer = b""
            self.close()
            return b""
        self.buffer = data = data[end:]
        return b"" if data == b"\r" else data

    def _begin(self, head: RequestHead, prefix: bytes, size: int) -> None:
        proxy = self._proxy
        self.started = now = monotonic()
        self.deadline = self.due = now + proxy.request_timeout
        self.head = head
        self.prefix = prefix
        self.state = WAITING
        self.fast_path = head.fast_path and not self.eof
        self.closing = not head.keep_alive or proxy.draining
        self.begun = self.interims = self.fresh = False
        self.tried: tuple[Upstream, ...] = ()
        self.retries = self.empty = 0
        self.error = ""
        self.payload = b""
        self.failure = NO_WORKER
        self.sent = True
        self.body = None
        if head.length:
            self._begin_body(head.length)
        if self.state == WAITING:
            if self.eof:
                self._await_answer(now)
            proxy.begin(self, size)

    def _begin_body(self, length: int) -> None:
        """Take the part of the body that arrived with the head; a small complete body is sent with it in one write."""
        early, self.buffer = self.buffer, b""
        limit = self._proxy.settings.max_body
        if 0 < length <= len(early) and length <= MAX_HELD and (limit is None or length <= limit):
            self.payload, self.buffer = (early, b"") if len(early) == length else (early[:length], early[length:])
            self._proxy.slots[BYTES_IN] += length
            return
        try:
            self.body = RequestBody(length, limit, self._requests, self.head.options)
        except Refusal as refusal:
            self._refuse(refusal, self.head.is_head)
            return
        self.sent = False
        if early:
            self._feed_body(early)

    def _feed_body(self, data: bytes) -> None:
        body, proxy = self.body, self._proxy
        assert body is not None
        try:
            buffers = body.feed(data)
        except Refusal as refusal:
            self._refuse_body(refusal)
            return
        proxy.slots[BYTES_IN] += len(data) - len(body.rest)
        now = monotonic()
        if body.done:
            self.sent = True
            self.buffer = body.rest
            self.due = now + proxy.request_timeout
        connection = self.connection
        if connection is not None and connection.state != NOT_CONNECTED:
            connection.transport.writelines(buffers)
            if not self._held:
                self.deadline = self.due if self.sent and not self.begun else now + proxy.body_timeout
            if self.sent and body.held is None:
                self._unsent, self._stalled_checks = unsent(connection.transport), 1
            self.trim_hold(connection)
        elif body.overfull:
            self._update_reading()

    def is_held(self) -> bool:
        """Say whether everything sent of the request is still held, so that it can be sent again."""
        return self.body is None or self.body.held is not None

    def trim_hold(self, connection: UpstreamConnection) -> None:
        """Drop the held body, and with it the possibility of a retry, if it exceeds its limit.

        On a reused connection the worker may just have closed it: then the body is held further, up to a higher limit,
        until the worker's kernel has acknowledged something.
        """
        body = self.body
        if body is None or not body.overfull:
            return
        if not connection.served or body.held_size > 4 * MAX_HELD or unsent(connection.transport) < self.size_sent():
            body.forget()

    def size_sent(self) -> int:
        """Return the minimum number of bytes of a held request that were written to its upstream."""
        return len(self.prefix) + len(self.tail) + (len(self.payload) if self.body is None else self.body.held_size)

    def is_retriable(self) -> bool:
        """Say whether this request may be retried: its method is idempotent, and its body can be held."""
        return self.head.idempotent and (self.body is None or 0 <= self.head.length <= MAX_HELD)

    def hold_reading(self, held: bool) -> None:
        """Pause or resume reading the body, at the pace of the upstream."""
        self._held = held
        self._update_reading()
        now = monotonic()
        if held and not self.begun:
            self.watch_progress(now)
        elif not held and not self.sent:
            self.deadline = now + self._proxy.body_timeout

    def _update_reading(self) -> None:
        unsent = self.state in (QUEUED, CONNECTING, WAITING) and (
            self.connection is None or self.connection.state == NOT_CONNECTED
        )
        overfull = unsent and not self.sent and self.body is not None and self.body.overfull
        held = self._held or overfull or len(self.buffer) > MAX_EARLY
        if held != self.reading_held and not self.eof:
            self.reading_held = held
            if held:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def request_started(self, now: float) -> None:
        """Note that the request is being sent to an upstream: reading resumes, and the deadlines start."""
        self.state = WAITING
        self.sent_at = now
        self.deadline = self.due if self.sent else now + self._proxy.body_timeout
        if self.eof:
            self._await_answer(now)
        self._held = False
        if self.reading_held:
            self._update_reading()

    def _await_answer(self, now: float) -> None:
        """Limit the wait of a client that sent FIN to `half_close_grace`."""
        if self.state == WAITING:
            self.deadline = min(self.deadline, now + self._proxy.settings.half_close_grace)
            self._proxy.wheel.schedule_earlier(self, now)

    # Responses.

    def interim(self, head: ResponseHead) -> None:
        """Forward a 1xx response, except to an HTTP/1.0 client (RFC 9110 section 15.2)."""
        self.fast_path = False  # The client may not have read it yet, so that the upstream connection is paused.
        if self.head.minor:
            self.interims = True
            self._proxy.slots[RESPONSES + 1] += 1
            self.transport.write(head.start + b"\r\n")

    def begin_response(self, head: ResponseHead) -> None:
        """Send the head of the final response."""
        proxy = self._proxy
        self.begun = True
        self.state = RESPONDING
        self.status = head.status
        close = self.closing or not self.sent or (self.eof and not self.buffer)
        out, self._chunks, self.closing = outgoing(head, self.head.minor, self.head.is_head, close, proxy.date())
        if self.set_cookie:
            out, self.set_cookie = out[:-2] + self.set_cookie + b"\r\n", b""
        self.deadline = monotonic() + proxy.body_timeout
        proxy.slots[BYTES_OUT] += len(out)
        self._volume = 0
        if head.length < 0 and not self._chunks and not self.head.is_head:
            self.delimit_by_close()
        self.transport.write(out)

    def relay(self, pieces: list[bytes]) -> None:
        """Send a part of the body."""
        if self._chunks:
            pieces = frame(pieces)
        size = sum(map(len, pieces))
        self._proxy.slots[BYTES_OUT] += size
        self._volume += size
        if not self.blocked:
            self.deadline = monotonic() + self._proxy.body_timeout
        self.transport.writelines(pieces)

    def end_body(self, trailers: list[bytes]) -> None:
        """Send the end of a chunked body."""
        if self._chunks:
            end = last(trailers)
            self._proxy.slots[BYTES_OUT] += len(end)
            self.transport.write(end)

    def finished(self, now: float) -> None:
        """End the exchange: continue with the next request, or close."""
        self.connection = self.upstream = self.body = None
        self._held = False
        if self.closing:
            if self._delimited != FRAMED:
                self._delimited = COMPLETE
            # Input from the client must not reset a connection with a long response, or after further requests.
            if self.sent and not self.blocked and not self.buffer and self._volume <= HIGH_WATER:
                self.close_at(now)
            else:
                self.linger()
        elif self.blocked:
            self.state = BLOCKED
            self.watch_progress(now)
        else:
            self._become_idle(now)

    def _become_idle(self, now: float) -> None:
        self.state = IDLE
        self.deadline = now + self._proxy.idle_timeout
        if self.buffer or self.eof or self.reading_held:
            self._advance()

    def limit_writing(self) -> None:
        """Set both limits; until writing pauses, the upper one is enough (`Dispatcher.limit_writing`)."""
        self.transport.set_write_buffer_limits(high=HIGH_WATER)

    def leave_http(self) -> bytes:
        """Become one side of a tunnel; return what the client has already sent."""
        self.state = TUNNEL
        self.limit_writing()
        early, self.buffer = self.buffer, b""
        return early

    # Failures and timeouts.

    def _refuse(self, refusal: Refusal, head_only: bool) -> None:
        """Respond to an invalid head, and read no further requests: what follows it cannot be trusted."""
        slots = self._proxy.slots
        slots[REQUESTS] += 1
        slots[RESPONSES + refusal.status // 100] += 1
        self.buffer = b""
        self.transport.write(self._proxy.own_response(refusal.status, refusal.reason, close=True, head_only=head_only))
        self.linger()

    def _refuse_body(self, refusal: Refusal) -> None:
        if self.state == WAITING and self.upstream is None:  # None of it has been sent to an upstream.
            self._refuse(refusal, self.head.is_head)
        else:
            self._proxy.retries.refused(self, refusal)

    def fail(self, status: int, message: str) -> None:
        """Respond with an error of the load balancer itself; the proxy handles the connections."""
        self.closing = self.closing or not self.sent or (self.eof and not self.buffer)
        self.status = status
        self.error = message
        self.transport.write(self._proxy.own_response(status, message, close=self.closing, head_only=self.head.is_head))

    def expire(self, now: float) -> None:
        """Handle the deadline of the current state."""
        if self.state == IDLE:
            self.close()
        elif self.state == HEAD:
            self._refuse(Refusal(408, "the request head took too long"), self.buffer[:5] == b"HEAD ")
        elif self.state in IN_EXCHANGE:
            reader = self._slow_reader()
            if reader is None or not self.is_peer_reading(reader, now):
                self._proxy.retries.expired(self, now, stalled=not self.sent and not self._held)
            elif reader is not self.transport:
                self.due = max(self.due, self.deadline)
        else:
            self.expire_ending(now)

    def _slow_reader(self) -> asyncio.Transport | None:
        """Return the transport whose peer has not yet read what was written, if the exchange waits for that."""
        if self.state == RESPONDING and self.blocked:
            return self.transport
        connection, body = self.connection, self.body
        if connection is None or connection.state == NOT_CONNECTED or (self.begun and self.sent):
            return None
        return connection.transport if self._held or (self.sent and body is not None and body.held is None) else None
