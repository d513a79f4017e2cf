"""Parses the header of the PROXY protocol, versions 1 and 2: the address of the client that a TCP proxy speaks for.

See https://www.haproxy.org/download/2.6/doc/proxy-protocol.txt. Pure: no I/O, no clock.
"""

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, NamedTuple

V1: Final = b"PROXY "
MAX_V1: Final = 107
"""Bytes of a header of version 1, with its line end."""

V2: Final = b"\r\n\r\n\0\r\nQUIT\n"
MAX_V2: Final = 4096
"""Bytes of a header of version 2 that are accepted."""

_HEAD: Final = 16
_LOCAL, _PROXY = 0x20, 0x21
_ADDRESS_SIZES: Final = {1: 4, 2: 16}
"""Bytes of an address by the family in the high half of the 14th byte."""


class ProxyHeader(NamedTuple):
    """A header: its size, and the client's address (None: the peer speaks for itself)."""

    size: int
    address: IPv4Address | IPv6Address | None


NO_HEADER: Final = ProxyHeader(0, None)


def read(data: bytes) -> ProxyHeader | None:
    """Return the header at the start of `data`, NO_HEADER, or None while it is incomplete; raise ValueError."""
    for signature, parse in ((V1, _read_v1), (V2, _read_v2)):
        if data.startswith(signature):
            return parse(data)
        if signature.startswith(data):
            return None
    return NO_HEADER


def _read_v1(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\r\n", 0, MAX_V1)
    if end < 0:
        if len(data) >= MAX_V1:
            raise ValueError("the header is too long")
        return None
    words = data[:end].decode("ascii", "replace").split(" ")
    if words[1] == "UNKNOWN":
        return ProxyHeader(end + 2, None)
    if len(words) != 6 or words[1] not in ("TCP4", "TCP6") or not all(map(_is_port, words[4:])):
        raise ValueError("not a header of version 1")
    kind = IPv4Address if words[1] == "TCP4" else IPv6Address
    source, _ = kind(words[2]), kind(words[3])
    return ProxyHeader(end + 2, source)


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) < 65536


def _read_v2(data: bytes) -> ProxyHeader | None:
    if len(data) < _HEAD:
        return None
    command, family, length = data[12], data[13], int.from_bytes(data[14:_HEAD], "big")
    if command not in (_LOCAL, _PROXY) or _HEAD + length > MAX_V2:
        raise ValueError("not a header of version 2")
    if len(data) < _HEAD + length:
        return None
    size = _ADDRESS_SIZES.get(family >> 4)
    if command == _LOCAL or size is None:
        return ProxyHeader(_HEAD + length, None)
    if length < 2 * size + 4:
        raise ValueError("the header is too short for its addresses")
    return ProxyHeader(_HEAD + length, ip_address(data[_HEAD : _HEAD + size]))
