"""The upstream side of an exchange: one keep-alive connection to one worker.

States: IDLE (in its upstream's idle list) -> AWAITING (request sent, no final response head yet) -> one of the body states ->
IDLE or closed. The client side learns of a response by `begin_response`, `relay`, `end_body`; what may be done
about a failure is the proxy's decision.

A response that came whole in one read, to a plain request, takes the common path: one lookup, one write.
"""

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Final, cast

from lb.chunked import ChunkedReader
from lb.fields import Refusal
from lb.response import CHUNKED, ResponseHead
from lb.tunnel import upgrade

if TYPE_CHECKING:
    from lb.downstream import Downstream
    from lb.proxy import Proxy
    from lb.upstream import Upstream

CONNECTING, IDLE, AWAITING, LENGTH, CHUNKS, UNTIL_CLOSE, GONE = range(7)
NAMES: Final = ("connecting", "idle", "awaiting", "length", "chunks", "until-close", "gone")

HIGH_WATER: Final = 65536  # bytes written but not sent after which the other side is no longer read
MAX_HEAD: Final = 65536


class UpstreamConnection:
    """One connection to `upstream`; `client` is whose exchange it carries, if any. An `asyncio.Protocol` as `Downstream` is one."""

    __slots__ = (
        "_buffer",
        "_chunks",
        "_left",
        "_options",
        "_proxy",
        "_recent",
        "_reusable",
        "client",
        "idle_since",
        "served",
        "state",
        "transport",
        "upstream",
    )

    transport: asyncio.Transport

    def __init__(self, proxy: "Proxy", upstream: "Upstream", client: "Downstream | None") -> None:
        # Of the connection.
        self._proxy = proxy
        self.upstream = upstream
        self._recent = upstream.reader.recent
        self.served = 0
        self.idle_since = 0.0
        # Of the exchange.
        self.client = client
        self.state = CONNECTING
        self._buffer = b""
        self._left = 0
        self._chunks: ChunkedReader | None = None
        self._options: list[bytes] = []
        self._reusable = False

    def __repr__(self) -> str:
        return f"<UpstreamConnection {self.upstream.name} {NAMES[self.state]} served={self.served}>"

    # What asyncio calls.

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
            if end < 4:
                self._wait_for_head(data)
                return
            raw = data[:end]
            head = self._recent.young.get(raw)
            client = self.client
            assert client is not None
            if head is not None and client.plain and client.sent and len(data) - end == head.length and head.whole:
                self.state = IDLE
                self.client = None
                self.served += 1
                out = head.farewell if client.closing else head.whole
                if head.length:
                    out += data[end:]
                client.transport.write(out)
                self._proxy.answered(self, client, head.status, len(out))
            else:
                self._read_heads(data, end)
        elif self.state == IDLE or self.client is None:
            self.close()  # A response nobody asked for.
        else:
            self._read_body(data)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        state, client = self.state, self.client
        self.state = GONE
        self.upstream.connections.discard(self)
        if state == IDLE and self in self.upstream.idle:
            self.upstream.idle.remove(self)
        if client is None:
            return
        if state == UNTIL_CLOSE and exc is None:
            self.client = None
            client.end_body([])
            self._proxy.ended(self, client)
        elif state == AWAITING:
            self._proxy.recovery.lost_before_head(self, client, exc, bool(self._buffer))
        else:
            self._proxy.recovery.truncated(self, client)

    def pause_writing(self) -> None:
        if self.client is not None:
            self.client.hold_reading(True)

    def resume_writing(self) -> None:
        if self.client is not None:
            self.client.hold_reading(False)

    # What the proxy calls.

    def close(self) -> None:
        """Close without regard to what is in flight; nobody is told."""
        if self.state == IDLE and self in self.upstream.idle:
            self.upstream.idle.remove(self)
        self.state = GONE
        self.client = None
        self.transport.abort()

    def rest(self, now: float) -> None:
        """Become idle."""
        self.idle_since = now
        self.upstream.idle.append(self)

    # Reading a response.

    def _wait_for_head(self, data: bytes) -> None:
        self._buffer = data
        if len(data) > MAX_HEAD:
            self._malformed()

    def _malformed(self) -> None:
        client = self.client
        assert client is not None
        self.close()
        self._proxy.recovery.malformed(self, client)

    def _read_heads(self, data: bytes, end: int) -> None:
        """Read the head that ends at `end` and, while they are of interim responses (RFC 9110 section 15.2), those behind it."""
        start = 0
        while (head := self._head(data[start:end])) is not None:
            client = self.client
            assert client is not None
            if head.status >= 200:
                self._begin(client, head, data[end:])
                return
            if head.status == 101:
                self._switch(client, head, data[end:])
                return
            client.interim(head)
            if self.state != AWAITING or end == len(data):
                return
            start, end = end, data.find(b"\r\n\r\n", end) + 4
            if end < 4:
                self._wait_for_head(data[start:])
                return

    def _head(self, raw: bytes) -> ResponseHead | None:
        """Return the head that `raw` is; None: it was refused, and the exchange is over."""
        if len(raw) <= MAX_HEAD:
            try:
                return self.upstream.reader.read(raw)
            except Refusal:
                pass
        self._malformed()
        return None

    def _switch(self, client: "Downstream", head: ResponseHead, rest: bytes) -> None:
        if head.upgrade and client.head.upgrades:
            self.state, self.client = IDLE, None
            upgrade(self._proxy, self, client, head, rest)
        else:
            self._malformed()

    def _begin(self, client: "Downstream", head: ResponseHead, rest: bytes) -> None:
        length = 0 if client.head.is_head else head.length
        self.served += 1
        if head.full and self._proxy.recovery.has_elsewhere(client):
            self.client = None
            if head.keep_alive and client.sent and len(rest) == length:
                self.state = IDLE
                self.rest(monotonic())
            else:
                self.close()
            self._proxy.recovery.full(self.upstream, client)
            return
        if length >= 0:
            self.state, self._left = LENGTH, length
        elif length == CHUNKED:
            self.state, self._chunks, self._options = CHUNKS, ChunkedReader(), head.options
        else:
            self.state = UNTIL_CLOSE
        client.begin_response(head)
        if self.client is not client:
            return  # The client went away over it.
        if length == 0:
            self._end(client, [], head.keep_alive and not rest)
        else:
            self._reusable = head.keep_alive
            if rest:
                self._read_body(rest)

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
        except Refusal:
            self.close()
            self._proxy.recovery.truncated(self, client)
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
        if reusable and client.sent:
            self.state = IDLE
        else:
            self.close()
        client.end_body(trailers)
        self._proxy.ended(self, client)
