"""The real protocols over real sockets: what clients get, and what scripted workers see."""

import contextlib
import hashlib
import socket
import threading
import time

import h11
import pytest

from tests.support.lb import TIMEOUT, Client, WorkerConnection, lb_and_workers, raw, response
from tests.support.waiting import wait_until

GET = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello"


def test_round_robin_is_exact_and_begins_with_worker_0() -> None:
    with lb_and_workers(count=3) as (lb, workers), lb.connect() as client:
        assert [client.ask(GET).body.decode()[-1] for _ in range(12)] == list("012012012012")
        assert [len(worker.requests) for worker in workers] == [4, 4, 4]
        assert [len(worker.connections) for worker in workers] == [1, 1, 1]  # F17: kept alive


def test_forwarding_fields_both_ways() -> None:
    """docs/http.md, header fields."""
    with lb_and_workers(count=1, name="lb-7") as (lb, (worker,)):
        answer = lb.ask(
            b"GET /p?q HTTP/1.1\r\nHost: a.example\r\nX-Forwarded-For: 9.9.9.9\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\n"
        )
        assert worker.requests == [
            b"GET /p?q HTTP/1.1\r\nHost: a.example\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a.example\r\n"
            b"Via: 1.1 comet\r\nX-Forwarded-For: 9.9.9.9, 127.0.0.1\r\n\r\n"
        ]
        assert (answer["Via"], answer["X-Comet-Worker"], answer["X-Comet-LB"]) == ("1.1 comet", "worker-0", "lb-7")
        assert answer["Date"]


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


