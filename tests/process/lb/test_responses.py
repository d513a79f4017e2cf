"""Responses as workers send them: every framing to both versions, malformed, cut short, interim ones."""

import socket
import time

import h11
import pytest

from tests.support.lb import TIMEOUT, WorkerConnection, lb_and_workers, raw, response
from tests.support.waiting import wait_until

GET = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"


@pytest.mark.parametrize(
    ("reply", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", b"hello"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello", b"hello"),
        (b"HTTP/1.0 200 OK\r\n\r\nhello", b"hello"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello and more", b"hello"),
    ],
)
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_every_response_framing_to_both_versions(reply: bytes, body: bytes, version: bytes) -> None:
    """RFC 9112 section 6.3."""

    def answer_once(connection: WorkerConnection, request: bytes) -> None:
        connection.send(reply)
        if b"Length" not in reply and b"chunked" not in reply and b" 204 " not in reply:
            connection.sock.shutdown(socket.SHUT_WR)

    with lb_and_workers(answer_once, answer_once) as (lb, _), lb.connect() as client:
        answer = client.ask(b"GET / HTTP/" + version + b"\r\nHost: a\r\n\r\n")
        assert answer.body == body
        if version == b"1.0":
            assert client.closed()
            assert answer["Transfer-Encoding"] is None
        else:
            assert client.ask(GET).body == body  # The client's connection lives on.


def test_a_head_response_has_no_body() -> None:
    """RFC 9110 section 9.3.2."""

    def behave(connection: WorkerConnection, request: bytes) -> None:
        connection.send(
            response(b"hello") if request.startswith(b"GET") else b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
        )

    with lb_and_workers(behave) as (lb, (worker,)), lb.connect() as client:
        for _ in range(2):
            head = client.ask(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (head.status, head["Content-Length"], head.body) == (200, "5", b"")
            assert client.ask(GET).body == b"hello"
        assert (
            len(worker.connections) == 3
        )  # Behind the answer to HEAD its body may come: that connection serves nobody else.


def test_http_1_0_keep_alive() -> None:
    with lb_and_workers(count=1) as (lb, _), lb.connect() as client:
        for _ in range(2):
            answer = client.ask(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert answer["Connection"] == "keep-alive"


@pytest.mark.parametrize(
    "reply",
    [
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\rA: b\n\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        b"x" * 70000,
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nA: " + b"x" * 70000 + b"\r\n\r\n",
        b"HTTP/1.1 099 Low\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 600 High\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_malformed_responses_are_502(reply: bytes) -> None:
    """RFC 9112 sections 2.2, 5.2, 6.3, RFC 9110 section 15 (status codes are 100 to 599)."""
    with lb_and_workers(lambda connection, _: connection.send(reply), count=1) as (lb, _), lb.connect() as client:
        assert client.ask(GET).status == 502
        assert client.ask(GET).status == 200
        assert lb.count("upstream_errors") == 1


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\nzz\r\n",
    ],
)
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_a_short_body_is_never_a_success(reply: bytes, version: bytes) -> None:
    """RFC 9112 section 8."""

    def behave(connection: WorkerConnection, request: bytes) -> None:
        connection.send(reply)
        connection.sock.close()

    with (
        lb_and_workers(behave) as (lb, _),
        lb.connect() as client,
        pytest.raises((h11.RemoteProtocolError, ConnectionResetError)),
    ):
        client.ask(b"GET / HTTP/" + version + b"\r\nHost: a\r\n\r\n")


def test_a_reset_close_delimited_body_is_never_a_success() -> None:
    def behave(connection: WorkerConnection, request: bytes) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\n\r\nshort")
        time.sleep(0.05)
        connection.reset()

    with lb_and_workers(behave, behave) as (lb, _):
        for version in (b"1.0", b"1.1"):
            with lb.connect() as client, pytest.raises((h11.RemoteProtocolError, ConnectionResetError)):
                client.ask(b"GET / HTTP/" + version + b"\r\nHost: a\r\n\r\n")


def test_100_continue_end_to_end() -> None:
    """RFC 9110 section 10.1.1."""

    with lb_and_workers(raw) as (lb, (worker,)), lb.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        connection = wait_until(lambda: worker.connections)[0]
        assert b"Expect: 100-continue\r\n" in wait_until(lambda: worker.requests)[0]
        connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert client.sock.recv(1000).startswith(b"HTTP/1.1 100 Continue\r\n")
        client.send(b"hello")
        connection.send(response(b"done"))
        assert client.answer("POST").body == b"done"


def test_103_is_passed_on_but_not_to_http_1_0() -> None:
    """RFC 8297; RFC 9110 section 15.2."""
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    with lb_and_workers(lambda connection, _: connection.send(hints + hints + response())) as (lb, _):
        assert lb.ask().interim == [103, 103]
        answer = lb.ask(b"GET / HTTP/1.0\r\n\r\n")
        assert (answer.interim, answer.body) == ([], b"hello")


def test_interim_responses_in_any_number_are_passed_on() -> None:
    """RFC 9110 section 15.2."""
    count = 12000

    def behave(connection: WorkerConnection, request: bytes) -> None:
        connection.send(b"HTTP/1.1 103 \r\n\r\n" * count + response())

    with lb_and_workers(behave) as (lb, _), lb.connect() as client:
        client.send(GET + GET)
        received = b""
        while received.count(b"\r\n\r\nhello") < 2 and (data := client.sock.recv(1 << 18)):
            received += data
        assert received.count(b"HTTP/1.1 103 ") == 2 * count


@pytest.mark.parametrize(
    "last", [response(bytes(1 << 20)), b"HTTP/1.1 101 \r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n" + bytes(1 << 20)]
)
def test_interim_responses_are_not_buffered_without_limit(last: bytes) -> None:
    count, large = 400, b"HTTP/1.1 103 \r\nA: " + b"x" * 60000 + b"\r\n\r\n"

    def behave(connection: WorkerConnection, request: bytes) -> None:
        connection.send(large * count + last)
        connection.worker.over.wait(10)

    with lb_and_workers(behave) as (lb, _), socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(TIMEOUT)
        client.connect(("127.0.0.1", lb.port))
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
        wait_until(lambda: any(each.blocked for each in list(lb.proxy.clients)))
        (downstream,) = lb.proxy.clients
        time.sleep(0.2)
        assert downstream.transport.get_write_buffer_size() <= 65536 + (256 << 10)
        received, heads, tail = 0, 0, b""
        while heads < count or len(tail) < 1 << 20:
            data = client.recv(1 << 18)
            assert data
            received += len(data)
            tail += data
            heads += tail.count(b"x\r\nVia: ")
            tail = tail[-(1 << 20) :] if heads >= count else tail[-7:]
        assert received > count * 60000 + (1 << 20)
