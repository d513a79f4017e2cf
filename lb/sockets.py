"""What a socket tells about its peer, and how it is made to say that something went wrong."""

import asyncio
import socket
import struct
from ipaddress import IPv6Address, ip_address
from typing import Any


def client_address(peer: Any) -> bytes:
    """Return a client's address as X-Forwarded-For names it."""
    try:
        if ":" not in peer[0]:
            return str(peer[0]).encode() or b"unknown"
        address = ip_address(peer[0].partition("%")[0])
    except (TypeError, ValueError, IndexError, AttributeError):
        return b"unknown"
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return str(address).encode()


def reset(transport: asyncio.Transport) -> None:
    """Drop a connection by RST: for a body that ends with the connection an orderly end would mean that it is complete. It takes no
    descriptor: there may be none left."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
