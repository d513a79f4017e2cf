"""Asks the kernel about TCP sockets, through sock_diag(7).

/proc/net/tcp lists every connection of the host, also those that have ended a minute ago; a query costs what it finds.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

FAMILIES = (socket.AF_INET, socket.AF_INET6)
LISTEN = 10
"""The state of a listening socket (net/tcp_states.h)."""

_SOCK_DIAG = 4  # NETLINK_SOCK_DIAG
_BY_FAMILY = 20  # SOCK_DIAG_BY_FAMILY
_ERROR, _DONE = 2, 3  # NLMSG_ERROR, NLMSG_DONE
_REQUEST_FLAG, _DUMP = 1, 0x300  # NLM_F_REQUEST, NLM_F_DUMP
_NO_COOKIE = 0xFFFFFFFF
_ANY_STATE = 0xFFFFFFFF
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_REQUEST = struct.Struct("=BBBBI")  # struct inet_diag_req_v2 up to its socket id
_REPLY_STATE = 17  # Offsets in a message: nlmsghdr, then struct inet_diag_msg.
_REPLY_PORTS = struct.Struct("!20xHH")
_REPLY_ADDRESS = 24
_REPLY_OWNER = struct.Struct("=80xII")  # uid and inode
_BUFFER = 1 << 16
"""Bytes, more than the kernel puts into one packet."""


@dataclass(frozen=True)
class Entry:
    """What the kernel reports about one socket."""

    state: int
    uid: int
    inode: int


@dataclass(frozen=True)
class Listener:
    """A listening socket; `address` is packed, in network byte order."""

    address: bytes
    uid: int
    inode: int


def connection(family: int, local: tuple[str, int], remote: tuple[str, int]) -> Entry | None:
    """Look up the socket with these addresses.

    Raises OSError: ENOENT if there is no such socket, another errno if the kernel cannot be asked.
    """
    addresses = b"".join(socket.inet_pton(family, host).ljust(16, b"\0") for host, _ in (local, remote))
    for message in _ask(family, _ANY_STATE, struct.pack("!HH", local[1], remote[1]) + addresses):
        # If no connection has these addresses, the kernel may answer with a listening socket.
        if _REPLY_PORTS.unpack_from(message) == (local[1], remote[1]):
            return Entry(message[_REPLY_STATE], *_REPLY_OWNER.unpack_from(message))
    return None


def listeners(family: int, port: int) -> list[Listener]:
    """Return what listens on the port; raise OSError if the kernel cannot be asked."""
    length = 4 if family == socket.AF_INET else 16
    found = []
    for message in _ask(family, 1 << LISTEN, struct.pack("!HH32x", port, 0), _DUMP):
        if _REPLY_PORTS.unpack_from(message)[0] == port:
            uid, inode = _REPLY_OWNER.unpack_from(message)
            found.append(Listener(message[_REPLY_ADDRESS : _REPLY_ADDRESS + length], uid, inode))
    return found


def _ask(family: int, states: int, ports_and_addresses: bytes, flags: int = 0) -> Iterator[bytes]:
    """Yield each socket that the kernel reports, as the message it sent."""
    identity = ports_and_addresses + struct.pack("=III", 0, _NO_COOKIE, _NO_COOKIE)
    request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, states) + identity
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _SOCK_DIAG) as kernel:
        kernel.settimeout(1)
        size = _HEADER.size + len(request)
        kernel.sendto(_HEADER.pack(size, _BY_FAMILY, _REQUEST_FLAG | flags, 1, 0) + request, (0, 0))
        while True:
            packet = kernel.recv(_BUFFER)
            while len(packet) >= _HEADER.size:
                length, kind = _HEADER.unpack_from(packet)[:2]
                if kind == _ERROR:
                    number = -struct.unpack_from("=i", packet, _HEADER.size)[0]
                    raise OSError(number, os.strerror(number))
                if kind == _DONE:
                    return
                if kind == _BY_FAMILY:
                    yield packet[:length]
                if length < _HEADER.size:
                    raise OSError(errno.EPROTO, os.strerror(errno.EPROTO))
                packet = packet[(length + 3) & ~3 :]
            if not flags & _DUMP:
                return
