"""Requests as clients send them: in pieces, pipelined, malformed, with bodies of every framing."""

import contextlib
import time

import pytest

from tests.support.lb import WorkerConnection, lb_and_workers, raw, response
from tests.support.waiting import wait_until

GET = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello"


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_requests_split_anywhere_are_parsed_alike(step: int) -> None:
    """Both directions in pieces."""

    def drip(connection: WorkerConnection, request: bytes) -> None:
        data = response(b"hello world")
        for at in range(0, len(data), step):
            connection.send(data[at : at + step])
            if step < 1000 and at < 3 * step:
                time.sleep(0.002)

    with lb_and_workers(drip) as (lb, (worker,)), lb.connect() as client:
        for at in range(0, len(POST), step):
            client.send(POST[at : at + step])
        assert client.answer("POST").body == b"hello world"
        assert worker.requests[0].endswith(b"\r\n\r\nhello")


def test_pipelined_requests_are_answered_in_order() -> None:
    """RFC 9112 section 9.3.2."""

    def echo(connection: WorkerConnection, request: bytes) -> None:
        time.sleep(0.02 if b"/0 " in request else 0)
        connection.send(response(request.split(b" ")[1]))

    with lb_and_workers(echo, echo) as (lb, _), lb.connect() as client:
        client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % n for n in range(20)))
        assert [client.answer().body for _ in range(20)] == [b"/%d" % n for n in range(20)]


def test_a_thousand_pipelined_failures_do_not_exhaust_the_stack() -> None:
    with lb_and_workers() as (lb, _), lb.connect() as client:
        client.send(GET * 3000)
        assert {client.answer().status for _ in range(3000)} == {503}


def test_pipelined_after_a_body() -> None:
    with lb_and_workers(count=1) as (lb, (worker,)), lb.connect() as client:
        client.send(POST + GET + POST)
        assert [client.answer().status for _ in range(3)] == [200] * 3
        assert [request[:4] for request in worker.requests] == [b"POST", b"GET ", b"POST"]


def test_an_empty_line_before_a_request_is_ignored() -> None:
    """RFC 9112 section 2.2."""
    with lb_and_workers(count=1) as (lb, _), lb.connect() as client:
        assert client.ask(b"\r\n" + GET, "GET").status == 200


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"GET /\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET /" + b"a" * 9000, 414),
        (b"GET / HTTP/1.1\r\nA: " + b"a" * 40000, 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"a" * 40000 + b"\r\n\r\n", 431),
        (b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
    ],
)
def test_malformed_requests_never_reach_a_worker(request_bytes: bytes, status: int) -> None:
    """RFC 9112 section 11.2: what follows a refused request is not read as another."""
    with lb_and_workers(count=1, linger_timeout=0.1) as (lb, (worker,)), lb.connect() as client:
        client.send(request_bytes)
        answer = client.answer()
        assert answer.status == status
        assert answer["Content-Type"] == "application/json"
        assert answer["Connection"] == "close"
        with contextlib.suppress(OSError):
            client.send(b"\r\n\r\n" + GET)
        assert client.closed()
        assert worker.requests == []
        assert lb.count("own_errors") == 1
        wait_until(lambda: lb.count("connections") == 0)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"HEAD / HTTP/1.1\r\n\r\n", 400),
        (b"HEAD / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n", 413),
        (b"HEAD / HTTP/1.1\r\nHost", 408),
    ],
)
def test_a_refused_head_request_gets_a_head_only(request_bytes: bytes, status: int) -> None:
    """RFC 9110 section 9.3.2."""
    with lb_and_workers(count=1, linger_timeout=0.1, head_timeout=0.2, max_body=8) as (lb, _), lb.connect() as client:
        client.send(request_bytes)
        head, _, body = client.read_to_end().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status)
        assert body == b""


def test_a_chunked_request_is_reframed() -> None:
    """RFC 9112 section 7.1: sizes and extensions end here, trailers that may pass do."""
    with lb_and_workers(count=1) as (lb, (worker,)):
        lb.ask(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n03;e=1\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: "
            b"1\r\nHost: b\r\n\r\n"
        )
        assert worker.requests[0].endswith(b"\r\n\r\n5\r\nabcde\r\n0\r\nX-Sum: 1\r\n\r\n")
        assert worker.requests[0].count(b"Transfer-Encoding: chunked\r\n") == 1


def test_trailers_named_in_connection_are_not_forwarded() -> None:
    """RFC 9110 section 7.6.1, both ways."""
    fields = b"Transfer-Encoding: chunked\r\nConnection: X-Hop\r\n\r\n2\r\nok\r\n0\r\nX-Hop: 9\r\nX-Sum: 1\r\n\r\n"
    with (
        lb_and_workers(lambda connection, _: connection.send(b"HTTP/1.1 200 OK\r\n" + fields)) as (lb, (worker,)),
        lb.connect() as client,
    ):
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\n" + fields)
        told = b""
        while not told.endswith(b"X-Sum: 1\r\n\r\n"):
            told += client.receive(65536)
        assert told.endswith(b"2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n")
        assert worker.requests[0].endswith(b"2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n")


def test_a_bad_chunk_in_the_middle_aborts_the_upstream() -> None:
    with lb_and_workers(raw) as (lb, (worker,)), lb.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        wait_until(lambda: worker.requests)
        client.send(b"zz\r\nGET / HTTP/1.1\r\n")
        assert client.answer("POST").status == 400
        assert client.closed()
        wait_until(lambda: lb.upstream("worker-0").in_flight == 0)


def test_max_body_is_413() -> None:
    """RFC 9110 section 15.5.14."""
    with lb_and_workers(count=1, max_body=4) as (lb, (worker,)), lb.connect() as client:
        assert client.ask(POST).status == 413
        assert client.closed()
        assert worker.requests == []


def test_max_body_holds_for_cached_heads() -> None:
    """A head that comes alone and is like one read before takes the shortest way to its exchange."""
    with lb_and_workers(count=1, max_body=4) as (lb, (worker,)):
        for number in range(600):
            with lb.connect() as client:
                client.send(
                    b"POST /%08d HTTP/1.1\r\nHost: a\r\nX-Number: %08d\r\nContent-Length: 1000\r\n\r\n"
                    % (number, number)
                )
                assert client.answer("POST").status == 413
        wait_until(lambda: lb.count("in_flight") == 0)
        with lb.connect() as client:
            assert client.ask(GET).status == 200
        assert len(worker.requests) == 1


def test_an_empty_body() -> None:
    with lb_and_workers(lambda connection, _: connection.send(response(b""))) as (lb, _), lb.connect() as client:
        for _ in range(3):
            answer = client.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (answer.status, answer.body) == (200, b"")
