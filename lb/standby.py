"""A load balancer in waiting: forked and rehearsed beforehand, it begins as soon as it is told what to be.

A fork is quick; what is slow is its child's first touch of everything. Each page that it shares with the forkserver is copied when it is
first written to, and counting references writes to all that is used. So a standby serves a request of its own making, and then waits for
its order: the arguments of `lb.server.run` as one message, the three sockets among them beside it (SCM_RIGHTS, unix(7)). An end of file
in place of an order, as when the supervisor is dead, ends it.
"""

import asyncio
import contextlib
import pickle
import socket
import struct
from typing import Any, Final, cast

from lb import server
from lb.counters import Counters
from lb.forked import let_go
from lb.settings import UP, Settings, UpstreamSpec

try:
    from setproctitle import setproctitle
except ImportError:  # pragma: no cover
    setproctitle = None  # type: ignore[assignment]

TITLE: Final = "comet: standby"

_LENGTH: Final = struct.Struct("!I")
_REHEARSED: Final = b"."
_SOCKETS: Final = 3
_PATIENCE: Final = 5.0  # seconds for a rehearsal
_REQUEST: Final = b"GET / HTTP/1.1\r\nHost: standby\r\nConnection: close\r\n\r\n"
_RESPONSE: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


def main(orders: socket.socket) -> None:
    """Rehearse, say so, and be what the order says."""
    let_go()
    if setproctitle is not None:
        setproctitle(TITLE)
    # Where nothing can be rehearsed (no loopback, no port), it waits all the same.
    with contextlib.suppress(OSError, TimeoutError):
        rehearse()
    with contextlib.suppress(ConnectionError):
        orders.sendall(_REHEARSED)
        order = _receive(orders)
        orders.close()
        if order is not None:
            server.run(*order)


def has_rehearsed(orders: socket.socket) -> bool:
    """Whether the standby at the other end waits for its order; to be asked until it does, and no more."""
    with contextlib.suppress(OSError):
        return orders.recv(1, socket.MSG_DONTWAIT) == _REHEARSED
    return False


def give(
    orders: socket.socket,
    settings: Settings,
    listener: socket.socket,
    upstreams: tuple[UpstreamSpec, ...],
    control: socket.socket,
    control_listener: socket.socket,
    counters_path: str,
    log_path: str,
) -> None:
    """Tell the standby what to be, as `lb.server.run` takes it. OSError: it is dead."""
    order = pickle.dumps((settings, upstreams, counters_path, log_path))
    sockets = (listener, control, control_listener)
    socket.send_fds(orders, [_LENGTH.pack(len(order))], [each.fileno() for each in sockets])
    orders.sendall(order)


def _receive(orders: socket.socket) -> tuple[Any, ...] | None:
    """The arguments of `lb.server.run`; None where there will be no order."""
    head, descriptors, _, _ = socket.recv_fds(orders, _LENGTH.size, _SOCKETS)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    with orders.makefile("rb") as file:
        order = file.read(length)
    if len(order) < length:
        return None
    settings, upstreams, counters_path, log_path = pickle.loads(order)
    listener, control, control_listener = (socket.socket(fileno=each) for each in descriptors)
    return settings, listener, upstreams, control, control_listener, counters_path, log_path


def rehearse() -> None:
    """Serve one request, from a client and by a worker of one's own, on ports that nobody knows. OSError or TimeoutError: it failed."""
    loop = server.new_event_loop()
    try:
        loop.run_until_complete(asyncio.wait_for(_rehearsal(loop), _PATIENCE))
    finally:
        loop.close()


async def _rehearsal(loop: asyncio.AbstractEventLoop) -> None:
    worker = await loop.create_server(_Worker, "127.0.0.1", 0)
    balancer = server.Server(loop, Settings("standby"), socket.create_server(("127.0.0.1", 0)), Counters(None))
    host, port = worker.sockets[0].getsockname()
    await balancer.start((UpstreamSpec("worker", host, port, UP),), None, None)
    reader, writer = await asyncio.open_connection("127.0.0.1", balancer.port)
    writer.write(_REQUEST)
    await reader.read()
    writer.close()
    balancer.on_signal()
    await balancer.ended
    worker.close()


class _Worker(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # By its methods: uvloop's do not descend from it.

    def data_received(self, data: bytes) -> None:
        self._transport.write(_RESPONSE)
        self._transport.close()
