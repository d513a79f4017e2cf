"""Bodies on their way: nothing is held back, and nothing is buffered without limit."""

import hashlib
import socket
import threading
import time

import pytest

from tests.support.lb import TIMEOUT, WorkerConnection, lb_and_workers, raw, response
from tests.support.waiting import wait_until

GET = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"


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
