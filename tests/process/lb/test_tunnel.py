"""Tunnels: they are no requests, they pass on how a side ended, and they have a grace of their own in a drain."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lb.interface import messages
from lb.interface.settings import DRAINING, UpstreamSpec
from tests.support.lb import Balancer, Client, WorkerConnection, lb_and_workers, response
from tests.support.waiting import PATIENCE, wait_until

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
UPGRADE = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: %b\r\nUpgrade: websocket\r\n\r\n"
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nConnection: %b\r\nUpgrade: websocket\r\n\r\n"


def switching(connection: WorkerConnection, request: bytes) -> None:
    """Takes upgrades, answers everything else."""
    if b" /ws " not in request:
        connection.send(response(b"ok"))
        return
    connection.send(SWITCHING % b"Upgrade")
    connection.worker.over.wait(10)


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    sock.close()


def opened(lb: Balancer, option: bytes = b"Upgrade") -> tuple[Client, bytes]:
    """A client behind a 101, and the 101."""
    client = lb.connect()
    client.send(UPGRADE % option)
    head = b""
    while b"\r\n\r\n" not in head:
        head += client.receive(1)
    assert head.startswith(b"HTTP/1.1 101 ")
    return client, head


@contextlib.contextmanager
def tunnel(**settings: Any) -> Any:
    with lb_and_workers(switching, **settings) as (lb, (worker,)):
        client, _ = opened(lb)
        with client:
            yield lb, client, worker.connections[-1]


def test_tunnels_do_not_count_as_requests_in_flight() -> None:
    with lb_and_workers(switching, max_in_flight=2, queue_timeout=2.0) as (lb, _):
        clients = [opened(lb)[0] for _ in range(5)]
        assert lb.count("in_flight") == 0
        assert (lb.count("tunnels"), lb.upstream("worker-0").in_flight) == (5, 0)
        assert lb.ask(GET).body == b"ok"
        for client in clients:
            reset(client.sock)
        wait_until(lambda: lb.count("tunnels") == 0)
        wait_until(lambda: lb.count("connections") == 0)
        assert lb.upstream("worker-0").tunnels == 0
        assert [lb.ask(GET).status for _ in range(3)] == [200] * 3


def test_an_upgraded_request_frees_its_place_at_the_worker() -> None:
    is_queued = threading.Event()

    def slow(connection: WorkerConnection, request: bytes) -> None:
        if b" /ws " in request:
            assert is_queued.wait(60)
        switching(connection, request)

    with lb_and_workers(slow, max_in_flight=1, queue_timeout=60.0) as (lb, _), lb.connect() as one, lb.connect() as two:
        one.send(UPGRADE % b"Upgrade")
        wait_until(lambda: lb.count("in_flight") == 1)
        two.send(GET)
        wait_until(lambda: lb.count("queued") == 1)
        is_queued.set()
        assert two.answer().status == 200
        assert lb.count("tunnels") == 1


def test_a_tunnels_duration_is_no_response_time(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    began = time.monotonic()
    with tunnel(access_log=str(path)) as (lb, client, _):
        opening = time.monotonic() - began
        time.sleep(0.5)
        reset(client.sock)
        wait_until(lambda: lb.count("tunnels") == 0)
        assert lb.count("latency_us") <= opening * 1e6
        assert lb.count("responses_1xx") == 1
        wait_until(lambda: path.exists() and path.read_text().endswith("\n"))
        (record,) = [json.loads(line) for line in path.read_text().splitlines()]
        assert (record["status"], record["worker"]) == (101, "worker-0")
        assert record["total_ms"] <= opening * 1000


@pytest.mark.parametrize("option", [b"Upgrade", b"upgrade", b"UPGRADE"])
def test_the_case_of_the_upgrade_option_is_kept(option: bytes) -> None:
    def behave(connection: WorkerConnection, request: bytes) -> None:
        connection.send(SWITCHING % option)
        connection.worker.over.wait(10)

    with lb_and_workers(behave) as (lb, (worker,)):
        client, head = opened(lb, b"keep-alive, " + option)
        with client:
            assert b"\r\nConnection: " + option + b"\r\n" in head
            assert b"\r\nConnection: " + option + b"\r\n" in worker.requests[0]


def breaks(sock: socket.socket) -> bool:
    try:
        sock.send(b"x")
    except (ConnectionResetError, BrokenPipeError):
        return True
    return False


def sides(client: Client, worker: WorkerConnection, breaking: str) -> tuple[socket.socket, socket.socket]:
    return (client.sock, worker.sock) if breaking == "client" else (worker.sock, client.sock)


@pytest.mark.parametrize("breaking", ["client", "worker"])
def test_a_tunnel_relays_resets(breaking: str) -> None:
    with tunnel() as (lb, client, worker):
        here, there = sides(client, worker, breaking)
        there.settimeout(10 * PATIENCE)
        here.sendall(b"last words")
        assert there.recv(100) == b"last words"
        reset(here)
        with pytest.raises(ConnectionResetError):
            there.recv(100)
        wait_until(lambda: lb.count("tunnels") == 0)


@pytest.mark.parametrize("breaking", ["client", "worker"])
def test_a_tunnel_relays_half_closes(breaking: str) -> None:
    with tunnel() as (_, client, worker):
        here, there = sides(client, worker, breaking)
        there.settimeout(10 * PATIENCE)
        here.shutdown(socket.SHUT_WR)
        assert there.recv(100) == b""
        there.sendall(b"still there")
        there.shutdown(socket.SHUT_WR)
        here.settimeout(10 * PATIENCE)
        assert here.recv(100) == b"still there"
        assert here.recv(100) == b""


@pytest.mark.parametrize("breaking", ["client", "worker"])
@pytest.mark.parametrize("flood", [0, 3_000_000])
def test_a_tunnel_delivers_data_sent_before_a_failure(breaking: str, flood: int) -> None:
    """As the close frame 1009 of a WebSocket whose message was too large: sent, and closed over what was not read."""
    for _ in range(5):
        with tunnel() as (lb, client, worker):
            here, there = sides(client, worker, breaking)
            there.settimeout(10 * PATIENCE)
            there.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                there.send(b"x" * flood)
            time.sleep(0.05)
            here.sendall(b"close frame")
            here.close()  # With unread data: the kernel sends a RST.
            there.setblocking(True)
            there.settimeout(10 * PATIENCE)
            received = b""
            with contextlib.suppress(ConnectionError):
                for _ in range(200):
                    with contextlib.suppress(ConnectionError):  # What came before its end can still be read.
                        there.send(b"y")
                    piece = there.recv(100)
                    received += piece
                    if not piece or received == b"close frame":
                        break
            assert received == b"close frame"
            wait_until(lambda: lb.count("tunnels") == 0)


@pytest.mark.parametrize("breaking", ["client", "worker"])
def test_a_reset_after_a_half_close_is_noticed(breaking: str) -> None:
    with tunnel() as (lb, client, worker):
        here, there = sides(client, worker, breaking)
        there.settimeout(10 * PATIENCE)
        here.shutdown(socket.SHUT_WR)
        assert there.recv(1) == b""
        reset(here)
        wait_until(lambda: breaks(there))
        wait_until(lambda: lb.count("tunnels") == 0)


def test_a_tunnel_delivers_large_data_before_a_reset() -> None:
    """The reset waits until the reader, a slow one, has what was written to it."""
    with tunnel() as (_, client, worker):
        size = 2_000_000
        worker.send(b"z" * size)
        time.sleep(0.1)
        received = 0
        client.sock.settimeout(10 * PATIENCE)
        while received < size:
            received += len(client.receive(1 << 16))
            time.sleep(0.001)
        worker.reset()
        with pytest.raises(ConnectionResetError):
            client.sock.recv(1)


def lived(drain: Callable[[Balancer], None], **settings: Any) -> tuple[float, bool]:
    """For how long a tunnel lived on when drained so, and whether it ended by a reset."""
    with tunnel(**settings) as (lb, client, _):
        begun = time.monotonic()
        drain(lb)
        client.sock.settimeout(15 * PATIENCE)
        try:
            broken = client.sock.recv(1) != b""
        except ConnectionResetError:
            broken = True
        return time.monotonic() - begun, broken


@pytest.mark.parametrize(("shutdown", "grace", "least"), [(0.2, 1.5, 1.5), (5.0, 0.5, 0.5), (5.0, 0.0, 0.0)])
def test_a_tunnel_lives_for_tunnel_grace_when_its_lb_drains(shutdown: float, grace: float, least: float) -> None:
    took, broken = lived(lambda lb: lb.call(lb.server._drain, 10.0), shutdown_grace=shutdown, tunnel_grace=grace)
    assert least - 0.1 <= took < least + 1.0 * PATIENCE
    assert broken


def test_tunnel_grace_does_not_extend_requests() -> None:
    def hang(connection: WorkerConnection, request: bytes) -> None:
        if b" /ws " not in request:
            connection.worker.over.wait(10)
        switching(connection, request)

    with lb_and_workers(hang, shutdown_grace=0.1, tunnel_grace=60.0) as (lb, _), lb.connect() as asking:
        client, _ = opened(lb)
        with client:
            asking.send(GET)
            wait_until(lambda: lb.count("in_flight") == 1)
            begun = time.monotonic()
            lb.call(lb.server._drain, 60.0)
            assert asking.closed()
            assert 0.9 < time.monotonic() - begun < 5.0 * PATIENCE
            client.sock.settimeout(0.2)
            with pytest.raises(TimeoutError):
                client.sock.recv(1)


def test_draining_gives_tunnels_and_requests_their_own_grace() -> None:
    def hang(connection: WorkerConnection, request: bytes) -> None:
        if b" /ws " not in request:
            connection.worker.over.wait(10)
        switching(connection, request)

    ours, theirs = socket.socketpair()
    with theirs, lb_and_workers(hang, shutdown_grace=0.1, tunnel_grace=6.0) as (lb, (worker,)), lb.connect() as asking:
        client, _ = opened(lb)
        with client:
            asking.send(GET)
            wait_until(lambda: lb.count("in_flight") == 1)
            lb.call(lb.server._hub.add, ours)
            decoder = messages.Decoder()
            spec = UpstreamSpec("worker-0", "127.0.0.1", worker.port, DRAINING)
            theirs.sendall(messages.encode(messages.upstreams([spec])))

            def busy() -> int:
                theirs.sendall(messages.encode(messages.ping(7)))
                while True:
                    for message in decoder.feed(theirs.recv(65536)):
                        if message["type"] == "pong":
                            return int(message.get("busy", {}).get("worker-0", 0))

            begun = time.monotonic()
            assert busy() == 2
            wait_until(lambda: busy() == 1)
            assert time.monotonic() - begun > 0.9
            wait_until(lambda: busy() == 0)
            assert 5.8 < time.monotonic() - begun < 9.0 * PATIENCE
