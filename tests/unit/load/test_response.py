"""Answers as a client must read them, some written by h11."""

import asyncio
from collections.abc import Iterable

import h11
import pytest

from comet.load.closed_model import Answer, ResultCounts
from comet.load.open_model import ramp
from comet.load.response import Head, read_answer

INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 X\r\nLink: a\r\n\r\n"


def read(data: bytes, method: str = "GET") -> tuple[Head, bytes, bool]:
    async def go() -> tuple[Head, bytes, bool]:
        reader = asyncio.StreamReader()
        reader.feed_data(data[1:])
        reader.feed_eof()
        return await read_answer(reader, method, data[:1])

    return asyncio.run(go())


def served(parts: Iterable[bytes], fields: list[tuple[str, str]]) -> bytes:
    """An answer as a server with h11 writes it."""
    server = h11.Connection(h11.SERVER)
    server.receive_data(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    while not isinstance(server.next_event(), h11.EndOfMessage):
        pass
    events = [h11.Response(status_code=200, headers=fields), *(h11.Data(data=part) for part in parts)]
    return b"".join(server.send(event) or b"" for event in [*events, h11.EndOfMessage()])


def test_a_chunked_answer_has_an_end() -> None:
    data = served([b"hel", b"lo " * 5000], [("Transfer-Encoding", "chunked")])
    head, body, reusable = read(data + b"HTTP/1.1 200 OK\r\n")
    assert (head.status, body, reusable) == (200, b"hel" + b"lo " * 5000, True)


def test_extensions_and_trailers_of_chunks_are_dropped() -> None:
    data = b"HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nExpires: never\r\nX: y\r\n\r\n"
    assert read(data)[1:] == (b"abc", True)


@pytest.mark.parametrize(
    ("data", "method", "body", "reusable"),
    [
        (INTERIM + b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", "GET", b"ok", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", "HEAD", b"", True),
        (b"HTTP/1.1 304 X\r\nContent-Length: 9\r\n\r\n", "GET", b"", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\nConnection: x, Close\r\n\r\nok", "GET", b"ok", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", "GET", b"ok", False),
        (b"HTTP/1.1 200 OK\r\n\r\nto the end", "GET", b"to the end", False),
    ],
)  # fmt: skip
def test_bodies_end_where_they_end(data: bytes, method: str, body: bytes, reusable: bool) -> None:
    assert read(data, method)[1:] == (body, reusable)


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok",
    ],
)
def test_answers_that_break_the_rules_are_none(data: bytes) -> None:
    with pytest.raises((ValueError, EOFError)):
        read(data)


def test_errors_count_where_they_happen_answers_where_begun() -> None:
    began, present = ResultCounts(), ResultCounts()
    began.note(Answer(200, "worker-0", b"", False), 1.0, present)
    began.note(Answer(503, None, b"", False), 2.0, present)
    assert (began.ok, began.requests) == (1, 1)
    assert (dict(present.errors), present.requests, present.lost) == ({"503": 1}, 1, 0)


def test_a_ramp_sends_the_mean_of_its_rates() -> None:
    due = ramp(10, 30, 2.0)
    assert [round(due(number), 6) for number in (0, 40)] == [0.0, 2.0]
    assert ramp(0, 10, 2.0)(10) == 2.0
    assert ramp(10, 0, 2.0)(11) == float("inf")
    assert ramp(20, 20, 2.0)(40) == 2.0


def test_after_a_ramp_its_last_rate_stays() -> None:
    """A step lasts longer than it says where its actions take longer."""
    up, down = ramp(10, 30, 2.0), ramp(30, 10, 2.0)
    assert [up(40 + number) for number in (3, 30)] == [2.1, 3.0]
    assert [down(40 + number) for number in (1, 10)] == [2.1, 3.0]
