"""What clients and scripted workers get of each other, and what is counted, over real sockets."""

import socket
import threading
import time

from tests.support.lb import TIMEOUT, WorkerConnection, lb_and_workers, raw, response
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
