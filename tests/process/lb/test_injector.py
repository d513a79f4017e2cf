"""One request per connection through the fault injector, whatever fields client and worker send: no request gets past
the faults.
"""

import contextlib
import gc
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lb.faults import injector
from tests.support.lb import Balancer, Worker, WorkerConnection, lb_and_workers, response
from tests.support.waiting import PATIENCE, wait_until

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
UPGRADE = b"GET /up HTTP/1.1\r\nHost: a\r\nConnection: %b\r\nUpgrade: websocket\r\n\r\n"

ANSWERS = [
    response(b"no"),
    response(b"no", "426 Upgrade Required", b"Upgrade: websocket", b"Connection: upgrade"),
    response(b"no", "200 OK", b"Connection: keep-alive"),
    response(b"no", "200 OK", b"Connection: upgrade, keep-alive", b"Keep-Alive: timeout=60"),
    response(b"no", "200 OK", b"connection:keep-alive", b"CONNECTION : Keep-Alive"),
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nno",
    b"HTTP/1.1 200 OK\nConnection: keep-alive\nContent-Length: 2\n\nno",
    b"HTTP/1.1  200 \r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\nConnection: keep-alive\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nConnection: keep-alive\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nConnection: keep-alive\r\n\r\n"
    + response(b"no", "200 OK", b"Connection: keep-alive"),
]


def order(folder: Path, **settings: object) -> None:
    """Write the faults of the worker as the supervisor does: the load balancer never sees half a file."""
    draft = folder / "draft"
    draft.write_text(json.dumps(settings))
    draft.rename(folder / "worker-0.json")


@pytest.fixture
def injecting(tmp_path: Path) -> Iterator[tuple[Balancer, Worker, list[bytes]]]:
    """A load balancer that delays each request a little, its worker, and what that answers to /up."""
    replies = [response(b"no")]

    def answer(connection: WorkerConnection, request: bytes) -> None:
        connection.send(replies[0] if b" /up " in request else response(b"ok"))
        if b" 101 " in replies[0]:
            connection.worker.over.wait(10)

    order(tmp_path, **{"avg-delay": 1})
    with lb_and_workers(answer, faults=str(tmp_path)) as (lb, (worker,)):
        wait_until(lambda: lb.upstream("worker-0").dial_address is not None)
        yield lb, worker, replies


@pytest.mark.parametrize("option", [b"upgrade", b"Upgrade", b"keep-alive, Upgrade", b"Upgrade, x-hop"])
def test_a_declined_upgrade_ends_the_injector_connection(
    injecting: tuple[Balancer, Worker, list[bytes]], option: bytes
) -> None:
    lb, worker, replies = injecting
    for reply in ANSWERS:
        replies[0] = reply
        before = len(worker.requests), len(worker.connections)
        with lb.connect() as client:
            first = client.ask(UPGRADE % option)
            assert first.status == int(reply[9:13]) if b"103" not in reply else 200
            for _ in range(5):
                assert client.ask(GET).body == b"ok"
        assert (len(worker.requests) - before[0], len(worker.connections) - before[1]) == (6, 6), reply


def test_faults_apply_to_requests_after_a_declined_upgrade(tmp_path: Path) -> None:
    order(tmp_path, **{"avg-delay": 1})
    with lb_and_workers(count=1, faults=str(tmp_path)) as (lb, _), lb.connect() as client:
        wait_until(lambda: lb.upstream("worker-0").dial_address is not None)
        assert client.ask(UPGRADE % b"Upgrade").status == 200
        order(tmp_path, failure=100)
        wait_until(lambda: client.ask(GET).status == 500)
        assert {client.ask(GET).status for _ in range(40)} == {500}


def test_connections_older_than_the_faults_are_not_reused(tmp_path: Path) -> None:
    go_on = threading.Event()

    def slow(connection: WorkerConnection, request: bytes) -> None:
        if b"/slow" in request:
            assert go_on.wait(60)
        connection.send(response(b"ok"))

    with lb_and_workers(slow, faults=str(tmp_path)) as (lb, (worker,)), lb.connect() as client, lb.connect() as other:
        client.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        other.send(b"POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
        wait_until(lambda: len(worker.requests) == 2)
        order(tmp_path, failure=100)
        wait_until(lambda: lb.upstream("worker-0").dial_address is not None)
        go_on.set()
        assert (client.answer().status, other.answer("POST").status) == (200, 200)
        assert {client.ask(GET).status for _ in range(10)} == {500}
        assert len(worker.requests) == 2
        (tmp_path / "worker-0.json").unlink()
        wait_until(lambda: lb.upstream("worker-0").dial_address is None)
        assert {client.ask(GET).status for _ in range(3)} == {200}


def test_the_end_closes_a_connection_that_was_just_accepted(tmp_path: Path) -> None:
    order(tmp_path, hang=100)
    with lb_and_workers(count=1, faults=str(tmp_path)) as (lb, _):
        address = wait_until(lambda: lb.upstream("worker-0").dial_address)
        _, injecting = lb.server._fault_injectors._injectors.popitem()

        def accept_and_end() -> None:
            injecting._accept()
            injecting.end()

        with socket.create_connection(address, 30) as peer:
            lb.call(accept_and_end)
            with contextlib.suppress(ConnectionResetError):
                assert peer.recv(1) == b""
        lb.settle()
        gc.collect()  # A socket that is left open says so then.


def test_faults_written_in_the_same_tick_as_a_look_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of a folder advances in ticks: two changes of it may have the same time."""
    monkeypatch.setattr(injector, "TIMESTAMP_TICK", 60.0)
    with lb_and_workers(count=1, faults=str(tmp_path)) as (lb, _):

        def change_after_a_look() -> None:
            (tmp_path / "another").touch()
            lb.server._fault_injectors.update()
            tick = tmp_path.stat().st_mtime_ns
            order(tmp_path, failure=100)
            os.utime(tmp_path, ns=(tick, tick))

        lb.call(change_after_a_look)
        wait_until(lambda: lb.upstream("worker-0").dial_address is not None, what="the fault")
        assert lb.ask().status == 500


def test_an_invalid_response_is_refused_by_the_injector_too(
    injecting: tuple[Balancer, Worker, list[bytes]],
) -> None:
    lb, _, replies = injecting
    for reply in (
        b"SSH-2.0-OpenSSH\r\n",
        b"\x15\x03\x03",
        b"HTTP/1.1 200 OK\r\nno field\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
    ):
        replies[0] = reply
        began = time.monotonic()
        answer = lb.ask(UPGRADE % b"Upgrade")
        assert (answer.status, time.monotonic() - began < 5 * PATIENCE) == (502, True)


def test_a_tunnel_through_the_injector(injecting: tuple[Balancer, Worker, list[bytes]]) -> None:
    lb, worker, replies = injecting
    replies[0] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello"
    with lb.connect() as client:
        client.send(UPGRADE % b"Upgrade")
        received = b""
        while not received.endswith(b"\r\n\r\nhello"):
            received += client.receive()
        assert received.startswith(b"HTTP/1.1 101 ")
        tunnel = worker.connections[-1]
        client.send(b"ping")
        client.sock.shutdown(socket.SHUT_WR)
        tunnel.sock.settimeout(10 * PATIENCE)
        seen = tunnel.buffer
        with contextlib.suppress(EOFError):
            while True:
                seen += tunnel.receive()
        assert seen == b"ping"
        tunnel.send(b"pong")
        assert client.receive() == b"pong"
        tunnel.sock.shutdown(socket.SHUT_WR)
        assert client.closed()
