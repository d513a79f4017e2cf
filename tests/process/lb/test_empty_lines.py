"""Empty lines where a request might begin (RFC 9112 section 2.2): they are no request, start no timer and get no
answer.
"""

import contextlib
import socket
import time

import pytest

from tests.support.lb import Client, lb_and_workers
from tests.support.waiting import PATIENCE, wait_until

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
HEAD_TIMEOUT = 0.3


def silent(client: Client, seconds: float) -> bool:
    """Say that nothing comes in this time, no end either."""
    client.sock.settimeout(seconds)
    try:
        client.sock.recv(1)
    except TimeoutError:
        client.sock.settimeout(10.0)
        return True
    return False


def test_the_header_timeout_does_not_run_after_empty_lines() -> None:
    """A 408 that nobody asked for is taken for the answer to the next request."""
    cases = [
        (before, blank)
        for before in (b"", GET, POST, CHUNKED)
        for blank in (b"\r\n", b"\r\n" * 50, b"\r", b"\r\n\r", b"\n")
    ]
    with (
        lb_and_workers(count=1, head_timeout=HEAD_TIMEOUT, idle_timeout=30.0) as (lb, (worker,)),
        contextlib.ExitStack() as stack,
    ):
        clients = [stack.enter_context(lb.connect()) for _ in cases]
        for client, (before, blank) in zip(clients, cases, strict=True):
            client.send(before + blank)
            assert not before or client.answer("POST").status == 200
        time.sleep(HEAD_TIMEOUT + 0.5)
        for client, (before, blank) in zip(clients, cases, strict=True):
            assert silent(client, 0.01), (before, blank)
            client.send(b"\n" * blank.endswith(b"\r") + GET)
            assert client.answer().status == 200
        assert len(worker.requests) == 5 + 3 * 5 * 2


def test_empty_lines_in_separate_packets_are_skipped() -> None:
    with lb_and_workers(count=1, head_timeout=HEAD_TIMEOUT, idle_timeout=30.0) as (lb, _), lb.connect() as client:
        for _ in range(3):
            assert client.ask(POST).status == 200
            for piece in (b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\r", b"\n"):
                client.send(piece)
                time.sleep(0.02)
            assert silent(client, HEAD_TIMEOUT + 0.3)
        client.send(b"\r\n" + GET + b"\r\n\r\n" + POST + b"\r\n" + GET)
        assert [client.answer(method).status for method in ("GET", "POST", "GET")] == [200] * 3


@pytest.mark.parametrize("blank", [b"\r\n", b"\r"])
def test_the_header_timeout_runs_from_the_first_byte_of_a_head(blank: bytes) -> None:
    with lb_and_workers(count=1, head_timeout=0.6, idle_timeout=30.0) as (lb, _), lb.connect() as client:
        client.send(blank)
        assert silent(client, 0.9)
        begun = time.monotonic()
        client.send((b"\r\n" + GET)[1 if blank == b"\r" else 2 : 12])
        assert client.answer().status == 408
        assert time.monotonic() - begun > 0.4


@pytest.mark.parametrize("blank", [b"\r\n", b"\r"])
def test_the_idle_timeout_ends_a_connection_of_empty_lines(blank: bytes) -> None:
    """However they drip: without an answer, as there was no question."""
    with lb_and_workers(count=1, head_timeout=0.3, idle_timeout=0.8) as (lb, _), contextlib.ExitStack() as stack:
        begun = time.monotonic()
        client = stack.enter_context(lb.connect())
        client.sock.settimeout(0.1)
        ended = sent = False
        while not ended and time.monotonic() - begun < 5.0 * PATIENCE:
            try:
                client.send(b"" if sent and blank == b"\r" else blank)
                sent = True
                ended = client.sock.recv(1) == b""
            except TimeoutError:
                continue
            except OSError:
                ended = True
        assert ended
        assert time.monotonic() - begun > 0.5
        wait_until(lambda: lb.count("connections") == 0)
        assert lb.count("requests") == 0


def test_endless_empty_lines_end_the_connection_silently() -> None:
    with lb_and_workers(count=1) as (lb, (worker,)), lb.connect() as client:
        assert client.ask(GET).status == 200
        try:
            for _ in range(100):
                client.send(b"\r\n" * 1000)
            received = client.sock.recv(65536)
        except OSError:
            received = b""
        assert received == b""
        wait_until(lambda: lb.count("connections") == 0)
        assert len(worker.requests) == 1
        assert lb.count("own_errors") == 0


def test_empty_lines_after_each_request_are_never_too_many() -> None:
    with lb_and_workers(count=1) as (lb, _), lb.connect() as client:
        for _ in range(300):
            assert client.ask(POST + b"\r\n" * 10, "POST").status == 200


@pytest.mark.parametrize(
    "data", [b"\r\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", b" \r\n" + GET]
)
def test_a_malformed_empty_line_is_refused(data: bytes) -> None:
    with lb_and_workers(count=1, linger_timeout=0.1) as (lb, (worker,)):
        for cut in (0, 1, 2):
            with lb.connect() as client:
                client.send(data[:cut])
                time.sleep(0.02)
                client.send(data[cut:])
                assert client.answer().status == 400
        assert worker.requests == []


def test_a_client_that_ends_after_an_empty_line_gets_an_end() -> None:
    with lb_and_workers(count=1) as (lb, _):
        for blank in (b"\r\n", b"\r", b"\r\n\r"):
            with lb.connect() as client:
                client.send(blank)
                client.sock.shutdown(socket.SHUT_WR)
                assert client.read_to_end() == b""
            wait_until(lambda: lb.count("connections") == 0)
