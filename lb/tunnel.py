"""After 101 (Switching Protocols): bytes pass both ways unread, each direction ends by itself (half-close).

A tunnel counts as an exchange in flight until both directions have ended, one side was lost, or nothing moved for
`tunnel_timeout`. Flow control: a side that does not read stops the reading of the other.
"""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

from lb.response import ResponseHead

if TYPE_CHECKING:
    from lb.connection import UpstreamConnection
    from lb.downstream import Downstream
    from lb.proxy import Proxy


def upgrade(proxy: "Proxy", connection: "UpstreamConnection", client: "Downstream", head: ResponseHead, rest: bytes) -> None:
    """Let both sides leave HTTP (RFC 9110 section 7.8): a tunnel takes over both connections."""
    client.transport.write(head.start + b"Connection: upgrade\r\nUpgrade: " + head.upgrade + b"\r\n\r\n" + rest)
    client.status = 101
    proxy.wheel.remove(client)
    early = client.leave_http()

    def ended() -> None:
        connection.upstream.connections.discard(connection)
        proxy.unassign(client)
        proxy.leave(client, monotonic())
        proxy.pump()
        client.connection_lost(None)

    tunnel = Tunnel(proxy, client.transport, connection.transport, ended)
    if early:
        connection.transport.write(early)
    tunnel.start()
    if client.blocked:
        connection.transport.pause_reading()


class Tunnel:
    """Two connections joined; `ended` is called once when both are gone."""

    def __init__(self, proxy: "Proxy", client: asyncio.Transport, worker: asyncio.Transport, ended: Callable[[], None]) -> None:
        self._proxy = proxy
        self._ends = (TunnelEnd(self, client, worker), TunnelEnd(self, worker, client))
        self._ended = ended
        self._open = 2
        self.deadline = 0.0
        self.slot = -1

    def start(self) -> None:
        """Take both connections over."""
        for end in self._ends:
            end.transport.set_protocol(end)
            end.transport.resume_reading()
        self.touch()
        self._proxy.wheel.add(self, monotonic())

    def touch(self) -> None:
        """Note that something moved."""
        self.deadline = monotonic() + self._proxy.settings.tunnel_timeout

    def expire(self, now: float) -> None:
        """Nothing moved for too long."""
        self.deadline = now + self._proxy.settings.tunnel_timeout
        self.abort()

    def abort(self) -> None:
        """End both directions at once."""
        for end in self._ends:
            end.transport.abort()

    def finish_if_both_ended(self) -> None:
        """Close both sides when neither will send more."""
        if all(end.eof for end in self._ends):
            for end in self._ends:
                end.transport.close()

    def lost(self) -> None:
        """One side is gone."""
        self._open -= 1
        if not self._open:
            self._proxy.wheel.remove(self)
            self._ended()


class TunnelEnd(asyncio.Protocol):
    """What arrives on `transport` goes to `peer`."""

    __slots__ = ("_tunnel", "eof", "peer", "transport")

    def __init__(self, tunnel: Tunnel, transport: asyncio.Transport, peer: asyncio.Transport) -> None:
        self._tunnel = tunnel
        self.transport = transport
        self.peer = peer
        self.eof = False

    def data_received(self, data: bytes) -> None:
        self._tunnel.touch()
        self.peer.write(data)

    def eof_received(self) -> bool:
        self.eof = True
        if not self.peer.is_closing():
            self.peer.write_eof()
        self._tunnel.finish_if_both_ended()
        return True

    def pause_writing(self) -> None:
        self.peer.pause_reading()

    def resume_writing(self) -> None:
        if not self.peer.is_closing():
            self.peer.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.peer.is_closing():
            self.peer.close() if exc is None else self.peer.abort()
        self._tunnel.lost()