def websocket(client: Client) -> None:
    client.send(b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly")
    head = b""
    while b"\r\n\r\n" not in head:
        head += client.receive(1000)
    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"Connection: Upgrade\r\nUpgrade: websocket\r\n" in head
    client.buffer = head.partition(b"\r\n\r\n")[2]


def test_tunnels_both_ways_with_half_close() -> None:
    """RFC 9110 section 7.8."""

    def echo(connection: WorkerConnection, request: bytes) -> None:
        connection.send(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nwelcome "
        )
        connection.send(connection.buffer)
        try:
            while True:
                connection.send(connection.receive())
        except EOFError:
            connection.send(b" bye")
            connection.sock.shutdown(socket.SHUT_WR)

    with lb_and_workers(echo) as (lb, _), lb.connect() as client:
        websocket(client)
        client.send(b" middle")
        client.sock.shutdown(socket.SHUT_WR)
        assert client.read_to_end() == b"welcome early middle bye"
        wait_until(lambda: lb.count("tunnels") == 0)
        wait_until(lambda: lb.count("connections") == 0)
        assert lb.count("responses_1xx") == 1


def test_a_tunnel_ends_when_a_side_is_lost_or_nothing_moves() -> None:
    def accept(connection: WorkerConnection, request: bytes) -> None:
        connection.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        connection.receive()

    with lb_and_workers(accept, tunnel_timeout=0.3) as (lb, _):
        with lb.connect() as client:
            websocket(client)
        wait_until(lambda: lb.count("tunnels") == 0)
        with lb.connect() as client:
            websocket(client)
            assert client.closed()
        wait_until(lambda: lb.count("tunnels") == 0)


def test_an_upgrade_may_be_declined() -> None:
    with lb_and_workers(count=1) as (lb, _), lb.connect() as client:
        assert (
            client.ask(b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").body
            == b"worker-0"
        )
        assert client.ask(GET).status == 200


def test_server_sent_events_are_not_buffered() -> None:
    seen = [threading.Event(), threading.Event()]
    in_time: list[bool] = []

    def events(connection: WorkerConnection, request: bytes) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        for number, each in enumerate(seen):
            connection.send(b"data: %d\n\n" % number)
            in_time.append(each.wait(TIMEOUT))  # The next one is not sent before the client has this one.

    with lb_and_workers(events) as (lb, _), lb.connect() as client:
        client.send(GET)
        received = b""
        for number, each in enumerate(seen):
            while b"data: %d" % number not in received:
                received += client.receive(1000)
            each.set()
        wait_until(lambda: len(in_time) == len(seen))
        assert all(in_time)


def test_a_response_begun_before_the_request_ended() -> None:
    """RFC 9112 section 9.6: the connection ends with it, as the request was not read to its end."""
    with lb_and_workers(raw) as (lb, (worker,)), lb.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nhello")
        connection = wait_until(lambda: worker.connections)[0]
        connection.send(response(b"enough", "413 Content Too Large"))
        answer = client.answer("POST")
        assert (answer.status, answer["Connection"]) == (413, "close")
        assert client.closed()
        connection.read_to_end()


def test_request_and_response_bodies_stream_concurrently() -> None:
    """A worker that answers as it reads: neither side waits for the other to end."""

    def mirror(connection: WorkerConnection, request: bytes) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + connection.buffer)
        left = 100000 - len(connection.buffer)
        while left:
            data = connection.receive()
            connection.send(data)
            left -= len(data)

    with lb_and_workers(raw) as (lb, (worker,)), lb.connect() as client:
        worker.behave_after_head(mirror)
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
        sent = b"".join(b"%05d" % n for n in range(20000))
        sender = threading.Thread(target=client.send, args=(sent,), daemon=True)
        sender.start()
        assert client.answer("POST").body == sent


@pytest.mark.parametrize("size", [1 << 20, 20 << 20])
def test_large_bodies_arrive_unharmed_both_ways(size: int) -> None:
    def digest(connection: WorkerConnection, request: bytes) -> None:
        body = request.partition(b"\r\n\r\n")[2]
        connection.send(response(hashlib.sha256(body).hexdigest().encode() + body))

    blob = bytes(range(256)) * (size // 256)
    with lb_and_workers(digest) as (lb, _), lb.connect() as client:
        sender = threading.Thread(
            target=client.send,
            args=(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size + blob,),
            daemon=True,
        )
        sender.start()
        answer = client.answer("PUT")
        assert answer.body == hashlib.sha256(blob).hexdigest().encode() + blob


def buffered(lb: object, client_side: bool) -> int:
    """Bytes that the LB holds in its write buffers for one side."""
    proxy = lb.proxy  # type: ignore[attr-defined]
    if client_side:
        return sum(each.transport.get_write_buffer_size() + len(each.buffer) for each in list(proxy.clients))
    return sum(
        each.transport.get_write_buffer_size() for upstream in proxy.pool.order for each in list(upstream.connections)
    )


BOUND = 1 << 20


def test_a_slow_client_applies_backpressure() -> None:
    """Bound: the high-water mark and one read, under 1 MiB per exchange."""
    total = 64 << 20
    sent = []

    def pour(connection: WorkerConnection, request: bytes) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        for _ in range(total >> 16):
            connection.send(bytes(65536))
            sent.append(65536)

    with lb_and_workers(pour) as (lb, _), lb.connect() as client:
        client.send(GET)
        wait_until(lambda: lb.count("bytes_out") > 0)
        previous = -1
        while previous != len(sent):  # until nothing moves any more
            previous = len(sent)
            time.sleep(0.2)
        assert sum(sent) < total
        assert buffered(lb, client_side=True) < BOUND
        assert len(client.answer().body) == total


def test_a_slow_worker_applies_backpressure() -> None:
    total = 64 << 20
    go = threading.Event()
    sent = []

    def lazy(connection: WorkerConnection, request: bytes) -> None:
        assert go.wait(60)
        left = total - len(connection.buffer)
        while left:
            left -= len(connection.receive())
        connection.send(response(b"all"))

    with lb_and_workers(raw) as (lb, (worker,)), lb.connect() as client:
        worker.behave_after_head(lazy)

        def pour() -> None:
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % total)
            for _ in range(total >> 16):
                client.send(bytes(65536))
                sent.append(65536)

        threading.Thread(target=pour, daemon=True).start()
        wait_until(lambda: worker.requests)
        previous = -1
        while previous != len(sent):
            previous = len(sent)
            time.sleep(0.2)
        assert sum(sent) < total
        assert buffered(lb, client_side=False) < BOUND
        go.set()
        assert client.answer("POST").body == b"all"


def test_a_client_that_goes_away_aborts_its_upstream_exchange() -> None:
    gone = threading.Event()

    def wait(connection: WorkerConnection, request: bytes) -> None:
        try:
            connection.receive()
        except (EOFError, OSError):
            gone.set()

    with lb_and_workers(wait, half_close_grace=0.1) as (lb, _):
        with lb.connect() as client:
            client.send(GET)
            wait_until(lambda: lb.count("in_flight") == 1)
        assert gone.wait(TIMEOUT)
        wait_until(lambda: lb.count("in_flight") == 0)
        assert lb.count("aborted") == 1
        assert lb.upstream("worker-0").in_flight == 0


def test_a_client_that_half_closed_still_gets_its_answer() -> None:
    def slow(connection: WorkerConnection, request: bytes) -> None:
        time.sleep(0.1)
        connection.send(response())

    with lb_and_workers(slow) as (lb, _), lb.connect() as client:
        client.send(GET * 2)
        client.sock.shutdown(socket.SHUT_WR)
        assert [client.answer().status for _ in range(2)] == [200, 200]
        assert client.closed()


def test_an_incomplete_request_before_the_end_is_dropped() -> None:
    with lb_and_workers(count=1) as (lb, (worker,)), lb.connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n")
        client.sock.shutdown(socket.SHUT_WR)
        assert client.closed()
        assert worker.requests == []


def test_a_request_body_cut_short_never_counts() -> None:
    with lb_and_workers(raw) as (lb, (worker,)):
        with lb.connect() as client:
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello")
            wait_until(lambda: worker.requests)
        wait_until(lambda: lb.count("in_flight") == 0)
        assert (lb.count("aborted"), lb.count("responses_2xx"), lb.count("own_errors")) == (1, 0, 0)


def test_counters_count_every_outcome() -> None:
    with lb_and_workers(count=2) as (lb, _), lb.connect() as client:
        for _ in range(4):
            client.ask(GET)
        client.ask(POST)
        lb.settle()
        seen = lb.counters.as_dict()
        assert (
            seen["requests"],
            seen["responses_2xx"],
            seen["own_errors"],
            seen["in_flight"],
            seen["connections"],
        ) == (5, 5, 0, 0, 1)
        assert sum(value for name, value in seen.items() if name.startswith("latency_") and name != "latency_us") == 5
        assert seen["bytes_in"] == 4 * len(GET) + len(POST)
        assert seen["bytes_out"] > 5 * 100


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


@pytest.mark.parametrize("half_close", [False, True])
def test_a_pipelining_client_that_does_not_read_is_throttled(half_close: bool) -> None:
    """Neither what it sends ahead nor what it does not take is piled up; nothing is lost."""
    blob = bytes(30000)
    count = 1000
    with lb_and_workers(lambda connection, _: connection.send(response(blob))) as (lb, _), lb.connect() as client:
        requests = b"GET / HTTP/1.1\r\nHost: a\r\nX-Pad: %s\r\n\r\n" % (b"p" * 100) * count

        def send() -> None:
            client.send(requests)
            if half_close:
                client.sock.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        wait_until(lambda: any(each.blocked for each in list(lb.proxy.clients)))
        downstream = next(iter(lb.proxy.clients))
        assert len(downstream.buffer) <= 65536 + (256 << 10)
        assert downstream.transport.get_write_buffer_size() <= 65536 + (256 << 10)
        received = 0
        total = count * (len(blob) + 1)
        while received < total and (data := client.sock.recv(1 << 18)):
            received += len(data)
        assert received >= total
        sender.join(TIMEOUT)


def test_a_tunnel_applies_backpressure() -> None:
    size = 16 << 20

    def pour(connection: WorkerConnection, request: bytes) -> None:
        connection.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        connection.send(bytes(size))
        connection.worker.over.wait(10)

    with lb_and_workers(pour) as (lb, _), lb.connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.receive(1000)
        downstream = next(iter(lb.proxy.clients))
        wait_until(lambda: downstream.transport.get_write_buffer_size() > 0)
        time.sleep(0.1)
        assert downstream.transport.get_write_buffer_size() <= 65536 + (256 << 10)
        received = len(head.partition(b"\r\n\r\n")[2])
        while received < size:
            received += len(client.receive(1 << 18))
        assert received == size
