"""Clients and workers that are slow, and connections that nobody uses."""

import contextlib
import time

import pytest

from lb.interface.settings import Settings, UpstreamSpec
from tests.support.lb import Balancer, WorkerConnection, lb_and_workers, raw, response
from tests.support.lb_behaviours import GET, deaf_port, hang
from tests.support.waiting import PATIENCE, wait_until


def test_the_request_timeout_is_504() -> None:
    """RFC 9110 section 15.6.5; the timeout covers all attempts and is not repeated."""
    with lb_and_workers(hang, hang, request_timeout=1.0) as (lb, workers):
        started = time.monotonic()
        assert lb.ask().status == 504
        assert time.monotonic() - started < 3 * PATIENCE
        wait_until(lambda: any(worker.requests for worker in workers))
        assert sum(len(worker.requests) for worker in workers) == 1
        assert lb.count("in_flight") == 0


def test_slowloris_is_408() -> None:
    """RFC 9110 section 15.5.9: ten seconds in all by default, not between bytes."""
    with lb_and_workers(count=1, head_timeout=0.3) as (lb, _), lb.connect() as client:
        client.send(b"GET / HTTP/1.1\r\n")
        end = time.monotonic() + 5
        with contextlib.suppress(OSError):
            while time.monotonic() < end:
                client.send(b"A: b\r\n")
                time.sleep(0.05)
                client.sock.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    client.buffer += client.sock.recv(1000)
                client.sock.settimeout(10)
                if client.buffer:
                    break
        assert client.answer().status == 408


def test_a_stalled_request_body_is_408() -> None:
    with lb_and_workers(raw, body_timeout=0.3) as (lb, (worker,)), lb.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello")
        assert client.answer("POST").status == 408
        assert client.closed()
        wait_until(lambda: worker.connections)[0].read_to_end()


def test_a_stalled_response_body_is_truncated() -> None:
    def stall(connection: WorkerConnection, request: bytes) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        hang(connection, request)

    with lb_and_workers(stall, body_timeout=0.3) as (lb, _), lb.connect() as client:
        client.send(GET)
        with pytest.raises(ConnectionResetError):
            client.read_to_end()


def test_idle_connections_are_closed_in_silence() -> None:
    with lb_and_workers(count=1, idle_timeout=2.0) as (lb, _), lb.connect() as fresh, lb.connect() as used:
        used.ask(GET)
        assert fresh.read_to_end() == b""
        assert used.read_to_end() == b""


def test_a_client_that_never_reads_is_disconnected() -> None:
    with (
        lb_and_workers(lambda connection, _: connection.send(response(bytes(32 << 20))), body_timeout=0.5) as (lb, _),
        lb.connect() as client,
    ):
        client.send(GET)
        wait_until(lambda: lb.count("requests") == 1)
        assert wait_until(lambda: lb.count("connections") == 0)


def test_a_client_is_not_blamed_for_unreachable_workers() -> None:
    """Its large body is held up by us, not by the client."""
    blob = b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n" + bytes(200000)
    with contextlib.ExitStack() as stack:
        specs = tuple(UpstreamSpec(f"worker-{n}", "127.0.0.1", stack.enter_context(deaf_port())) for n in range(2))
        lb = stack.enter_context(
            contextlib.closing(
                Balancer(specs, Settings(connect_timeout=0.3, request_timeout=0.4, health_interval=60.0))
            )
        )
        answer = lb.ask(blob)
        assert (answer.status, answer.body) == (504, b'{"error": "no worker could be connected in time"}\n')


def test_idle_upstream_connections_close_before_the_worker_does() -> None:
    with lb_and_workers(count=1, upstream_idle_timeout=0.2) as (lb, (worker,)):
        lb.ask()
        wait_until(lambda: not lb.upstream("worker-0").connections)
        assert lb.ask().status == 200
        assert len(worker.connections) == 2
