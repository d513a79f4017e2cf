"""Response heads: every framing, and what makes a response untrustworthy."""

import pytest

from lb.fields import Refusal
from lb.response import CHUNKED, UNTIL_CLOSE, ResponseHead, ResponseReader, outgoing

DATE = b"Mon, 23 Nov 2026 10:00:00 GMT"


def read(*lines: bytes) -> ResponseHead:
    return ResponseReader("worker-0", "lb-0", 100).read(b"\r\n".join(lines) + b"\r\n\r\n")


OK = b"HTTP/1.1 200 OK"

REFUSED = [
    ("RFC 9112 4: no status line", [b"hello"]),
    ("RFC 9112 4: other protocol", [b"ICY 200 OK"]),
    ("RFC 9112 4: HTTP/2", [b"HTTP/2.0 200 OK"]),
    ("RFC 9112 4: two digits", [b"HTTP/1.1 20 OK"]),
    ("RFC 9112 4: status 000", [b"HTTP/1.1 000 OK"]),
    ("RFC 9112 4: control in reason", [b"HTTP/1.1 200 O\x00K"]),
    ("RFC 9112 2.2: bare LF", [b"HTTP/1.1 200 OK", b"A: b\nC: d"]),
    ("RFC 9112 2.2: bare CR", [b"HTTP/1.1 200 OK", b"A: b\rC: d"]),
    ("RFC 9112 5.2: obs-fold", [OK, b"A: b", b" c"]),
    ("RFC 9112 5.1: space before the colon", [OK, b"Content-Length : 3"]),
    ("RFC 9112 6.3 item 3: both codings", [OK, b"Content-Length: 3", b"Transfer-Encoding: chunked"]),
    ("RFC 9112 6.3 item 5: two lengths", [OK, b"Content-Length: 3", b"Content-Length: 4"]),
    ("RFC 9112 6.3 item 5: bad length", [OK, b"Content-Length: -1"]),
    ("RFC 9112 6.1: chunked in HTTP/1.0", [b"HTTP/1.0 200 OK", b"Transfer-Encoding: chunked"]),
    ("RFC 9112 6.1: unknown coding", [OK, b"Transfer-Encoding: gzip"]),
    ("RFC 9112 6.1: chunked not last", [OK, b"Transfer-Encoding: chunked, gzip"]),
    ("RFC 9112 6.1: coding in 204", [b"HTTP/1.1 204 No Content", b"Transfer-Encoding: chunked"]),
    ("too many fields", [OK, *[b"A: b"] * 101]),
]


@pytest.mark.parametrize(("rule", "lines"), REFUSED, ids=[each[0] for each in REFUSED])
def test_refused(rule: str, lines: list[bytes]) -> None:
    with pytest.raises(Refusal):
        read(*lines)


@pytest.mark.parametrize(
    ("lines", "length", "keep_alive"),
    [
        ([OK, b"Content-Length: 5"], 5, True),
        ([OK, b"Content-Length: 0"], 0, True),
        ([OK, b"Content-Length: 5", b"Connection: close"], 5, False),
        ([OK, b"Transfer-Encoding: chunked"], CHUNKED, True),
        ([OK], UNTIL_CLOSE, False),
        ([b"HTTP/1.0 200 OK", b"Content-Length: 5"], 5, False),
        ([b"HTTP/1.0 200 OK", b"Content-Length: 5", b"Connection: keep-alive"], 5, True),
        ([b"HTTP/1.1 204 No Content", b"Content-Length: 5"], 0, True),
        ([b"HTTP/1.1 304 Not Modified", b"Content-Length: 5"], 0, True),
        ([b"HTTP/1.1 304 Not Modified", b"Transfer-Encoding: chunked"], 0, True),
        ([b"HTTP/1.1 304 Not Modified"], 0, True),
        ([b"HTTP/1.1 100 Continue"], 0, True),
        ([b"HTTP/1.1 200"], UNTIL_CLOSE, False),
    ],
)
def test_framing(lines: list[bytes], length: int, keep_alive: bool) -> None:
    """RFC 9112 section 6.3."""
    head = read(*lines)
    assert (head.length, head.keep_alive) == (length, keep_alive)


