"""Response heads: every framing, and what makes a response untrustworthy."""

import pytest

from lb.http.fields import Refusal
from lb.http.response import AMBIGUOUS, CHUNKED, UNTIL_CLOSE, ResponseHead, ResponseReader, outgoing

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
    ("RFC 9112 2.2: bare CR", [b"HTTP/1.1 200 OK", b"A: b\rC: d"]),
    ("RFC 9112 5.2: obs-fold", [OK, b"A: b", b" c"]),
    ("RFC 9110 5.5: NUL in a field", [OK, b"A: b\x00"]),
    ("RFC 9112 5: no colon", [OK, b"A"]),
    ("RFC 9112 5.1: space within a name", [OK, b"A B: c"]),
    ("RFC 9112 4: white space before the version", [b" HTTP/1.1 200 OK"]),
    ("RFC 9112 2.3: lower-case version", [b"http/1.1 200 OK"]),
    ("RFC 9112 4: no space before the reason", [b"HTTP/1.1 200OK"]),
    ("too many fields", [OK, *[b"A: b"] * 101]),
]

AMBIGUOUS_BODIES = [
    ("RFC 9112 6.3 item 3: both codings", [OK, b"Content-Length: 3", b"Transfer-Encoding: chunked"]),
    ("RFC 9112 6.3 item 5: two lengths", [OK, b"Content-Length: 3", b"Content-Length: 4"]),
    ("RFC 9112 6.3 item 5: bad length", [OK, b"Content-Length: -1"]),
    ("RFC 9112 6.1: chunked in HTTP/1.0", [b"HTTP/1.0 200 OK", b"Transfer-Encoding: chunked"]),
    ("RFC 9112 6.1: unknown coding", [OK, b"Transfer-Encoding: gzip"]),
    ("RFC 9112 6.1: chunked not last", [OK, b"Transfer-Encoding: chunked, gzip"]),
]


@pytest.mark.parametrize(("rule", "lines"), REFUSED, ids=[each[0] for each in REFUSED])
def test_malformed_responses_are_refused(rule: str, lines: list[bytes]) -> None:
    with pytest.raises(Refusal):
        read(*lines)


@pytest.mark.parametrize(("rule", "lines"), AMBIGUOUS_BODIES, ids=[each[0] for each in AMBIGUOUS_BODIES])
def test_an_ambiguous_length_is_accepted_for_head_only(rule: str, lines: list[bytes]) -> None:
    head = read(*lines)
    assert (head.length, head.keep_alive, head.fast_head) == (AMBIGUOUS, False, b"")
    assert head.fault
    assert b"Content-Length" not in outgoing(head, 1, True, False, DATE)[0]


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
        ([b"HTTP/1.1 204 No Content", b"Content-Length: 0"], 0, True),
        ([b"HTTP/1.1 204 No Content", b"Content-Length: 5"], 0, False),  # The five bytes may follow.
        ([b"HTTP/1.1 204 No Content", b"Transfer-Encoding: chunked"], 0, False),
        ([b"HTTP/1.1 304 Not Modified", b"Content-Length: 5"], 0, False),
        ([b"HTTP/1.1 304 Not Modified", b"Transfer-Encoding: chunked"], 0, False),
        ([b"HTTP/1.1 304 Not Modified"], 0, True),
        ([b"HTTP/1.1 100 Continue"], 0, True),
        ([b"HTTP/1.1 200"], UNTIL_CLOSE, False),
    ],
)
def test_response_body_framing(lines: list[bytes], length: int, keep_alive: bool) -> None:
    """RFC 9112 section 6.3."""
    head = read(*lines)
    assert (head.length, head.keep_alive) == (length, keep_alive)


def test_204_names_no_length_but_304_may() -> None:
    """RFC 9110 section 8.6."""
    assert read(b"HTTP/1.1 204 No Content", b"Content-Length: 5").framing == b""
    assert read(b"HTTP/1.1 304 Not Modified", b"Content-Length: 5").framing == b"Content-Length: 5\r\n"


