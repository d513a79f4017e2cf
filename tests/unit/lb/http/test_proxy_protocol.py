"""Headers of the PROXY protocol: whole, in pieces, malformed; examples of its specification."""

from ipaddress import ip_address

import pytest

from lb.http.proxy_protocol import NO_HEADER, V2, ProxyHeader, read


def v2(command: int, family: int, body: bytes) -> bytes:
    return V2 + bytes((command, family)) + len(body).to_bytes(2, "big") + body


FOUR = bytes((203, 0, 113, 9, 10, 0, 0, 1)) + b"\x30\x39\x00\x50"
SIX = ip_address("2001:db8::9").packed + ip_address("2001:db8::1").packed + b"\x30\x39\x00\x50"

VALID = [
    (b"PROXY TCP4 203.0.113.9 10.0.0.1 12345 80\r\n", "203.0.113.9"),
    (b"PROXY TCP6 2001:db8::9 2001:db8::1 12345 80\r\n", "2001:db8::9"),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", None),
    (v2(0x21, 0x11, FOUR), "203.0.113.9"),
    (v2(0x21, 0x11, FOUR + b"\x04\x00\x03abc"), "203.0.113.9"),  # with a TLV
    (v2(0x21, 0x21, SIX), "2001:db8::9"),
    (v2(0x20, 0x00, b""), None),  # LOCAL
    (v2(0x20, 0x11, FOUR), None),
    (v2(0x21, 0x00, b"anything"), None),  # UNSPEC
    (v2(0x21, 0x31, bytes(216)), None),  # AF_UNIX
]


@pytest.mark.parametrize(("header", "address"), VALID)
def test_a_header_and_its_pieces(header: bytes, address: str | None) -> None:
    meant = ProxyHeader(len(header), ip_address(address) if address else None)
    assert read(header) == meant
    assert read(header + b"GET / HTTP/1.1\r\n") == meant
    assert [read(header[:size]) for size in range(1, len(header))] == [None] * (len(header) - 1)


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n", b"PROPFIND / HTTP/1.1\r\n", b"\r\nGET / ", b"\r\n\r\nGET", b"\x16\x03"]
)
def test_no_header(data: bytes) -> None:
    assert read(data) == NO_HEADER


@pytest.mark.parametrize(
    "data",
    [
        b"PROXY TCP4 203.0.113.9 10.0.0.1 12345\r\n",
        b"PROXY TCP4 203.0.113.9 10.0.0.1 12345 80 \r\n",
        b"PROXY TCP4 2001:db8::9 2001:db8::1 12345 80\r\n",
        b"PROXY TCP6 203.0.113.9 10.0.0.1 12345 80\r\n",
        b"PROXY TCP4 203.0.113.9 10.0.0.1 12345 65536\r\n",
        b"PROXY TCP4 203.0.113.9 10.0.0.1 -1 80\r\n",
        b"PROXY TCP4 203.0.113.999 10.0.0.1 1 80\r\n",
        b"PROXY TCP4 \xff 10.0.0.1 1 80\r\n",
        b"PROXY UDP4 203.0.113.9 10.0.0.1 1 80\r\n",
        b"PROXY  \r\n",
        b"PROXY " + b"x" * 200,
        v2(0x31, 0x11, FOUR),
        v2(0x22, 0x11, FOUR),
        v2(0x21, 0x11, FOUR[:-1]),
        v2(0x21, 0x21, FOUR),
        v2(0x21, 0x11, bytes(5000)),
    ],
)
def test_malformed(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read(data)