def test_204_names_no_length_but_304_may() -> None:
    """RFC 9110 section 8.6."""
    assert read(b"HTTP/1.1 204 No Content", b"Content-Length: 5").framing == b""
    assert read(b"HTTP/1.1 304 Not Modified", b"Content-Length: 5").framing == b"Content-Length: 5\r\n"


def test_fields_of_the_client() -> None:
    """CONTRACT section 3; hop-by-hop by RFC 9110 section 7.6.1."""
    head = read(
        OK, b"Content-Length: 2", b"Connection: keep-alive, X-Hop", b"X-Hop: 1", b"Keep-Alive: 5", b"Via: 1.1 w", b"X-Comet-LB: fake",
        b"Date: " + DATE, b"Set-Cookie: a", b"Set-Cookie: b",
    )  # fmt: skip
    assert head.whole == (
        b"HTTP/1.1 200 OK\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nDate: " + DATE + b"\r\nVia: 1.1 w, 1.1 comet\r\n"
        b"X-Comet-Worker: worker-0\r\nX-Comet-LB: lb-0\r\nContent-Length: 2\r\n\r\n"
    )


def test_outgoing_framing() -> None:
    """RFC 9112 section 6.1: chunks to HTTP/1.1, the connection's end to HTTP/1.0; RFC 9110 section 6.6.1: a Date is added."""
    endless = read(OK)
    out, chunks, close = outgoing(endless, 1, False, False, DATE)
    assert chunks
    assert not close
    assert out.endswith(b"Date: " + DATE + b"\r\nTransfer-Encoding: chunked\r\n\r\n")
    out, chunks, close = outgoing(endless, 0, False, False, DATE)
    assert not chunks
    assert close
    assert out.endswith(b"Connection: close\r\n\r\n")
    known = read(OK, b"Content-Length: 2", b"Date: " + DATE)
    out, chunks, close = outgoing(known, 0, False, False, DATE)
    assert not chunks
    assert not close
    assert out.endswith(b"Content-Length: 2\r\nConnection: keep-alive\r\n\r\n")
    assert out.count(b"Date: ") == 1


def test_outgoing_to_head() -> None:
    """RFC 9110 section 9.3.2: a HEAD response has no body, whatever its fields say."""
    out, chunks, close = outgoing(read(OK, b"Content-Length: 2"), 1, True, False, DATE)
    assert b"Content-Length: 2\r\n" in out
    assert not chunks
    assert not close
    out, chunks, close = outgoing(read(OK, b"Transfer-Encoding: chunked"), 1, True, False, DATE)
    assert b"Transfer-Encoding" not in out
    assert not chunks


def test_101_names_its_protocol() -> None:
    """RFC 9110 section 15.2.2."""
    head = read(b"HTTP/1.1 101 Switching Protocols", b"Connection: Upgrade", b"Upgrade: websocket")
    assert head.upgrade == b"websocket"
    assert read(b"HTTP/1.1 101 Switching Protocols", b"Upgrade: websocket").upgrade == b""


def test_only_whole_heads_of_living_connections_take_the_common_path() -> None:
    assert read(OK, b"Content-Length: 2", b"Date: " + DATE).whole
    assert not read(OK, b"Content-Length: 2").whole
    assert not read(OK, b"Transfer-Encoding: chunked", b"Date: " + DATE).whole
    assert not read(OK, b"Content-Length: 2", b"Connection: close", b"Date: " + DATE).whole
    assert not read(b"HTTP/1.1 103 Early Hints", b"Date: " + DATE).whole


def test_repr_is_a_status_line() -> None:
    assert repr(read(OK)) == "<ResponseHead 200 until close close>"
    assert repr(read(OK, b"Content-Length: 5")) == "<ResponseHead 200 5 bytes keep-alive>"