def test_fields_of_the_client() -> None:
    """docs/http.md, header fields; hop-by-hop by RFC 9110 section 7.6.1."""
    head = read(
        OK, b"Content-Length: 2", b"Connection: keep-alive, X-Hop", b"X-Hop: 1", b"Keep-Alive: 5", b"Via: 1.1 w",
        b"X-Comet-LB: fake",
        b"Date: " + DATE, b"Set-Cookie: a", b"Set-Cookie: b",
    )  # fmt: skip
    assert head.fast_head == (
        b"HTTP/1.1 200 OK\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nDate: " + DATE + b"\r\nVia: 1.1 w, 1.1 comet\r\n"
        b"X-Comet-Worker: worker-0\r\nX-Comet-LB: lb-0\r\nContent-Length: 2\r\n\r\n"
    )


def test_outgoing_framing() -> None:
    """RFC 9112 section 6.1: chunks to HTTP/1.1, the connection's end to HTTP/1.0; RFC 9110 section 6.6.1: a Date is
    added.
    """
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


def test_only_complete_heads_take_the_fast_path() -> None:
    assert read(OK, b"Content-Length: 2", b"Date: " + DATE).fast_head
    assert not read(OK, b"Content-Length: 2").fast_head
    assert not read(OK, b"Transfer-Encoding: chunked", b"Date: " + DATE).fast_head
    assert not read(OK, b"Content-Length: 2", b"Connection: close", b"Date: " + DATE).fast_head
    assert not read(b"HTTP/1.1 103 Early Hints", b"Date: " + DATE).fast_head


def test_repr_is_a_status_line() -> None:
    assert repr(read(OK)) == "<ResponseHead 200 until close close>"
    assert repr(read(OK, b"Content-Length: 5")) == "<ResponseHead 200 5 bytes keep-alive>"


@pytest.mark.parametrize("option", [b"date", b"Date", b"close, DATE", b"via, x-comet-lb, x-comet-worker, date"])
def test_no_connection_option_removes_what_every_response_has(option: bytes) -> None:
    """RFC 9110 sections 6.6.1 and 7.6.3."""
    for dates in ([b"Date: " + DATE], [], [b"Date: " + DATE, b"Date: " + DATE], [b"Date:"]):
        head = read(OK, b"Content-Length: 2", b"Connection: " + option, *dates)
        sent = outgoing(head, 1, False, False, DATE)[0]
        assert sent.count(b"\r\nDate: " + DATE + b"\r\n") == 1
        assert sent.lower().count(b"\r\ndate:") == 1
        assert b"\r\nVia: 1.1 comet\r\nX-Comet-Worker: worker-0\r\nX-Comet-LB: lb-0\r\n" in sent


def test_fields_that_a_status_requires_stay() -> None:
    """RFC 9110 sections 15.3.7, 15.5.2, 15.5.6, 15.5.8, 15.5.17 and 15.5.22."""
    for status, field in (
        (b"401", b"WWW-Authenticate: Basic"), (b"405", b"Allow: GET"), (b"416", b"Content-Range: bytes */9"),
        (b"206", b"Content-Range: bytes 0-1/9"), (b"407", b"Proxy-Authenticate: Basic"),
    ):  # fmt: skip
        for option in (b"keep-alive", field.partition(b":")[0]):
            head = read(b"HTTP/1.1 " + status + b" No", b"Content-Length: 2", b"Connection: " + option, field)
            assert b"\r\n" + field + b"\r\n" in outgoing(head, 1, False, False, DATE)[0]
    assert b"Proxy-Authenticate" not in read(OK, b"Content-Length: 2", b"Proxy-Authenticate: Basic").start
    head = read(
        b"HTTP/1.1 426 Upgrade Required",
        b"Content-Length: 2",
        b"Connection: Upgrade",
        b"Upgrade: TLS/1.3",
        b"Date: " + DATE,
    )
    assert not head.fast_head
    assert b"\r\nConnection: Upgrade\r\nUpgrade: TLS/1.3\r\n" in outgoing(head, 1, False, False, DATE)[0]
    assert b"\r\nConnection: close, Upgrade\r\nUpgrade: TLS/1.3\r\n" in outgoing(head, 1, False, True, DATE)[0]
    assert (
        b"Upgrade"
        not in outgoing(read(OK, b"Content-Length: 2", b"Connection: Upgrade", b"Upgrade: h2"), 1, False, False, DATE)[
            0
        ]
    )
