"""Identifies the client of a loopback connection: the uid that owns the client's socket.

The kernel is asked through sock_diag(7), one query for one socket; where that is unavailable, /proc/net/tcp and tcp6
give the same answer. Both describe a socket that its process has closed as uid 0 without an inode, so only a socket
that is open at both ends identifies its owner. The server's own end is checked last: while it is connected, the kernel
gives its addresses to no other client, so the answer cannot describe a later one.
"""

import contextlib
import errno
import ipaddress
import socket
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

from comet.host import sock_diag
from comet.host.sock_diag import Entry

ESTABLISHED = 1
"""The state of a connection that is open in both directions (net/tcp_states.h)."""

TABLES = ("/proc/net/tcp", "/proc/net/tcp6")

Address = tuple[str, int]


def peer_uid(connection: socket.socket) -> int | None:
    """Return the uid of the client of an accepted connection; None if it is not known for certain."""
    try:
        ours, client = connection.getsockname()[:2], connection.getpeername()[:2]
        if (
            connection.family not in (socket.AF_INET, socket.AF_INET6)
            or not ipaddress.ip_address(client[0]).is_loopback
        ):
            return None
        try:
            entry = sock_diag.connection(connection.family, client, ours)
        except OSError as error:
            entry = None if error.errno == errno.ENOENT else _search_tables(client, ours)
        if entry is None or connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != ESTABLISHED:
            return None
    except (OSError, ValueError):
        return None
    return owner(entry, overflow_uid())


def owner(entry: Entry, overflow: int) -> int | None:
    """Return the uid that an entry proves; None if it proves none.

    `overflow` is the uid that stands for every user unknown to our user namespace.
    """
    return entry.uid if entry.state == ESTABLISHED and entry.inode and entry.uid != overflow else None


def find(lines: Iterable[str], local: Address, remote: Address) -> Entry | None:
    """Return the socket with these addresses from the lines of a /proc/net table; None if there is none.

    The table lists an IPv6 socket that speaks IPv4 with mapped addresses.
    """
    wanted = {(_hexadecimal(*local, mapped), _hexadecimal(*remote, mapped)) for mapped in (False, True)}
    for line in lines:
        words = line.split()
        if len(words) > 9 and (words[1], words[2]) in wanted:
            return Entry(int(words[3], 16), int(words[7]), int(words[9]))
    return None


def overflow_uid() -> int:
    with contextlib.suppress(OSError, ValueError):
        return int(Path("/proc/sys/kernel/overflowuid").read_text())
    return 65534


def _search_tables(local: Address, remote: Address) -> Entry | None:
    for path in TABLES:
        with contextlib.suppress(OSError), open(path, encoding="ascii") as lines:
            found = find(lines, local, remote)
            if found is not None:
                return found
    return None


def _hexadecimal(host: str, port: int, mapped: bool) -> str:
    """Return an address in the format of /proc/net: words of 32 bits, each in the machine's byte order."""
    address = ipaddress.ip_address(host)
    packed = (bytes(10) + b"\xff\xff" if mapped and address.version == 4 else b"") + address.packed
    words = struct.unpack(f"{'<' if sys.byteorder == 'little' else '>'}{len(packed) // 4}I", packed)
    return f"{''.join(f'{word:08X}' for word in words)}:{port:04X}"
