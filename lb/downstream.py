"""The client side of an exchange: one connection from a client, its requests one after the other.

    IDLE -> HEAD (a head has begun) -> QUEUED / CONNECTING / WAITING (the proxy finds an upstream) -> RESPONDING -> IDLE
    BLOCKED: answered, but the client does not read yet; LINGER: refused, its further input dropped; CLOSED: flushing.

An exchange's state lives here, grouped below, because requests on one connection are answered in order, one at a time
(RFC 9112 section 9.3.2): what arrives early waits in `buffer`, bounded by holding back the reading.

The common path: a chunk that is exactly one remembered head without a body costs one dictionary lookup.
"""

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Final, cast

from lb.body import HOLD, RequestBody
from lb.chunked import frame, last
from lb.connection import CONNECTING as NOT_CONNECTED
from lb.connection import HIGH_WATER, UpstreamConnection
from lb.counters import BYTES_IN, BYTES_OUT, CONNECTIONS, REQUESTS, RESPONSES
from lb.fields import MAX_REMEMBERED_HEAD, Refusal
from lb.request import RequestHead
from lb.response import ResponseHead, outgoing
from lb.sockets import client_address, reset

if TYPE_CHECKING:
    from lb.proxy import Proxy
    from lb.upstream import Upstream

IDLE, HEAD, QUEUED, CONNECTING, WAITING, RESPONDING, BLOCKED, LINGER, CLOSED, TUNNEL = range(10)
NAMES: Final = ("idle", "head", "queued", "connecting", "waiting", "responding", "blocked", "linger", "closed", "tunnel")
_IN_EXCHANGE: Final = (QUEUED, CONNECTING, WAITING, RESPONDING)

NOBODY: Final = (503, "no worker is available")
MAX_EARLY: Final = 65536  # bytes of later requests read while one is being answered


