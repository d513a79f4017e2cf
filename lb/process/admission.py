"""Admits clients while there are descriptors for them, and reserves some for workers, health checks and control.

Clients get at most what is left after the reserve. When all of that is in use, the clients that have been idle the
longest are closed. While all are busy, new connections wait in the kernel's backlog instead of being accepted and
dropped. The limit is read every second, because an operator may change it (prlimit). An accept that fails for another
reason must neither loop nor end the accepting.
"""

import asyncio
import contextlib
import os
import resource
import select
import socket
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any, Final

from lb.faults.front import Front
from lb.process import tls
from lb.process.proxy_header import ProxyHeaderReader
from lb.process.tls import Certificate
from lb.proxy.connection_end import IDLE, LINGER
from lb.proxy.dispatcher import Dispatcher
from lb.proxy.refusal_log import RefusalLog
from lb.system.shortage import is_local_shortage
from lb.system.sockets import descriptor, readable

BACKLOG: Final = 4096
"""create_server calls listen() again, which would reduce the backlog of the socket to 100 otherwise."""

ACCEPTS_PER_TURN: Final = 4
"""Servers of uvloop that share the socket, each of which accepts one connection in a turn of the loop.

Where connections come in crowds, a turn for each of them costs more than the accept.
"""

MANY_DESCRIPTORS: Final = 4096
"""Descriptor limit below which a turn accepts one connection: two turns may admit more clients than have room."""

MAX_RESERVE: Final = 4096

OTHER_DESCRIPTORS: Final = 8
"""Descriptors for control peers and files; each upstream needs one more for its health check."""

MIN_IDLE: Final = 0.1
"""Seconds after which a client counts as idle: the first request of a new connection may be on its way."""

POLL_INTERVAL: Final = 1.0
"""Seconds between two checks of the limit."""

QUICK_POLL_INTERVAL: Final = 0.05
"""Seconds between two checks of the limit while nothing is accepted."""

STALLED_PAUSE: Final = 1.0
"""Seconds without accepting after accepts that all failed."""


