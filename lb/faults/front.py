"""Injects faults between clients and the data path, for as long as there is an order to.

Without an order nothing of this module is in the way: connections go straight to the data path. With one, each new
connection is served by a `FrontConnection`. A connection that is older goes on in the data path, and its next request
is served here: a client with a pool of connections meets the faults at once. When the order ends, connections that were
taken over stay here until they end, without faults.

To refuse connections the listening socket stops to listen, for every process that holds it (shutdown(2)), and keeps its
port. It listens again when the lease ends, or when a new process takes it over.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from math import inf
from pathlib import Path
from time import CLOCK_BOOTTIME, clock_gettime
from typing import Any, Final, cast

from fault_rules import FRONT_COUNTED, FRONT_SLOW
from lb.faults.front_connection import FrontConnection, Timeouts
from lb.faults.front_rules import NAME, FrontFaults, FrontSample, Request, parse
from lb.faults.streams import Streams, reader_and_protocol
from lb.http.trust import client_address
from lb.interface.counters import EDGE_LATENCY, Counters
from lb.proxy.client_connection import Downstream
from lb.proxy.connection_end import IDLE, LINGER
from lb.proxy.dispatcher import Dispatcher
from lb.proxy.refusal_log import RefusalLog
from lb.system.directory import Directory

logger = logging.getLogger("lb")

POLL_INTERVAL: Final = 0.05
"""Seconds between two checks whether an order has ended."""

BACKLOG: Final = 128

Factory = Callable[[], Any]


class Front:
    """The front of one load balancer.

    `divert` has new connections get the protocol of another factory (None: that of the data path). `refuse` has the
    address refuse connections, or accept them again.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        proxy: Dispatcher,
        counters: Counters,
        divert: Callable[[Factory | None], None],
        refuse: Callable[[bool], None],
    ) -> None:
        self._loop = loop
        self._proxy = proxy
        self._counters = counters
        self._divert = divert
        self._refuse = refuse
        self._faults: FrontFaults | None = None
        self._active = self._refuses = False
        self._timer: asyncio.TimerHandle | None = None
        self._listener: socket.socket | None = None
        self._tasks: dict[asyncio.Task[None], FrontConnection] = {}
        self._inner: set[Downstream] = set()
        self._older: set[_Older] = set()
        self._refusals = RefusalLog()

    def order(self, document: Mapping[str, Any], folder: str) -> None:
        """Follow an order; `folder` has the ticket files of counts."""
        if self._faults is None:
            boot_id, tickets = Path("/proc/sys/kernel/random/boot_id").read_text().strip(), Directory(folder)
            self._faults = FrontFaults(lambda: tickets.path, boot_id, self._proxy.settings.name)
        self._faults.plan = parse(document)
        self._update()

    def serving(self) -> set["asyncio.Task[None]"]:
        """Return the tasks of the present connections; each ends with its connection."""
        return set(self._tasks)

    def count(self) -> int:
        """Return the number of present connections."""
        return len(self._tasks)

    def evict(self, wanted: int, settled: float) -> int:
        """End up to `wanted` connections, the longest idle first, of those idle since `settled`; return how many."""
        idle = [each for each in self._tasks.items() if each[1].idle_since <= settled]
        closed = 0
        for task, connection in sorted(idle, key=lambda each: each[1].idle_since):
            if closed < wanted and not connection.has_input():
                connection.idle_since = inf
                task.cancel()
                closed += 1
        return closed

    def close(self) -> None:
        """End all connections."""
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        if self._listener is not None:
            self._listener.close()

    def _update(self) -> None:
        assert self._faults is not None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = clock_gettime(CLOCK_BOOTTIME)
        refuses = self._faults.refuses(now)
        if refuses != self._refuses:
            self._refuses = refuses
            self._refuse(refuses)
        active = self._faults.is_active(now)
        if active != self._active:
            self._active = active
            self._divert(self._protocol if active else None)
            self._take_older() if active else self._release_older()
        if active or refuses:
            self._timer = self._loop.call_later(POLL_INTERVAL, self._update)

    # Connections.

    def _protocol(self) -> asyncio.StreamReaderProtocol:
        reader = asyncio.StreamReader(loop=self._loop)
        made = _New(reader, lambda r, w: self._serve((r, w), lambda: made.address), loop=self._loop)
        return made

    def _take_older(self) -> None:
        for client in self._proxy.clients - self._inner:
            # One that still awaits a header of the PROXY protocol has another protocol.
            if client.state < LINGER and cast(Any, client.transport.get_protocol()) is client:
                older = _Older(self, client)
                self._older.add(older)
                client.transport.set_protocol(older)

    def _release_older(self) -> None:
        for older in self._older:
            if older.client.transport.get_protocol() is older:
                older.client.transport.set_protocol(cast(Any, older.client))
        self._older.clear()

    def take_over(self, older: "_Older", data: bytes) -> None:
        """Serve a connection of the data path, which is idle, from the request on that begins with `data`."""
        self._older.discard(older)
        transport, peer = older.client.transport, older.client.peer.decode()
        older.client.limit_writing()
        older.client.connection_lost(None)  # For the data path it ends here.
        reader, protocol = reader_and_protocol(self._loop)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        self._serve((reader, asyncio.StreamWriter(transport, protocol, reader, self._loop)), lambda: peer, data)

    def is_draining(self) -> bool:
        return self._proxy.draining

    def forget(self, older: "_Older") -> None:
        self._older.discard(older)

    def _serve(self, client: Streams, address: Callable[[], str | None], early: bytes = b"") -> None:
        """Serve a client; `address` returns the one that a trusted peer has sent before, or that is known otherwise."""
        peer, inner = client_address(client[1].get_extra_info("peername")), list[Downstream]()
        # With TLS the header comes before the handshake.
        is_plain = self._proxy.settings.tls_certificate is None
        awaits_header = is_plain and not early and address() is None and self._proxy.readers.trusts(peer)

        def header_refused(why: str, data: bytes) -> None:
            self._refusals.write(peer.decode(), b"PROXY protocol", why, data)

        async def open_inner(sent: str | None) -> Streams:
            streams, downstream = await self._connect(sent or address() or peer.decode())
            inner.append(downstream)
            return streams

        settings = self._proxy.settings
        timeouts = Timeouts(
            settings.idle_timeout, settings.head_timeout, settings.body_timeout, settings.tunnel_timeout
        )
        refused = header_refused if awaits_header else None
        connection = FrontConnection(client, self._sample, open_inner, timeouts, early, refused)
        task = self._loop.create_task(connection.run())
        self._tasks[task] = connection

        def ended(task: "asyncio.Task[None]") -> None:
            self._tasks.pop(task, None)
            self._inner.difference_update(inner)
            if not task.cancelled() and task.exception() is not None:
                logger.error("front: %r", task.exception(), exc_info=task.exception())

        task.add_done_callback(ended)

    def _sample(self, request: Request) -> FrontSample:
        assert self._faults is not None
        found = self._faults.next(request, clock_gettime(CLOCK_BOOTTIME))
        kind = found.kind or (FRONT_SLOW if found.slow else None)
        if kind is not None:
            self._counters.edge(NAME)[EDGE_LATENCY + FRONT_COUNTED.index(kind)] += 1
        return found

    async def _connect(self, address: str) -> tuple[Streams, Downstream]:
        """Return a connection to the data path, for which it comes from this address.

        It is a TCP connection, so that a reset arrives as one.
        """
        try:
            ours, theirs = self._pair()
        except OSError:
            self._proxy.on_shortage()
            raise
        downstream = self._proxy.make_client()
        self._inner.add(downstream)
        try:
            await self._loop.connect_accepted_socket(lambda: cast(Any, downstream), theirs)
        except BaseException:
            ours.close()
            raise
        with contextlib.suppress(ValueError):  # "unknown" is no address.
            downstream.set_address(ip_address(address))
        reader, protocol = reader_and_protocol(self._loop)
        transport, _ = await self._loop.connect_accepted_socket(lambda: protocol, ours)
        return (reader, asyncio.StreamWriter(transport, protocol, reader, self._loop)), downstream

    def _pair(self) -> tuple[socket.socket, socket.socket]:
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
        with contextlib.ExitStack() as stack:
            ours = stack.enter_context(socket.create_connection(self._listener.getsockname()))
            while True:
                theirs, address = self._listener.accept()
                stack.enter_context(theirs)
                if address == ours.getsockname():  # Any process of this machine may connect.
                    break
            stack.pop_all()
        for sock in (ours, theirs):
            sock.setblocking(False)
        return ours, theirs


class _New(asyncio.StreamReaderProtocol):
    """A new connection; `address` is the client's, where a trusted peer has sent it before the handshake of TLS."""

    address: str | None = None

    def set_address(self, address: Any) -> None:
        self.address = str(address)


class _Older(asyncio.Protocol):
    """A connection of the data path whose next request is for the front."""

    def __init__(self, front: Front, client: Downstream) -> None:
        self._front = front
        self.client = client

    def data_received(self, data: bytes) -> None:
        client = self.client
        if client.state == IDLE and not client.buffer and not self._front.is_draining():
            self._front.take_over(self, data)
        else:
            client.data_received(data)

    def eof_received(self) -> bool:
        return self.client.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._front.forget(self)
        self.client.connection_lost(exc)

    def pause_writing(self) -> None:
        self.client.pause_writing()

    def resume_writing(self) -> None:
        self.client.resume_writing()