class Downstream:
    """One client connection: an `asyncio.Protocol` by its methods, not by descent, which would keep it from being compiled."""

    __slots__ = (
        "_advancing", "_chunks", "_held", "_proxy", "_recent", "begun", "blocked", "body", "buffer", "closing", "connection",
        "deadline", "due", "eof", "failure", "fresh", "head", "interims", "payload", "plain", "prefix", "reading_held", "repeats",
        "sent", "slot", "started", "state", "status", "tail", "transport", "tried", "upstream",
    )  # fmt: skip

    transport: asyncio.Transport
    head: RequestHead
    prefix: bytes
    body: RequestBody | None
    started: float
    due: float

    def __init__(self, proxy: "Proxy") -> None:
        # Of the process.
        self._proxy = proxy
        self._recent = proxy.requests.recent
        # Of the connection.
        self.state = IDLE
        self.buffer = b""
        self.tail = b""
        self.deadline = 0.0
        self.slot = -1
        self.eof = False
        self.blocked = False  # the client does not read
        self._held = False  # the upstream does not read
        self.reading_held = False
        self._advancing = False
        # Of the exchange; the rest is set by `_begin`.
        self.connection: UpstreamConnection | None = None
        self.upstream: Upstream | None = None
        self.plain = self.closing = self.begun = self._chunks = False
        self.sent = True

    def __repr__(self) -> str:
        return f"<Downstream {NAMES[self.state]} buffered={len(self.buffer)} sent={self.sent} begun={self.begun}>"

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(high=HIGH_WATER)
        self.tail = client_address(transport.get_extra_info("peername")) + b"\r\n\r\n"
        proxy = self._proxy
        proxy.clients.add(self)
        proxy.slots[CONNECTIONS] = len(proxy.clients)
        now = monotonic()
        self.deadline = now + proxy.settings.idle_timeout
        proxy.wheel.add(self, now)

    def data_received(self, data: bytes) -> None:
        if self.state == IDLE:
            head = self._recent.young.get(data) if len(data) <= MAX_REMEMBERED_HEAD else None
            if head is not None and head.bare:
                self._begin(head, head.prefix, len(data))
            elif data[-4:] == b"\r\n\r\n" and (alike := self._proxy.requests.alike(data)) is not None:
                head, prefix = alike
                self._begin(head, prefix, len(data))
            else:
                self.buffer = data
                self._advance()
        elif not self.sent and self.state in _IN_EXCHANGE:
            self._feed_body(data)
        elif self.state < LINGER:
            self.buffer += data
            if self.state == HEAD:
                self._advance()
            elif len(self.buffer) > MAX_EARLY:
                self._settle_reading()

    def eof_received(self) -> bool:
        """A client that sent FIN may have gone or may still be reading; the next write or a short grace tells."""
        self.eof = True
        if self.state == BLOCKED:
            return True
        if self.state not in _IN_EXCHANGE or not self.sent:
            return False
        self.plain = False
        if self.state != RESPONDING:
            self._await_answer(monotonic())
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        proxy = self._proxy
        proxy.wheel.remove(self)
        proxy.clients.discard(self)
        proxy.slots[CONNECTIONS] = len(proxy.clients)
        state, self.state = self.state, CLOSED
        self.buffer = b""
        if state in _IN_EXCHANGE:
            proxy.recovery.abandoned(self, state)
        if proxy.draining and not proxy.clients:
            proxy.drained()

    def pause_writing(self) -> None:
        self.blocked = True
        connection = self.connection
        # WAITING: interim responses may fill it too, but a whole answer's connection is another client's already.
        if self.state in (WAITING, RESPONDING) and connection is not None and connection.client is self:
            connection.transport.pause_reading()

    def resume_writing(self) -> None:
        self.blocked = False
        now = monotonic()
        if self.state == RESPONDING and self.connection is not None:
            self.deadline = now + self._proxy.settings.body_timeout
            self.connection.transport.resume_reading()
        elif self.state == WAITING and self.connection is not None:
            self.connection.transport.resume_reading()
        elif self.state == BLOCKED:
            self._rest(now)

    # Requests.

    def _advance(self) -> None:
        """Take requests from the buffer until one has to be waited for."""
        if self._advancing:
            return  # A request answered on the spot: the loop below goes on.
        self._advancing = True
        while self.buffer and self.state <= HEAD and self._take_head():
            pass
        self._advancing = False
        if self.reading_held:
            self._settle_reading()
        if self.eof and self.state <= HEAD:
            self.close()

    def _take_head(self) -> bool:
        """Begin the exchange of the head at the buffer's start; False when it is incomplete or refused."""
        data = self.buffer
        if data[:2] == b"\r\n":
            self.buffer = data = data[2:]  # RFC 9112 section 2.2: an empty line before the request line is ignored
        end = data.find(b"\r\n\r\n") + 4
        try:
            if end < 4 or end > self._proxy.settings.max_head:
                self._proxy.requests.check_incomplete(data, self._proxy.settings.max_head)
                if self.state == IDLE:
                    self.state = HEAD
                    self.deadline = monotonic() + self._proxy.settings.head_timeout
                return False
            head, prefix = self._proxy.requests.take(data[:end])
            self.buffer = data[end:]
            self._begin(head, prefix, end)
        except Refusal as refusal:
            self._refuse(refusal, data[:5] == b"HEAD ")
            return False
        return True

    def _begin(self, head: RequestHead, prefix: bytes, size: int) -> None:
        proxy = self._proxy
        self.started = now = monotonic()
        self.deadline = self.due = now + proxy.settings.request_timeout
        self.head = head
        self.prefix = prefix
        self.state = WAITING
        self.plain = head.plain and not self.eof
        self.closing = not head.keep_alive or proxy.draining
        self.begun = self.interims = self.fresh = False
        self.tried: tuple[Upstream, ...] = ()
        self.repeats = 0
        self.payload = b""
        self.failure = NOBODY
        self.sent = True
        self.body = None
        if head.length:
            self._begin_body(head.length)
        if self.state == WAITING:
            if self.eof:
                self._await_answer(now)
            proxy.begin(self, size)

    def _begin_body(self, length: int) -> None:
        """Take what of the body came with the head; a small one that is all there goes with it in one write."""
        early, self.buffer = self.buffer, b""
        limit = self._proxy.settings.max_body
        if 0 < length <= len(early) and length <= HOLD and (limit is None or length <= limit):
            self.payload, self.buffer = (early, b"") if len(early) == length else (early[:length], early[length:])
            self._proxy.slots[BYTES_IN] += length
            return
        try:
            self.body = RequestBody(length, limit, self._proxy.requests, self.head.options)
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
            self.due = now + proxy.settings.request_timeout
        connection = self.connection
        if connection is not None and connection.state != NOT_CONNECTED:
            connection.transport.writelines(buffers)
            self.deadline = self.due if self.sent and not self.begun else now + proxy.settings.body_timeout
            if body.overfull:
                body.forget()
        elif body.overfull:
            self._settle_reading()

    def hold_reading(self, held: bool) -> None:
        """Stop or go on reading the body, as the upstream takes it."""
        self._held = held
        self._settle_reading()
        if not held and not self.sent:
            self.deadline = monotonic() + self._proxy.settings.body_timeout

    def _settle_reading(self) -> None:
        unsent = self.state in (QUEUED, CONNECTING, WAITING) and (self.connection is None or self.connection.state == NOT_CONNECTED)
        overfull = unsent and not self.sent and self.body is not None and self.body.overfull
        held = self._held or overfull or len(self.buffer) > MAX_EARLY
        if held != self.reading_held and not self.eof:
            self.reading_held = held
            if held:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def request_started(self, now: float) -> None:
        """Take note that an upstream is being sent the request: what is held goes, deadlines count anew."""
        self.state = WAITING
        self.deadline = self.due if self.sent else now + self._proxy.settings.body_timeout
        if self.eof:
            self._await_answer(now)
        self._held = False
        if self.reading_held:
            self._settle_reading()

    def _await_answer(self, now: float) -> None:
        """Give a client that sent FIN its grace, though not beyond what is due."""
        self.deadline = min(self.due, now + self._proxy.settings.half_close_grace)
        self._proxy.wheel.hasten(self, now)

    # Responses.

    def interim(self, head: ResponseHead) -> None:
        """Pass on a 1xx, unless the client is too old for it (RFC 9110 section 15.2)."""
        if self.head.minor:
            self.interims = True
            self.plain = False  # The client may not have taken it yet, and the connection be held back for that.
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
        self.deadline = monotonic() + proxy.settings.body_timeout
        proxy.slots[BYTES_OUT] += len(out)
        self.transport.write(out)

    def relay(self, pieces: list[bytes]) -> None:
        """Send payload on."""
        if self._chunks:
            pieces = frame(pieces)
        self._proxy.slots[BYTES_OUT] += sum(map(len, pieces))
        self.deadline = monotonic() + self._proxy.settings.body_timeout
        self.transport.writelines(pieces)

    def end_body(self, trailers: list[bytes]) -> None:
        """Send what marks the end of the body, if anything does."""
        if self._chunks:
            self.transport.write(last(trailers))

    def finished(self, now: float) -> None:
        """Leave the exchange: on to the next request, or close."""
        self.connection = self.upstream = self.body = None
        self._held = False
        if self.closing:
            self.close() if self.sent else self._linger()
        elif self.blocked:
            self.state = BLOCKED
            self.deadline = now + self._proxy.settings.body_timeout
        else:
            self._rest(now)

    def _rest(self, now: float) -> None:
        self.state = IDLE
        self.deadline = now + self._proxy.settings.idle_timeout
        if self.buffer or self.eof or self.reading_held:
            self._advance()

    def leave_http(self) -> bytes:
        """Become one end of a tunnel; return what the client sent ahead."""
        self.state = TUNNEL
        early, self.buffer = self.buffer, b""
        return early

    # Failures and ends.

    def _refuse(self, refusal: Refusal, head_only: bool) -> None:
        """Answer a head that begins no exchange, and read no further: what follows cannot be trusted."""
        slots = self._proxy.slots
        slots[REQUESTS] += 1
        slots[RESPONSES + refusal.status // 100] += 1
        self.buffer = b""
        self.transport.write(self._proxy.own_answer(refusal.status, refusal.reason, close=True, head_only=head_only))
        self._linger()

    def _refuse_body(self, refusal: Refusal) -> None:
        if self.state == WAITING and self.upstream is None:  # Nothing of it went anywhere.
            self._refuse(refusal, self.head.is_head)
        else:
            self._proxy.recovery.refused(self, refusal)

    def fail(self, status: int, message: str) -> None:
        """Answer the exchange with an error of our own; its connections are the proxy's matter."""
        self.closing = self.closing or not self.sent or (self.eof and not self.buffer)
        self.status = status
        self.transport.write(self._proxy.own_answer(status, message, close=self.closing, head_only=self.head.is_head))

    def break_off(self) -> None:
        """End a begun response so that nobody takes it for complete."""
        self.state = CLOSED
        reset(self.transport)

    def close(self) -> None:
        """Close once what is written has been sent."""
        self.state = CLOSED
        now = monotonic()
        self.deadline = now + self._proxy.settings.body_timeout
        self.transport.close()

    def _linger(self) -> None:
        """Say goodbye, then drop input for a while: closing at once would reset the answer away (RFC 9112 section 9.6)."""
        if self.eof:
            self.close()
            return
        self.state = LINGER
        now = monotonic()
        self.deadline = now + self._proxy.settings.linger_timeout
        self._proxy.wheel.hasten(self, now)
        self.transport.write_eof()
        if self.reading_held:
            self.reading_held = False
            self.transport.resume_reading()

    def expire(self, now: float) -> None:
        """The deadline of the present state has passed."""
        if self.state == IDLE:
            self.close()
        elif self.state == HEAD:
            self._refuse(Refusal(408, "the request head took too long"), self.buffer[:5] == b"HEAD ")
        elif self.state in _IN_EXCHANGE:
            self._proxy.recovery.expired(self, now, stalled=not self.sent and not self._held)
        else:
            self.deadline = now + 1.0
            self.transport.abort()