def room_for_clients(limit: int, taken: int, *, fault_injection: bool) -> int:
    """Return how many of `limit` descriptors clients may use if the process itself uses `taken`.

    The reserve is half, so that each busy client can have an upstream connection, but at most MAX_RESERVE, since idle
    clients need none. With fault injection a request uses four descriptors.
    """
    usable = max(limit - taken, 0)
    return max(usable // 4, 1) if fault_injection else max(usable - min(usable // 2, MAX_RESERVE), 1)


class Admission:
    """Accepts on `listener`, which always stays open."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, proxy: Dispatcher, listener: socket.socket, certificate: Certificate
    ) -> None:
        self._loop = loop
        self._proxy = proxy
        self._listener = listener
        self._diverted: Callable[[], Any] | None = None
        self._refuses = False
        self._certificate = certificate
        self._by_hand = False  # this class accepts, not the loop's own server
        self._servers: list[asyncio.Server] = []
        self._accepting = False
        self._opening: asyncio.Task[None] | None = None
        self.handshakes: set[asyncio.Task[Any]] = set()
        """Accepted connections that are not clients yet; `close` leaves them."""
        self._timer: asyncio.TimerHandle | None = None
        self._own_descriptors = 0
        self._client_limit = 1 << 62
        self._accepted = self._accepted_before = 0
        self._stalled_before = False
        self._resume_at = 0.0
        self._closed = False
        self._eviction_scheduled = False
        self._refusals = RefusalLog()
        self._front: Front | None = None

    async def open(self) -> None:
        """Start to accept; raise OSError if that fails."""
        await self._listen()
        self._own_descriptors = len(os.listdir("/proc/self/fd"))
        self._client_limit = self._current_limit()
        self._timer = self._loop.call_later(POLL_INTERVAL, self._check_limit)

    def close(self) -> None:
        """Stop accepting."""
        self._closed = True
        self._stop_accepting()
        if self._timer is not None:
            self._timer.cancel()
        if self._opening is not None:
            self._opening.cancel()

    def end(self) -> None:
        """Stop accepting for good: accept what waits in the backlog, then have the address refuse connections.

        Each process that holds the socket would otherwise keep the kernel accepting, and those clients waiting.
        """
        self.close()
        while _poll(self._listener) and self._accept():
            pass
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RD)

    def free_descriptors(self) -> None:
        """Free a few descriptors at once, because something more important than an idle connection got none."""
        if not self._evict(self._batch()):
            idle = [each for upstream in self._proxy.pool.order for each in upstream.idle]
            if idle:
                min(idle, key=lambda each: each.idle_since).close()

    def count_with(self, front: Front) -> None:
        """Let the connections that the front serves take clients' places."""
        self._front = front

    def divert(self, make_client: Callable[[], Any] | None) -> None:
        """Give new clients another protocol; None: that of the data path."""
        self._diverted = make_client

    def refuse(self, on: bool) -> None:
        """Have the address refuse connections, or accept them again.

        The socket keeps its port: shutdown(2) ends the listening of all processes that hold it, listen(2) resumes it.
        Meanwhile no other socket may share the port, as one with SO_REUSEADDR could with a socket that does not listen.
        """
        self._refuses = on
        with contextlib.suppress(OSError):
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, not on)
            if on:
                self._stop_accepting()
                self._listener.shutdown(socket.SHUT_RD)
            elif not self._closed:
                self._listener.listen(BACKLOG)
                self._check_limit()

    async def _listen(self) -> None:
        self._by_hand = isinstance(self._loop, asyncio.BaseEventLoop) or self._certificate.context is not None
        if self._by_hand:
            # asyncio's own server accepts up to the whole backlog before any other event, and cannot be stopped during
            # its pause. With TLS the header of the PROXY protocol is read before the handshake.
            self._listener.setblocking(False)
            self._listener.listen(BACKLOG)  # As create_server does: a predecessor may have ended the listening.
            self._loop.add_reader(self._listener, self._accept)
            self._accepting = True
            return
        try:
            for _ in range(_accepts_per_turn()):
                self._servers.append(await self._serve())
        except OSError:
            self._stop_accepting()
            raise
        self._accepting = True

    async def _serve(self) -> asyncio.Server:
        # The loop gets a duplicate: the original can still be handed to a successor's supervisor.
        listener = _duplicate(self._listener)
        try:
            return await self._loop.create_server(self._admit, sock=listener, backlog=BACKLOG)
        except OSError:
            listener.close()
            raise

    def _accept(self) -> bool:
        """Accept a connection; return whether there was one."""
        try:
            sock, _ = self._listener.accept()
        except OSError as error:
            if is_local_shortage(error) and not isinstance(error, BlockingIOError):
                self._pause(STALLED_PAUSE)
            return False
        sock.setblocking(False)
        certificate = self._certificate.context
        if certificate is None:
            self._keep(self._loop.connect_accepted_socket(self._admit, sock))
            return True
        self._keep(tls.accept(self._loop, sock, certificate, self._proxy.readers, self._admit_tls, self._log_header))
        if len(self.handshakes) + self._clients() + 2 > self._client_limit:
            self._pause(QUICK_POLL_INTERVAL)  # Handshakes need descriptors, too.
        return True

    def _keep(self, work: Coroutine[Any, Any, Any]) -> None:
        task = self._loop.create_task(work)
        self.handshakes.add(task)
        task.add_done_callback(self.handshakes.discard)

    def _current_limit(self) -> int:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        detour = self._proxy.settings.faults is not None or self._diverted is not None
        taken = self._own_descriptors + OTHER_DESCRIPTORS + len(self._proxy.pool.order)
        return room_for_clients(limit, taken, fault_injection=detour)

    def _clients(self) -> int:
        """Return how many clients there are: a request at the front is that of a client here as well."""
        inner = len(self._proxy.clients)
        return inner if self._front is None else max(inner, self._front.count())

    def _batch(self) -> int:
        return max(1, min(self._client_limit // 64, 64))

    def configure(self) -> None:
        """Follow a change of the settings: begin or stop to speak TLS."""
        wants = isinstance(self._loop, asyncio.BaseEventLoop) or self._certificate.context is not None
        if wants != self._by_hand and self._accepting and not self._closed:
            self._pause(0.0)

    def _admit(self) -> Any:
        """Return the protocol of a new connection: a client, or what reads a PROXY protocol's header before it."""
        client = self._admit_tls()
        awaits_header = self._diverted is None and bool(self._proxy.readers.networks)
        return ProxyHeaderReader(client, self._log_header) if awaits_header else client

    def _log_header(self, peer: bytes, why: str, data: bytes) -> None:
        self._refusals.write(peer.decode(), b"PROXY protocol", why, data)

    def _admit_tls(self) -> Any:
        self._accepted += 1
        if self._clients() + 2 > self._client_limit and not self._eviction_scheduled:
            self._eviction_scheduled = True
            self._loop.call_soon(self._evict_for_room)  # Not here: the loop is still accepting.
        return self._proxy.make_client() if self._diverted is None else self._diverted()

    def _evict_for_room(self) -> None:
        self._eviction_scheduled = False
        over = self._clients() + 2 - self._client_limit
        if over > 0 and self._evict(max(over, self._batch())) < over and self._accepting:
            self._pause(QUICK_POLL_INTERVAL)

    def _evict(self, wanted: int) -> int:
        """Close up to `wanted` clients: the longest idle ones first, then those that were refused and linger."""
        clients = self._proxy.clients
        closed = 0 if self._front is None else self._front.evict(wanted, monotonic() - MIN_IDLE)
        settled = monotonic() + self._proxy.settings.idle_timeout - MIN_IDLE
        idle = sorted(
            (each for each in clients if each.state == IDLE and each.deadline <= settled),
            key=lambda each: each.deadline,
        )
        for client in idle:
            if closed < wanted and not readable(descriptor(client.transport)):
                client.close()
                closed += 1
        if closed < wanted:
            lingering = sorted((each for each in clients if each.state == LINGER), key=lambda each: each.deadline)
            for client in lingering[: wanted - closed]:
                client.abort()
                closed += 1
        return closed

    def _pause(self, seconds: float) -> None:
        self._stop_accepting()
        self._resume_at = monotonic() + seconds
        self._check_limit()

    def _stop_accepting(self) -> None:
        self._accepting = False
        for server in self._servers:
            server.close()
        self._servers.clear()
        if self._by_hand:
            self._loop.remove_reader(self._listener)

    def _check_limit(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._closed:
            return
        self._client_limit = self._current_limit()
        over = self._clients() + 1 - self._client_limit
        if over > 0:
            self._evict(over)
        if self._refuses:
            pass
        elif not self._accepting:
            if over <= 0 and monotonic() >= self._resume_at and (self._opening is None or self._opening.done()):
                self._opening = self._loop.create_task(self._resume())
        elif self._stalls():
            self._pause(STALLED_PAUSE)
            return
        elif self._servers and len(self._servers) != _accepts_per_turn():
            self._pause(0.0)
            return
        pause = QUICK_POLL_INTERVAL if not self._accepting or self._stalled_before else POLL_INTERVAL
        self._timer = self._loop.call_later(pause, self._check_limit)

    def _stalls(self) -> bool:
        """Return whether connections wait and none was accepted at two successive checks: every accept fails."""
        waiting = self._accepted == self._accepted_before and bool(_poll(self._listener))
        stalls = waiting and self._stalled_before
        self._stalled_before = waiting and not stalls
        self._accepted_before = self._accepted
        return stalls

    async def _resume(self) -> None:
        if self._refuses:  # Ordered since this task was made.
            return
        try:
            await self._listen()
        except OSError:
            self._resume_at = monotonic() + STALLED_PAUSE
        if self._closed:
            self._stop_accepting()


def _accepts_per_turn() -> int:
    return ACCEPTS_PER_TURN if resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= MANY_DESCRIPTORS else 1


def _duplicate(listener: socket.socket) -> socket.socket:
    """Return a second descriptor of a socket.

    `socket.dup` sets the timeout again, which makes the socket block for a moment: in all processes that share it, too.
    One that accepts just then would wait for the next connection.
    """
    return socket.socket(fileno=os.dup(listener.fileno()))


def _poll(sock: socket.socket) -> list[tuple[int, int]]:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return poll.poll(0)
