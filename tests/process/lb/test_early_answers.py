"""What a worker sent before its connection broke reaches the client: answers to uploads that it did not read, and the
last frames of a tunnel. A worker that closes with input unread resets the connection behind its answer.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h11
import pytest

from lb.proxy.upstream_connection import MAX_INTERIMS
from tests.process.lb.test_injector import order
from tests.support.lb import Client, Worker, WorkerConnection, lb_and_workers, response
from tests.support.waiting import PATIENCE, wait_until

ROUNDS = 6
PIECE = 65536
BODY = b"no" * 50
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class Early(Worker):
    """Reads a request's head and no more, answers with `answer`, and closes; `before` runs between head and answer."""

    def __init__(self, answer: bytes, before: Callable[[], Any] = lambda: None, name: str = "worker-0") -> None:
        self.answer = answer
        self.before = before
        super().__init__(name)

    def _serve(self, connection: WorkerConnection) -> None:
        with contextlib.suppress(OSError, EOFError), connection.sock:
            head = connection.read_head()
            if b"comet-health" in head:
                connection.send(response(b""))
                return
            self.requests.append(head)
            self.before()
            if self.answer:
                connection.send(self.answer)


def upload(client: Client, size: int, framing: str, fields: bytes = b"", keep_sending: bool = True) -> Any:
    """Send a POST as most clients do: all of it, unless the connection breaks, then read the answer."""
    chunked = framing == "chunked"
    announced = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % size

    def send() -> None:
        with contextlib.suppress(OSError):
            client.send(b"POST /up HTTP/1.1\r\nHost: a\r\n" + fields + announced + b"\r\n\r\n")
            piece = b"%x\r\n" % PIECE + bytes(PIECE) + b"\r\n" if chunked else bytes(PIECE)
            for _ in range(size // PIECE if keep_sending else 2):
                client.send(piece)
            rest = size % PIECE
            if keep_sending:
                client.send(
                    (b"%x\r\n" % rest + bytes(rest) + b"\r\n" if rest else b"") + b"0\r\n\r\n"
                    if chunked
                    else bytes(rest)
                )

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    try:
        return client.answer("POST")
    finally:
        sender.join(10)


def answer(status: str, framing: str, close: bool) -> bytes:
    fields = b"HTTP/1.1 %s\r\n" % status.encode() + (b"Connection: close\r\n" if close else b"")
    if framing == "length":
        return fields + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    if framing == "chunked":
        return fields + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(BODY) + BODY + b"\r\n0\r\n\r\n"
    return fields + b"Content-Length: 0\r\n\r\n"


@pytest.mark.parametrize("size", [100_000, 2_000_000, 5_000_000, 50_000_000])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_an_early_answer_arrives_whatever_the_upload_size(size: int, framing: str) -> None:
    worker = Early(answer("413 Content Too Large", "length", close=True))
    with lb_and_workers(worker) as (lb, _):
        for _ in range(2 if size > 10_000_000 else ROUNDS):
            with lb.connect() as client:
                found = upload(client, size, framing)
            assert (found.status, found.body) == (413, BODY)
        assert not lb.upstream("worker-0").suspect
        assert lb.count("upstream_errors") == 0
        wait_until(lambda: lb.upstream("worker-0").in_flight == 0)


@pytest.mark.parametrize(
    "status", ["200 OK", "302 Found", "400 Bad Request", "401 Unauthorized", "413 Content Too Large"]
)
@pytest.mark.parametrize("framing", ["length", "chunked", "none"])
@pytest.mark.parametrize("close", [True, False])
def test_an_early_answer_of_any_kind_reaches_the_client(status: str, framing: str, close: bool) -> None:
    with lb_and_workers(Early(answer(status, framing, close))) as (lb, _):
        for _ in range(ROUNDS):
            with lb.connect() as client:
                found = upload(client, 2_000_000, "length")
            assert (found.status, found.body) == (int(status[:3]), b"" if framing == "none" else BODY)
            # An upload that finds the connection before its end is known is lost: nobody may send it twice.
            wait_until(lambda: not lb.upstream("worker-0").connections, what="the end of the worker's connection")
        assert not lb.upstream("worker-0").suspect


@pytest.mark.parametrize("delay", [0.0, 0.002, 0.02, 0.2])
def test_a_response_is_read_despite_a_failed_upload(delay: float) -> None:
    with lb_and_workers(Early(answer("401 Unauthorized", "length", close=True), before=lambda: time.sleep(delay))) as (
        lb,
        _,
    ):
        for _ in range(ROUNDS):
            with lb.connect() as client:
                assert upload(client, 2_000_000, "chunked").status == 401


def test_a_client_that_waits_for_100_gets_the_final_answer() -> None:
    with (
        lb_and_workers(Early(answer("417 Expectation Failed", "length", close=True))) as (lb, _),
        lb.connect() as client,
    ):
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5000000\r\n\r\n")
        assert client.answer("POST").status == 417


def test_a_client_that_stops_sending_gets_the_answer_too() -> None:
    with lb_and_workers(Early(answer("413 Content Too Large", "length", close=True))) as (lb, _):
        for _ in range(ROUNDS):
            with lb.connect() as client:
                found = upload(client, 5_000_000, "length", keep_sending=False)
                assert (found.status, found["Connection"]) == (413, "close")


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 413 Cont"])
def test_a_worker_that_dies_during_an_upload_is_502(sent: bytes) -> None:
    with lb_and_workers(Early(sent)) as (lb, _):
        with lb.connect() as client:
            assert upload(client, 5_000_000, "length").status == 502
        assert lb.count("upstream_errors") == 1


def test_a_truncated_early_response_is_not_complete() -> None:
    cut = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 1000\r\n\r\n" + BODY
    with (
        lb_and_workers(Early(cut)) as (lb, _),
        lb.connect() as client,
        pytest.raises((h11.RemoteProtocolError, ConnectionResetError)),
    ):
        upload(client, 5_000_000, "length")


def test_a_connection_broken_after_its_answer_is_not_reused() -> None:
    """The answer would let it be used again; its queue must not be served by it."""
    early = Early(answer("200 OK", "length", close=False))
    with lb_and_workers(early, max_in_flight=1, queue_timeout=120.0) as (lb, _):
        with contextlib.ExitStack() as stack:
            found: list[int] = []

            def one(number: int) -> None:
                with lb.connect() as client:
                    found.append((client.ask(GET) if number % 3 else upload(client, 2_000_000, "length")).status)

            threads = [threading.Thread(target=one, args=(number,)) for number in range(12)]
            for thread in threads:
                thread.start()
                stack.callback(thread.join, 60 * PATIENCE)
        # An upload that came upon such a connection may be lost; nobody can know what the worker made of it.
        assert found.count(200) >= 8 + 1
        assert found.count(200) + found.count(502) == 12
        assert lb.count("upstream_errors") == found.count(502)
        wait_until(lambda: not lb.upstream("worker-0").connections)


# On which connections more may come.


LATE_BODY = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled"
DATED = b"Date: Mon, 23 Nov 2026 10:00:00 GMT\r\n"


@pytest.mark.parametrize(
    ("method", "head"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n" % len(LATE_BODY)),
        (b"HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"),
        (b"HEAD", b"HTTP/1.1 503 Service Unavailable\r\nX-Comet-Full: 1\r\nContent-Length: %d\r\n" % len(LATE_BODY)),
        (b"HEAD", b"HTTP/1.1 304 Not Modified\r\nContent-Length: %d\r\n" % len(LATE_BODY)),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: %d\r\n" % len(LATE_BODY)),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n"),
        (b"GET", b"HTTP/1.1 204 No Content\r\nContent-Length: %d\r\n" % len(LATE_BODY)),
        (b"GET", b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n"),
        (
            b"GET",
            b"HTTP/1.1 103 Early Hints\r\nContent-Length: 74\r\n\r\nHTTP/1.1 200 OK\r\n"
            + DATED
            + b"Content-Length: 0\r\n",
        ),
        (b"POST", b"HTTP/1.1 204 No Content\r\nContent-Length: %d\r\n" % len(LATE_BODY)),
    ],
)
def test_a_late_body_is_not_the_next_requests_response(method: bytes, head: bytes) -> None:
    late: list[threading.Timer] = []

    def behave(connection: WorkerConnection, request: bytes) -> None:
        if request.startswith(method + b" /first"):
            connection.send(head + DATED + b"\r\n")

            def smuggle() -> None:
                with contextlib.suppress(OSError):
                    connection.send(LATE_BODY)

            late.append(threading.Timer(0.03, smuggle))
            late[-1].start()
        else:
            time.sleep(0.05)
            connection.send(response(b"right"))

    workers = (
        [Worker("worker-0", behave), Worker("worker-1", behave)] if b"Full" in head else [Worker("worker-0", behave)]
    )
    with lb_and_workers(*workers) as (lb, _):
        for _ in range(4):
            with lb.connect() as client, lb.connect() as other:
                client.ask(method + b" /first HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
                assert other.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").body == b"right"
        for timer in late:
            timer.join()


def test_connections_without_pending_data_are_reused() -> None:
    def behave(connection: WorkerConnection, request: bytes) -> None:
        status = {b"/empty": "200 OK", b"/204": "204 No Content", b"/304": "304 Not Modified"}[request.split(b" ")[1]]
        length = b"Content-Length: 0\r\n" if status[:3] == "200" else b""
        connection.send(b"HTTP/1.1 %s\r\n%s%s\r\n" % (status.encode(), DATED, length))

    with lb_and_workers(behave) as (lb, (worker,)), lb.connect() as client:
        for line in (b"HEAD /empty", b"GET /204", b"HEAD /204", b"GET /304", b"HEAD /304", b"GET /empty"):
            client.ask(line + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        assert len(worker.connections) == 1


# Interim responses.


@pytest.mark.parametrize("minor", [0, 1])
def test_endless_interim_responses_end_with_502(minor: int) -> None:
    def hints(connection: WorkerConnection, request: bytes) -> None:
        while True:
            connection.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 100)

    with lb_and_workers(hints, request_timeout=60.0) as (lb, _), lb.connect() as client:
        found = client.ask(b"GET / HTTP/1.%d\r\nHost: a\r\n\r\n" % minor)
        assert found.status == 502
        assert len(found.interim) == (MAX_INTERIMS if minor else 0)


def test_the_limit_of_interim_responses_is_per_request() -> None:
    def hints(connection: WorkerConnection, request: bytes) -> None:
        connection.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 1000 + response())

    with lb_and_workers(hints) as (lb, _), lb.connect() as client:
        for line in (b"GET / HTTP/1.1", b"GET / HTTP/1.1", b"POST / HTTP/1.1"):
            found = client.ask(line + b"\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
            assert (found.status, len(found.interim)) == (200, 1000)


def test_interim_responses_to_a_slow_reader_delay_no_other() -> None:
    field = b"X-Large: " + b"x" * 60000

    def hints(connection: WorkerConnection, request: bytes) -> None:
        if request.startswith(b"GET /hints"):
            with contextlib.suppress(OSError):
                for _ in range(300):
                    connection.send(b"HTTP/1.1 103 Early Hints\r\n" + field + b"\r\n\r\n")
        connection.send(response(b"end"))

    with lb_and_workers(hints, request_timeout=60.0) as (lb, _):
        small = [socket.socket() for _ in range(3)]
        for sock in small:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", lb.port))
            sock.sendall(b"GET /hints HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_until(lambda: sum(each.blocked for each in list(lb.proxy.clients)) == 3, what="clients that do not read")
        slowest = 0.0
        for _ in range(20):
            began = time.monotonic()
            assert lb.ask().body == b"end"
            slowest = max(slowest, time.monotonic() - began)
        assert slowest < 1.0 * PATIENCE
        unsent = [each.transport.get_write_buffer_size() for each in list(lb.proxy.clients) if each.blocked]
        assert max(unsent) < 200_000
        for sock in small:
            with Client.of(sock) as client:
                seen = b""
                while not seen.endswith(b"end"):
                    seen = seen[-3:] + client.receive()


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_an_early_answer_passes_the_fault_injector(framing: str, tmp_path: Path) -> None:
    order(tmp_path, **{"avg-delay": 1})
    with lb_and_workers(Early(answer("413 Content Too Large", "length", close=True)), faults=str(tmp_path)) as (lb, _):
        wait_until(lambda: lb.upstream("worker-0").dial_address is not None)
        for _ in range(4 * ROUNDS):
            with lb.connect() as client:
                found = upload(client, 5_000_000, framing)
            assert (found.status, found.body) == (413, BODY)
        assert lb.count("upstream_errors") == 0
