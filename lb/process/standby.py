"""Runs a standby: a load balancer that is forked and warmed up in advance, and starts as soon as it gets its order.

A fork is fast, but the child's first access to everything is slow: each page shared with the forkserver is copied at
the first write, and reference counts are written for every object in use. So a standby first serves a request that it
makes itself, and then waits for its order: the arguments of `lb.process.server.run` as one message, with the
sockets among them as ancillary data (SCM_RIGHTS, unix(7)). An end of file instead of an order, as after the death of
the supervisor, ends it.

The supervisor imports this module to send orders, so `main` imports what only a load balancer needs.
"""

import contextlib
import pickle  # nosec B403
import socket
import struct
from typing import Any, Final

from lb.interface.settings import Settings, UpstreamSpec
from lb.process.fork_entry import close_inherited_fds

TITLE: Final = "comet: standby"

_LENGTH: Final = struct.Struct("!I")
_WARMED_UP: Final = b"."
_MAX_SOCKETS: Final = 4


def main(orders: socket.socket) -> None:
    """Warm up, report it, wait for the order, and run as a load balancer."""
    from lb.process import server
    from lb.process.warm_up import warm_up

    close_inherited_fds()
    server.set_process_title(TITLE)
    # Without a warm-up (no loopback, no port) the standby is slower, but it works.
    with contextlib.suppress(OSError, TimeoutError):
        warm_up()
    order = None
    with orders, contextlib.suppress(ConnectionError):
        orders.sendall(_WARMED_UP)
        order = _receive(orders)
    if order is not None:
        server.run(*order)


def has_warmed_up(orders: socket.socket) -> bool:
    """Return whether the standby at the other end waits for its order; do not call it again after True."""
    with contextlib.suppress(OSError):
        return orders.recv(1, socket.MSG_DONTWAIT) == _WARMED_UP
    return False


def send_order(
    orders: socket.socket,
    settings: Settings,
    listener: socket.socket,
    upstreams: tuple[UpstreamSpec, ...],
    control: socket.socket,
    control_listener: socket.socket,
    counters_path: str,
    log_path: str,
    front: socket.socket | None = None,
) -> None:
    """Send the standby its order, the arguments of `lb.process.server.run`; raise OSError if it is dead."""
    order = pickle.dumps((settings, upstreams, counters_path, log_path))
    sockets = (listener, control, control_listener, *([front] if front is not None else ()))
    socket.send_fds(orders, [_LENGTH.pack(len(order))], [each.fileno() for each in sockets])
    orders.sendall(order)


def _receive(orders: socket.socket) -> tuple[Any, ...] | None:
    """Return the arguments of `lb.process.server.run`, or None if no order will come."""
    head, descriptors, _, _ = socket.recv_fds(orders, _LENGTH.size, _MAX_SOCKETS)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    with orders.makefile("rb") as file:
        order = file.read(length)
    if len(order) < length:
        return None
    # The order comes from the supervisor, over a socket pair that no other process has.
    settings, upstreams, counters_path, log_path = pickle.loads(order)  # nosec B301
    listener, control, control_listener, *front = (socket.socket(fileno=each) for each in descriptors)
    return settings, listener, upstreams, control, control_listener, counters_path, log_path, *front
