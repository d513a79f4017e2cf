"""Requests that wait for room: their order, their deadlines, and what ends the wait."""

import contextlib
import threading

import pytest

from lb.interface import messages
from lb.interface.settings import Settings, UpstreamSpec
from tests.support.lb import TIMEOUT, Balancer, Worker, WorkerConnection, lb_and_workers, response
from tests.support.lb_behaviours import GET, POST, close, deaf_port, hang, once, supervised
from tests.support.waiting import wait_until


def test_no_workers_is_503_with_retry_after() -> None:
    with lb_and_workers() as (lb, _):
        answer = lb.ask()
        assert (answer.status, answer["Retry-After"]) == (503, "1")
        assert answer.body == b'{"error": "no worker is available"}\n'


def test_a_full_worker_makes_requests_wait_in_order() -> None:
    go_on = threading.Event()
    with lb_and_workers(once(go_on), max_in_flight=1, queue_timeout=60.0) as (lb, (worker,)):
        clients = [lb.connect() for _ in range(5)]
        for n, client in enumerate(clients):
            client.send(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % n)
            wait_until(lambda n=n: lb.count("requests") == n + 1)
        assert lb.count("queued") == 4
        go_on.set()
        assert [client.answer().status for client in clients] == [200] * 5
        assert [request.split(b" ")[1] for request in worker.requests] == [b"/%d" % n for n in range(5)]
        for client in clients:
            client.sock.close()
        assert lb.count("queued") == 0


def test_a_queued_retry_does_not_block_the_queue() -> None:
    go_on = threading.Event()

    def first(connection: WorkerConnection, request: bytes) -> None:
        if b"/lost" in request:
            wait_until(lambda: lb.count("in_flight") == 2)
            connection.sock.close()
        else:
            connection.send(response(b"free"))

    def second(connection: WorkerConnection, request: bytes) -> None:
        go_on.wait(10)
        connection.send(response(b"busy"))

    with (
        lb_and_workers(first, second, max_in_flight=1) as (lb, (free, _)),
        lb.connect() as lost,
        lb.connect() as busy,
        lb.connect() as other,
    ):
        lost.send(b"GET /lost HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_until(lambda: free.requests)
        busy.send(GET)
        wait_until(lambda: lb.count("queued") == 1)
        other.send(GET)
        assert other.answer().body == b"free"
        assert lb.count("queued") == 1
        go_on.set()
        assert [client.answer().body for client in (busy, lost)] == [b"busy", b"busy"]


def test_a_queued_retry_keeps_the_request_deadline() -> None:
    with lb_and_workers(close, hang, max_in_flight=1, request_timeout=4.0) as (lb, _), lb.connect() as lost:
        lb.upstream("worker-1").in_flight = 1  # As if another one were there.
        lost.send(GET)
        wait_until(lambda: lb.count("queued") == 1)
        (client,) = lb.proxy._queue
        due = client.due
        lb.upstream("worker-1").in_flight = 0
        lb.call(lb.proxy.serve_queue)
        assert lost.answer().status == 504
        assert client.due == due


def test_the_queue_has_a_deadline() -> None:
    with lb_and_workers(hang, max_in_flight=1, queue_timeout=0.2) as (lb, _), lb.connect() as first:
        first.send(GET)
        wait_until(lambda: lb.count("in_flight") == 1)
        answer = lb.ask()
        assert (answer.status, answer["Retry-After"]) == (503, "1")
        assert lb.count("queued") == 0


def test_a_client_that_leaves_the_queue_is_not_served() -> None:
    go_on = threading.Event()
    with lb_and_workers(once(go_on), max_in_flight=1) as (lb, (worker,)), lb.connect() as first:
        first.send(GET)
        wait_until(lambda: lb.count("in_flight") == 1)
        with lb.connect() as second:
            second.send(b"POST /gone HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nab")
            wait_until(lambda: lb.count("queued") == 1)
        wait_until(lambda: lb.count("queued") == 0)
        go_on.set()
        assert first.answer().status == 200
        assert len(worker.requests) == 1


@pytest.mark.parametrize(("rest", "status"), [(b"no size\r\n", 400), (b"a\r\n0123456789\r\n", 413)])
def test_a_body_that_is_refused_in_the_queue_leaves_it(rest: bytes, status: int) -> None:
    go_on = threading.Event()
    with lb_and_workers(once(go_on), max_in_flight=1, max_body=9) as (lb, (worker,)), lb.connect() as first:
        first.send(GET)
        wait_until(lambda: lb.count("in_flight") == 1)
        with lb.connect() as second:
            second.send(b"POST /gone HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
            wait_until(lambda: lb.count("queued") == 1)
            second.send(rest)
            assert second.answer("POST").status == status
        assert (lb.count("queued"), lb.count("in_flight")) == (0, 1)
        go_on.set()
        assert first.answer().status == 200
        assert (lb.ask().status, len(worker.requests), lb.count("in_flight")) == (200, 2, 0)


def test_a_queued_upload_applies_backpressure() -> None:
    go_on = threading.Event()
    with (
        lb_and_workers(once(go_on), max_in_flight=1, queue_timeout=60.0) as (lb, (worker,)),
        lb.connect() as first,
        lb.connect() as second,
    ):
        first.send(GET)
        wait_until(lambda: lb.count("in_flight") == 1)
        blob = b"z" * (4 << 20)
        threading.Thread(
            target=second.send,
            args=(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(blob) + blob,),
            daemon=True,
        ).start()
        wait_until(lambda: any(each.reading_held for each in list(lb.proxy.clients)), what="a body that waits")
        go_on.set()
        assert second.answer("POST").status == 200
        assert worker.requests[1].endswith(blob)


def test_a_retry_waits_for_room_within_the_request_timeout() -> None:
    """It would be sent only to be cut off, and the worker blamed for it."""
    over = threading.Event()

    def half(connection: WorkerConnection, request: bytes) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        over.wait(TIMEOUT)
        connection.send(b"hello")

    with contextlib.ExitStack() as stack:
        good = stack.enter_context(contextlib.closing(Worker("good", half)))
        specs = (
            UpstreamSpec("worker-0", "127.0.0.1", good.port),
            UpstreamSpec("worker-1", "127.0.0.1", stack.enter_context(deaf_port())),
        )
        settings = Settings(connect_timeout=0.5, request_timeout=2.5, health_interval=60.0, max_in_flight=1)
        lb = stack.enter_context(contextlib.closing(Balancer(specs, settings)))
        client = stack.enter_context(lb.connect())
        client.send(GET)
        wait_until(lambda: good.requests)
        answer = lb.ask()
        over.set()
        assert (answer.status, answer.body) == (503, b'{"error": "no worker had room in time"}\n')
        assert client.answer().body == b"hellohello"
        assert len(good.requests) == 1
        assert lb.upstream("worker-0").ready
        assert not lb.upstream("worker-0").suspect


def test_queued_requests_fail_at_once_with_the_last_worker() -> None:
    with (
        supervised(hang, max_in_flight=1) as (lb, workers, specs, supervisor),
        lb.connect() as first,
        lb.connect() as second,
    ):
        first.send(POST)
        wait_until(lambda: workers[0].requests)
        second.send(GET)
        wait_until(lambda: lb.count("queued") == 1)
        supervisor.send(messages.upstreams([UpstreamSpec("worker-0", "127.0.0.1", specs[0].port, "down")]))
        assert second.answer().status == 503
        assert lb.count("queued") == 0
