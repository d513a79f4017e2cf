"""A load balancer in waiting: forked and rehearsed beforehand, it begins as soon as it is told what to be.

A fork is quick; what is slow is its child's first touch of everything. Each page that it shares with the forkserver is copied when it is
first written to, and counting references writes to all that is used. So a standby serves a request of its own making, and then waits for
its order: the arguments of `lb.server.run` as one message, the three sockets among them beside it (SCM_RIGHTS, unix(7)). An end of file
in place of an order, as when the supervisor is dead, ends it.

The supervisor, which gives the orders, imports this too: what only a load balancer needs is imported in `main`.
"""

import contextlib
import pickle
import socket
import struct
from typing import Any, Final

from lb.forked import let_go
from lb.settings import Settings, UpstreamSpec

TITLE: Final = "comet: standby"

_LENGTH: Final = struct.Struct("!I")
_REHEARSED: Final = b"."
_SOCKETS: Final = 3


def main(orders: socket.socket) -> None:
    """Rehearse, say so, and be what the order says."""
    from lb import server
    from lb.rehearsal import rehearse

    let_go()
    server.entitle(TITLE)
    # Where nothing can be rehearsed (no loopback, no port), it waits all the same.
    with contextlib.suppress(OSError, TimeoutError):
        rehearse()
    order = None
    with orders, contextlib.suppress(ConnectionError):
        orders.sendall(_REHEARSED)
        order = _receive(orders)
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
