"""The chunked coding: decoded the same at every split point, refused where it is not exactly by RFC 9112 section
7.1.
"""

import pytest

from lb.http.chunked import ChunkedReader, frame, last
from lb.http.fields import REQUEST_KINDS, FieldReader, Refusal

BODY = b"4\r\nWiki\r\n5;name=value\r\npedia\r\nE\r\n in\r\n\r\nchunks.\r\n0\r\nX-Sum: 1\r\n\r\nGET /next"


def decode(data: bytes, step: int) -> tuple[bytes, ChunkedReader]:
    reader, payload = ChunkedReader(), b""
    for at in range(0, len(data), step):
        if reader.done:
            reader.rest += data[at : at + step]
        else:
            payload += b"".join(reader.feed(data[at : at + step]))
    return payload, reader


@pytest.mark.parametrize("step", [1, 2, 3, 5, 7, 11, 1000])
def test_chunked_bodies_split_anywhere_are_decoded_alike(step: int) -> None:
    payload, reader = decode(BODY, step)
    assert payload == b"Wikipedia in\r\n\r\nchunks."
    assert reader.done
    assert reader.rest == b"GET /next"
    assert reader.trailers == [b"X-Sum: 1"]


@pytest.mark.parametrize(
    "data",
    [
        b"4\nWiki\r\n",  # bare LF after a size
        b"4\r\nWiki\n",  # bare LF after data
        b"4\r\nWikiX\r\n",  # data longer than its size
        b"4 \r\nWiki\r\n",  # space after a size
        b"4 ;a=b\r\nWiki\r\n",
        b" 4\r\nWiki\r\n",  # space before a size
        b"+4\r\nWiki\r\n",
        b"-4\r\nWiki\r\n",
        b"0x4\r\nWiki\r\n",
        b"4_0\r\nWiki\r\n",
        b"\r\n",  # no size
        b"g\r\n",
        b"10000000000000000\r\n",  # 2^64
        b"4;a\rb\r\nWiki\r\n",  # bare CR in an extension
        b"4;a\x00\r\nWiki\r\n",
        b"0\r\nA: b\n\r\n",  # bare LF in trailers
        b"4;" + b"a" * 2000 + b"\r\n",
        b"a" * 2000,
        b"0\r\n" + b"A: b\r\n" * 5000,
        b"1;aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\nx\r\n"
        * 1000,  # a body of extensions
    ],
)
def test_malformed_chunked_bodies_are_refused_at_every_split(data: bytes) -> None:
    for step in (1, 7, len(data)):
        with pytest.raises(Refusal):
            decode(data, step)


def test_payload_in_one_piece_is_not_copied() -> None:
    reader = ChunkedReader()
    reader.feed(b"ffff\r\n")
    data = b"x" * 1000
    assert reader.feed(data)[0] is data


def test_chunked_encoding() -> None:
    assert frame([]) == []
    assert b"".join(frame([b"abc", b"de"])) == b"5\r\nabcde\r\n"
    assert last([]) == b"0\r\n\r\n"
    assert last([b"A: b", b"C: d"]) == b"0\r\nA: b\r\nC: d\r\n\r\n"


def test_forbidden_trailers_are_dropped() -> None:
    """RFC 9110 section 6.5.1."""
    fields = FieldReader(REQUEST_KINDS)
    lines = [
        b"X-Sum: 1",
        b"Host: b",
        b"Authorization: x",
        b"Content-Type: a",
        b"Cookie: b",
    ]
    assert fields.trailers(lines, []) == [b"X-Sum: 1"]
    for line in (
        b"no field",
        b"Content-Length: 5",
        b"content-length:",
        b"Transfer-Encoding: chunked",
        b"A: \0",
        b"A: b\rc",
    ):
        with pytest.raises(Refusal):
            fields.trailers([b"X-Sum: 1", line], [])
