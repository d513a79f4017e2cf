"""Responses that are not as RFC 9112 wants them: what is accepted, what is repaired, what is refused at once and why.

One load balancer and one scripted worker serve all inputs: the path of a request is the number of its answer.
"""

import contextlib
import json
import logging
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.lb import Balancer, Worker, WorkerConnection, lb_and_workers, response

Pair = tuple[Balancer, list[bytes]]


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """A load balancer, and the list of what its worker answers: to a request for /N the Nth."""
    answers: list[bytes] = []

    def answer(connection: WorkerConnection, request: bytes) -> None:
        target = request.split(b" ")[1]
        connection.send(answers[int(target[1:])] if target != b"/next" else response(b"next"))

    with lb_and_workers(Worker("worker-0", answer), request_timeout=5.0) as (lb, _):
        yield lb, answers


def ask(pair: Pair, reply: bytes, method: str = "GET") -> Any:
    """The answer to a request that the worker answers by `reply`, and to the next one on the same connection."""
    lb, answers = pair
    answers.append(reply)
    with lb.connect() as client:
        first = client.ask(b"%s /%d HTTP/1.1\r\nHost: a\r\n\r\n" % (method.encode(), len(answers) - 1))
        return first, client.ask(b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n")


FRAMINGS = [
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
    b"Transfer-Encoding: gzip\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    b"Transfer-Encoding:\r\n",
    b"Content-Length: 0\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 5\r\nContent-Length: 5\r\n",
    b"Content-Length: 5\r\nContent-Length: 6\r\n",
    b"Content-Length: -1\r\n",
    b"Content-Length: 5x\r\n",
    b"Content-Length:\r\n",
    b"Content-Length: 99999999999999999999\r\n",
    b"",
]


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"])
def test_a_response_without_a_body_ends_at_its_head(pair: Pair, version: bytes, framing: bytes) -> None:
    """RFC 9112 section 6.3, items 1 and 2: whatever its framing fields say."""
    for status, method in (
        (b"204 No Content", "GET"),
        (b"304 Not Modified", "GET"),
        (b"200 OK", "HEAD"),
        (b"404 Not Found", "HEAD"),
    ):
        first, second = ask(pair, version + b" " + status + b"\r\nX-It: 1\r\n" + framing + b"\r\n", method)
        assert (first.status, first.body, first["X-It"]) == (int(status[:3]), b"", "1"), (status, method)
        assert first["Transfer-Encoding"] is None
        assert first["Content-Length"] in ((None,) if status.startswith(b"204") else (None, "0", "5"))
        assert (second.status, second.body) == (200, b"next")


@pytest.mark.parametrize("framing", FRAMINGS)
def test_an_interim_response_has_no_body(pair: Pair, framing: bytes) -> None:
    first, second = ask(pair, b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n" + framing + b"\r\n" + response(b"ok"))
    assert (first.interim, first.status, first.body) == ([103], 200, b"ok")
    assert second.body == b"next"


@pytest.mark.parametrize("rest", [b"0\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n", b"hello"])
def test_a_forbidden_body_is_not_the_next_response(rest: bytes) -> None:
    """Not even when it comes late: a connection on which more may come serves nobody else."""

    def late(connection: WorkerConnection, request: bytes) -> None:
        if b"/next" in request:
            connection.send(response(b"next"))
            return
        field = b"Content-Length: 5" if rest == b"hello" else b"Transfer-Encoding: chunked"
        connection.send(b"HTTP/1.1 204 No Content\r\n" + field + b"\r\n\r\n")
        time.sleep(0.03)
        connection.send(rest)

    with lb_and_workers(late) as (lb, _), lb.connect() as client:
        for _ in range(4):
            assert client.ask(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").status == 204
            assert client.ask(b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n").body == b"next"


BODY = b"Content-Length: 2\r\nX: y\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nX: y\r\nTransfer-Encoding: chunked\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n"

ACCEPTED = [
    # Line ends (RFC 9112 section 2.2).
    b"HTTP/1.1 200 OK\nContent-Length: 2\nX: y\n\nok",
    b"HTTP/1.1 200 OK\n" + BODY,
    OK + b"Content-Length: 2\nX: y\r\n\r\nok",
    OK + b"Content-Length: 2\r\nX: y\n\r\nok",
    OK + b"Content-Length: 2\r\nX: y\r\n\nok",
    b"HTTP/1.1 200 OK\nContent-Length: 8\nX: y\n\nok\r\n\r\nok",
    OK + b"Content-Length: 8\r\nX: y\r\n\r\nok\n\n\n\nok",
    b"\r\n" + OK + BODY,
    b"\n\r\n\n" + OK + BODY,
    # White space around the parts of the status line (section 4), and its reason.
    b"HTTP/1.1  200   OK\r\n" + BODY,
    b"HTTP/1.1\t200\tOK\r\n" + BODY,
    b"HTTP/1.1 200 OK  \t\r\n" + BODY,
    b"HTTP/1.1 200 \r\n" + BODY,
    b"HTTP/1.1 200\r\n" + BODY,
    b"HTTP/1.1 200\n" + BODY,
    b"HTTP/1.1 200 \x01\x1b[1mO\x00K\x7f\xe9\r\n" + BODY,
    b"HTTP/1.9 200 OK\r\n" + BODY,
    # Around names and values (section 5.1), and characters that no value may hold (RFC 9110 section 5.5).
    OK + b"Content-Length:\t  2 \t\r\nX:\t y  \t\r\n\r\nok",
    OK + b"Content-Length:2\r\nX:y\r\n\r\nok",
    OK + b"Content-Length : 2\r\nX\t : y\r\n\r\nok",
    OK + b"Transfer-Encoding  : chunked\r\nX : y\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    OK + b"Content-Length: 2\r\nX: \x01y\x0c\r\nY: \x1b\x7f\r\n\r\nok",
    OK + b"Content-Length: 2\r\nX: y\r\nEmpty:\r\n\r\nok",
    OK + b"Connection:\r\nUpgrade:\r\nVia:\r\nTransfer-Encoding:\r\n" + BODY,
    OK + b"Connection: a b, ,, \r\n" + BODY,
    # Lengths that agree, and codings with nothing between the commas.
    OK + b"Content-Length: 2\r\n" + BODY,
    OK + b"Content-Length: 2, 2\r\nX: y\r\n\r\nok",
    OK + b"Content-Length: 002\r\nX: y\r\n\r\nok",
    OK + b"X: y\r\nTransfer-Encoding: ,chunked,\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    OK + b"X: y\r\nTransfer-Encoding: CHUNKED \r\n\r\n2\r\nok\r\n0\r\n\r\n",
    # Chunks (section 7.1).
    CHUNKED + b"2\nok\n0\n\n",
    CHUNKED + b"2\nok\r\n0\r\n\r\n",
    CHUNKED + b"2\r\nok\n0\r\n\r\n",
    CHUNKED + b"2\r\nok\r\n0\n\r\n",
    CHUNKED + b"2\r\nok\r\n0\r\n\n",
    CHUNKED + b"2     \r\nok\r\n0 \r\n\r\n",
    CHUNKED + b"2\t\r\nok\r\n0\t\r\n\r\n",
    CHUNKED + b"2 ;a=b\r\nok\r\n0 ; c\r\n\r\n",
    CHUNKED + b'2; a = "b;c"\nok\r\n0;\r\n\r\n',
    CHUNKED + b"2;a=\x01\r\nok\r\n0\r\n\r\n",
    CHUNKED + b"0002\r\nok\r\n0000\r\n\r\n",
    CHUNKED + b"0" * 30 + b"2\r\nok\r\n" + b"0" * 40 + b"\r\n\r\n",
    CHUNKED + b"2\r\nok\r\n0\r\nSum: 1\n\r\n",
    CHUNKED + b"2\r\nok\r\n0\r\nSum : 1\r\nA: \x01\r\nB: c\r\n d\r\nno field\r\nContent-Length: 9\r\n\r\n",
]


@pytest.mark.parametrize("reply", ACCEPTED, ids=repr)
def test_repairable_responses_are_rewritten_and_accepted(pair: Pair, reply: bytes) -> None:
    first, second = ask(pair, reply)
    assert (first.status, first["X"], first.body[:2], first.body[-2:]) == (200, "y", b"ok", b"ok")
    assert second.body == b"next"


@pytest.mark.parametrize("reply", ACCEPTED[::3], ids=repr)
def test_responses_split_anywhere_are_parsed_alike(reply: bytes) -> None:
    def drip(connection: WorkerConnection, request: bytes) -> None:
        for at in range(len(reply)):
            connection.send(reply[at : at + 1])
            time.sleep(0.0005)

    with lb_and_workers(drip) as (lb, _):
        answer = lb.ask()
        assert (answer.status, answer["X"], answer.body[-2:]) == (200, "y", b"ok")


def test_the_client_gets_the_repaired_response(pair: Pair) -> None:
    lb, answers = pair
    answers.append(b"HTTP/1.1  200\t O\x1bK \nName : va\x0blue \nContent-Length:2\n\nok")
    with lb.connect() as client:
        client.send(b"GET /%d HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % (len(answers) - 1))
        received = client.read_to_end()
    assert received.startswith(b"HTTP/1.1 200 O K\r\nName: va lue\r\nVia: 1.1 comet\r\n")
    assert received.endswith(b"\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")


REFUSED = [
    (b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", "not an HTTP/1.1 response", "SSH-2.0"),
    (b"\x15\x03\x03\x00\x02\x02\x46", "not an HTTP/1.1 response", r"\x15\x03"),
    (b"220 mail.example ESMTP\r\n", "not an HTTP/1.1 response", "220 mail"),
    (b"hello", "not an HTTP/1.1 response", "hello"),
    (b"HTTP/1.1 20", None, None),  # It may become one: not yet refused.
    (b"HTTP/1.1 2x", "invalid status line", "2x"),
    (b"HTTP/2 200\r\n", "not an HTTP/1.1 response", "HTTP/2"),
    (b"HTTP/1.1 600 No\r\n", "invalid status line", "600"),
    (b"http/1.1 200 OK\r\n", "not an HTTP/1.1 response", "http/1.1"),
    (b" HTTP/1.1 200 OK\r\n", "not an HTTP/1.1 response", " HTTP/1.1"),
    (b"HTTP/1.1 200 O\rK\r\n", "bare carriage return", r"O\rK"),
    (OK + b"no field\r\n", "header line without a colon", "no field"),
    (OK + b": y\r\n", "invalid header field", ": y"),
    (OK + b"X Y: z\r\n", "invalid header field", "X Y: z"),
    (OK + b"X: a\x00b\r\n", "NUL in a header field", r"a\x00b"),
    (OK + b"X: a\rb\r\n", "bare carriage return", r"a\rb"),
    (OK + b"X: a\r\n b\r\n", "folded header line", " b"),
    (OK + b"X: " + b"a" * 70000, "response head too long", "70020 bytes"),
    (
        OK + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n",
        "both Transfer-Encoding and Content-Length",
        r"chunked\r\nContent-Length: 2",
    ),
    (OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n", "invalid Content-Length", "Content-Length: 3"),
    (OK + b"Content-Length: +2\r\n\r\n", "invalid Content-Length", "+2"),
    (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "Transfer-Encoding in HTTP/1.0", "chunked"),
    (OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n", "unknown transfer coding", "gzip, chunked"),
    (b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", "101 to a request", "101"),
]


def test_an_invalid_response_is_refused_at_once_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The worker goes on holding its connection: nobody may wait for request-timeout."""
    answers = [reply for reply, _, _ in REFUSED]

    def stay(connection: WorkerConnection, request: bytes) -> None:
        connection.send(answers[int(request.split(b" ")[1][1:])])

    logging.getLogger("lb").propagate = True
    with lb_and_workers(stay, request_timeout=4.0) as (lb, _):
        for number, (reply, rule, evidence) in enumerate(REFUSED):
            caplog.clear()
            time.sleep(0.15)  # No more lines a second than are logged.
            begun = time.monotonic()
            answer = lb.ask(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)
            took = time.monotonic() - begun
            if rule is None:
                assert (answer.status, took > 3.9) == (504, True)
                continue
            assert answer.status == 502, (reply, took)
            (line,) = [record.getMessage() for record in caplog.records]
            assert re.match(rf"worker-0: GET /{number} HTTP/1\.1: invalid response: ({rule}).*: b", line), line
            assert evidence in line
            assert len(line) < 700
            assert line.isascii() or "…" in line
            assert re.search(rule, json.loads(answer.body)["error"])


def test_log_lines_on_truncated_responses_are_rate_limited(caplog: pytest.LogCaptureFixture) -> None:
    replies = [
        CHUNKED + b"2\r\nok\r\nzz",
        CHUNKED + b"2\r\nokk",
        CHUNKED + b"2\r\nok\r\n",
        OK + b"Content-Length: 9\r\n\r\nok",
    ]

    def cut(connection: WorkerConnection, request: bytes) -> None:
        number = int(request.split(b" ")[1][1:])
        connection.send(replies[number])
        if number > 1:
            time.sleep(0.05)
            connection.sock.close()

    logging.getLogger("lb").propagate = True
    with lb_and_workers(*[cut] * 1, health_fall=1000) as (lb, _):

        def ask(number: int) -> None:
            with lb.connect() as client:
                client.send(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)
                assert client.sock.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
                with contextlib.suppress(ConnectionError):
                    client.read_to_end()

        for number in range(len(replies)):
            ask(number)
        said = [record.getMessage() for record in caplog.records]
        assert [re.sub(r"GET /\d HTTP/1.1: the response was cut: ", "", line) for line in said] == [
            "worker-0: invalid chunk size: b'zz'",
            "worker-0: invalid end of a chunk: b'k'",
            "worker-0: closed before the end of the body",
            "worker-0: closed before the end of the body",
        ]
        caplog.clear()
        with contextlib.ExitStack() as stack:  # All at once, so that a slow machine too has many within a second.
            clients = [stack.enter_context(lb.connect()) for _ in range(60)]
            for client in clients:
                client.send(b"GET /0 HTTP/1.1\r\nHost: a\r\n\r\n")
            for client in clients:
                with contextlib.suppress(ConnectionError):
                    client.read_to_end()
        assert len(caplog.records) < 60
        time.sleep(1.1)
        ask(0)
        assert any("similar lines were not logged" in record.getMessage() for record in caplog.records)
