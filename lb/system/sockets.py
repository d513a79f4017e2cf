"""Reads the state of a connection from its socket, and ends a connection with a RST."""

import asyncio
import contextlib
import fcntl
import os
import select
import socket
import struct
import termios
from typing import Final


def reset_at_close(transport: asyncio.WriteTransport, on: bool) -> None:
    """Set whether any close of this connection, also by the end of the process, sends a RST; opens no descriptor."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError, ValueError):  # ValueError: uvloop has closed it, and its descriptor is -1.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", on, 0))


def reset(transport: asyncio.WriteTransport) -> None:
    """Close a connection with a RST: a FIN would mark a body that ends with the connection as complete."""
    reset_at_close(transport, True)
    transport.abort()


def descriptor(transport: asyncio.Transport) -> int:
    """Return the file descriptor of a transport, or -1."""
    sock = transport.get_extra_info("socket")
    return -1 if sock is None else int(sock.fileno())


_poll: Final = select.poll()


def readable(fd: int) -> bool:
    """Return whether bytes, the peer's FIN or an error have arrived that the loop has not read yet.

    Like recv(2) with MSG_PEEK, but without an exception in the common case. A closed descriptor is readable too.
    """
    if fd < 0:
        return True
    _poll.register(fd, select.POLLIN | select.POLLRDHUP)
    found = _poll.poll(0)
    _poll.unregister(fd)
    return bool(found)


def unsent(transport: asyncio.Transport) -> int:
    """Return the number of bytes written to a transport that the peer's kernel has not acknowledged."""
    queued = struct.pack("i", 0)
    with contextlib.suppress(OSError, ValueError):
        queued = fcntl.ioctl(descriptor(transport), termios.TIOCOUTQ, queued)  # SIOCOUTQ, tcp(7)
    return int(struct.unpack("i", queued)[0]) + transport.get_write_buffer_size()


def failed(transport: asyncio.Transport) -> bool:
    """Return whether a connection failed without an event in the loop."""
    sock = transport.get_extra_info("socket")
    return sock is not None and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0


def received(transport: asyncio.Transport) -> bytes | None:
    """Return what is left in the receive buffer of a transport that ended without reading it.

    b"" means the peer's FIN, None that nothing is left and there is no FIN.
    """
    try:
        return os.read(descriptor(transport), 1 << 16)
    except OSError:
        return None
