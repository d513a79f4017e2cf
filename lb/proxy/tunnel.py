"""Relays bytes in both directions after 101 (Switching Protocols); each direction ends separately (half-close).

The exchange ends with the 101: a tunnel is not a request in flight, takes no request's place at its worker, and its
duration is not a response time. Tunnels have their own counts (`Dispatcher.tunnels`, `Upstream.tunnels`). A tunnel ends
when both directions have ended, one side is lost, no byte was relayed for `tunnel_timeout`, or a drain reaches its
limit.

What one side sent before its connection failed reaches the other side, and then the failure does: a reset on one side
becomes a reset on the other, so that neither side takes incomplete data for complete. A peer that closes with unread
input (a WebSocket server that refuses a large message) resets the connection without intending it. Flow control: while
one side does not read, the other is not read.
"""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Final

from lb.http.response import ResponseHead
from lb.interface.counters import BYTES_OUT
from lb.system.sockets import failed, received, reset, unsent

if TYPE_CHECKING:
    from lb.proxy.client_connection import Downstream
    from lb.proxy.dispatcher import Dispatcher
    from lb.proxy.upstream_connection import UpstreamConnection

DELIVERY_POLL_INTERVAL: Final = 0.05
"""Seconds between two checks whether all sent bytes have arrived."""

OWN_CLOSE_GRACE: Final = 0.5
"""Seconds in which a side may close its connection, as after a close frame, before it is reset."""

HALF_CLOSED_POLL_INTERVAL: Final = 0.5
"""Seconds between two checks of a side that has sent FIN."""


def upgrade(
    proxy: "Dispatcher", connection: "UpstreamConnection", client: "Downstream", head: ResponseHead, rest: bytes
) -> None:
    """Forward the 101 (RFC 9110 section 7.8) and hand both connections to a tunnel."""
    out = head.start + b"Connection: " + head.option + b"\r\nUpgrade: " + head.upgrade + b"\r\n\r\n"
    proxy.slots[BYTES_OUT] += len(out)
    client.transport.write(out + rest)
    client.status = 101
    proxy.wheel.remove(client)
    early = client.leave_http()
    upstream = connection.upstream
    proxy.count_exchange_end(client, monotonic())
    proxy.unassign(client)

    def ended() -> None:
        upstream.connections.discard(connection)
        upstream.tunnels -= 1
        proxy.remove_tunnel(tunnel)
        client.connection_lost(None)

    tunnel = Tunnel(proxy, client.transport, connection.transport, ended)
    upstream.tunnels += 1
    proxy.add_tunnel(tunnel)
    if early:
        connection.transport.write(early)
    tunnel.start()
    if client.blocked:
        connection.transport.pause_reading()
    proxy.serve_queue()


class Tunnel:
    """Two joined connections; `ended` is called once, after both are closed."""

    def __init__(
        self, proxy: "Dispatcher", client: asyncio.Transport, worker: asyncio.Transport, ended: Callable[[], None]
    ) -> None:
        self._proxy = proxy
        self._ends = (TunnelEnd(self, client, worker), TunnelEnd(self, worker, client))
        self._ended = ended
        self._open = 2
        self.deadline = 0.0
        self.slot = -1

    def start(self) -> None:
        """Take over both connections."""
        for end in self._ends:
            end.transport.set_protocol(end)
            end.transport.resume_reading()
        self.touch()
        self._proxy.wheel.add(self, monotonic())

    def touch(self) -> None:
        """Restart the idle timeout."""
        self.deadline = monotonic() + self._proxy.settings.tunnel_timeout

    def expire(self, now: float) -> None:
        """End the tunnel: no byte was relayed for `tunnel_timeout`."""
        self.deadline = now + self._proxy.settings.tunnel_timeout
        self.abort()

    def abort(self) -> None:
        """Reset both connections, so that neither side takes what it received for complete."""
        for end in self._ends:
            reset(end.transport)

    @property
    def delivery_timeout(self) -> float:
        """Seconds in which a side may read what the other one sent before its connection failed."""
        return self._proxy.settings.body_timeout

    def other(self, end: "TunnelEnd") -> "TunnelEnd":
        """Return the end opposite to `end`."""
        first, second = self._ends
        return second if end is first else first

    def finish_if_both_ended(self) -> None:
        """Close both sides if neither will send more."""
        if all(end.eof for end in self._ends):
            for end in self._ends:
                end.transport.close()

    def lost(self) -> None:
        """Note that one connection is closed."""
        self._open -= 1
        if not self._open:
            self._proxy.wheel.remove(self)
            self._ended()


class TunnelEnd(asyncio.Protocol):
    """One direction: data from `transport` is written to `peer`."""

    __slots__ = ("_delivered_at", "_tunnel", "_was_reset", "eof", "peer", "reset_pending", "transport")

    def __init__(self, tunnel: Tunnel, transport: asyncio.Transport, peer: asyncio.Transport) -> None:
        self._tunnel = tunnel
        self.transport = transport
        self.peer = peer
        self.eof = False
        self.reset_pending = False  # the other connection failed, so input from this one is discarded
        self._delivered_at = 0.0  # when the last byte from the other side was acknowledged
        self._was_reset = False

    def data_received(self, data: bytes) -> None:
        if self.reset_pending:
            return
        self._tunnel.touch()
        if not self.peer.is_closing():
            self.peer.write(data)

    def eof_received(self) -> bool:
        if self.reset_pending:
            return False
        self.eof = True
        if not self.peer.is_closing():
            self.peer.write_eof() if self.peer.can_write_eof() else self.peer.close()
        self._tunnel.finish_if_both_ended()
        self._poll_for_reset()
        return True

    def _poll_for_reset(self) -> None:
        """Check for a reset of a side that has sent FIN: the loop, which no longer reads there, does not notice it."""
        if self.transport.is_closing():
            return
        if failed(self.transport):
            self._was_reset = True
            self.transport.abort()
        else:
            asyncio.get_running_loop().call_later(HALF_CLOSED_POLL_INTERVAL, self._poll_for_reset)

    def pause_writing(self) -> None:
        if not self.peer.is_closing():
            self.peer.pause_reading()

    def resume_writing(self) -> None:
        if not self.peer.is_closing():
            self.peer.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        peer = self.peer
        if not peer.is_closing():
            if exc is None and not self._was_reset:
                peer.close()
            else:
                if not self.reset_pending:
                    while data := received(self.transport):
                        peer.write(data)
                self._tunnel.other(self).reset_after_delivery()
        self._tunnel.lost()

    def reset_after_delivery(self) -> None:
        """Reset this side too, after it has received all that the other side sent before its connection failed."""
        if not unsent(self.transport):
            reset(self.transport)
            return
        self.reset_pending = True
        self.transport.resume_reading()
        self._poll_delivery(monotonic() + self._tunnel.delivery_timeout)

    def _poll_delivery(self, until: float) -> None:
        now = monotonic()
        if self.transport.is_closing():
            return
        if not self._delivered_at and not unsent(self.transport):
            self._delivered_at = now
        if now >= until or (self._delivered_at and now >= self._delivered_at + OWN_CLOSE_GRACE):
            reset(self.transport)
        else:
            asyncio.get_running_loop().call_later(DELIVERY_POLL_INTERVAL, self._poll_delivery, until)
