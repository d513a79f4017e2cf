"""Tunnels that break: whatever one side sent before reaches the other, and a reset on one side is a reset on the
other.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable

import pytest

from lb.proxy.tunnel import Tunnel
from tests.support.lb import Balancer, Client, Worker, WorkerConnection, lb_and_workers, response
from tests.support.waiting import wait_until

ROUNDS = 6
PIECE = 65536
UPGRADE = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


class Closing(Worker):
    """Switches protocols, then says goodbye and closes while the client is still sending."""

    def _serve(self, connection: WorkerConnection) -> None:
        with contextlib.suppress(OSError, EOFError), connection.sock:
            head = connection.read_head()
            if b"comet-health" in head:
                connection.send(response(b""))
                return
            connection.send(SWITCHED)
            connection.receive()
            connection.send(b"1009")


def switched(client: Client) -> None:
    client.send(UPGRADE)
    data = b""
    while b"\r\n\r\n" not in data:
        data += client.receive()
    client.buffer = data.partition(b"\r\n\r\n")[2]


def pour(client: Client, size: int) -> None:
    with contextlib.suppress(OSError):
        for _ in range(size // PIECE):
            client.send(bytes(PIECE))


def read_until_broken(sock: socket.socket) -> tuple[bytes, bool]:
    """What came, and whether the end was a reset."""
    seen = b""
    try:
        while data := sock.recv(65536):
            seen += data
    except ConnectionResetError:
        return seen, True
    return seen, False


@pytest.mark.parametrize("size", [PIECE, 1 << 21, 1 << 23])
def test_a_tunnel_delivers_the_workers_last_bytes(size: int) -> None:
    with lb_and_workers(Closing("worker-0")) as (lb, _):
        for _ in range(ROUNDS):
            with lb.connect() as client:
                switched(client)
                sender = threading.Thread(target=pour, args=(client, size), daemon=True)
                sender.start()
                seen, _ = read_until_broken(client.sock)
                assert client.buffer + seen == b"1009"
                sender.join(10)
        wait_until(lambda: lb.count("tunnels") == 0, what="the end of the tunnels")


def test_a_tunnel_delivers_the_clients_last_bytes() -> None:
    """The mirror image: the client closes with input unread."""
    got: list[bytes] = []

    def serve(connection: WorkerConnection, request: bytes) -> None:
        connection.send(SWITCHED)
        threading.Thread(target=flood, args=(connection.sock,), daemon=True).start()
        got.append(read_until_broken(connection.sock)[0])

    def flood(sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            for _ in range(64):
                sock.sendall(bytes(PIECE))

    with lb_and_workers(Worker("worker-0", serve)) as (lb, _):
        for n in range(ROUNDS):
            with lb.connect() as client:
                switched(client)
                client.receive(1000)
                client.send(b"bye")
            wait_until(lambda n=n: len(got) > n, what="the end of the tunnel")
        assert got == [b"bye"] * ROUNDS
        wait_until(lambda: lb.count("tunnels") == 0, what="the end of the tunnels")


@pytest.mark.parametrize("said", [b"", b"a last word"])
def test_a_tunnel_relays_a_worker_reset_to_the_client(said: bytes) -> None:
    def serve(connection: WorkerConnection, request: bytes) -> None:
        connection.send(SWITCHED)
        connection.receive()
        connection.send(said)
        connection.reset()

    with lb_and_workers(Worker("worker-0", serve)) as (lb, _), lb.connect() as client:
        switched(client)
        client.send(b"go")
        assert read_until_broken(client.sock) == (said, True)
        wait_until(lambda: lb.count("tunnels") == 0, what="the end of the tunnel")


@pytest.mark.parametrize("said", [b"", b"a last word"])
def test_a_tunnel_relays_a_client_reset_to_the_worker(said: bytes) -> None:
    seen: list[tuple[bytes, bool]] = []

    def serve(connection: WorkerConnection, request: bytes) -> None:
        connection.send(SWITCHED)
        seen.append(read_until_broken(connection.sock))

    with lb_and_workers(Worker("worker-0", serve)) as (lb, _), lb.connect() as client:
        switched(client)
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        if said:
            client.send(said)
        client.sock.close()
        wait_until(lambda: seen, what="the end at the worker")
        assert seen == [(said, True)]
        wait_until(lambda: lb.count("tunnels") == 0, what="the end of the tunnel")


def test_a_client_gone_when_its_101_arrives_breaks_nothing() -> None:
    """Both have happened when the loop looks: the worker's answer is first in line, and writing it on fails."""
    asked, may_answer, answered = threading.Event(), threading.Event(), threading.Event()

    def serve(connection: WorkerConnection, request: bytes) -> None:
        asked.set()
        assert may_answer.wait(10)
        connection.send(SWITCHED)
        answered.set()
        connection.receive()

    blocked, release = threading.Event(), threading.Event()

    def block() -> None:
        blocked.set()
        release.wait(10)

    with lb_and_workers(Worker("worker-0", serve)) as (lb, _):
        client = lb.connect()
        client.send(UPGRADE)
        assert asked.wait(10)
        lb.call(block)
        assert blocked.wait(10)
        may_answer.set()
        assert answered.wait(10)
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # Its end is a reset.
        client.sock.close()
        release.set()
        wait_until(lambda: not lb.proxy.clients and not lb.proxy.tunnels, what="the end of the tunnel")


@pytest.mark.parametrize(
    "end",
    [
        lambda lb, tunnel: lb.call(lb.server._drained),
        lambda lb, tunnel: lb.call(lb.proxy.end_tunnels),
        lambda lb, tunnel: lb.call(tunnel.expire, time.monotonic()),
    ],
    ids=["close", "drain", "timeout"],
)
def test_a_tunnel_ends_also_when_one_side_is_gone_already(end: Callable[[Balancer, Tunnel], None]) -> None:
    """The worker has reset its connection, and the client has not read yet what was sent before."""

    def serve(connection: WorkerConnection, request: bytes) -> None:
        connection.send(SWITCHED + bytes(PIECE // 2))
        connection.wait_until_delivered()
        connection.reset()

    with lb_and_workers(Worker("worker-0", serve)) as (lb, _), socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", lb.port))
        sock.sendall(UPGRADE)
        wait_until(lambda: [each._open for each in list(lb.proxy.tunnels)] == [1], what="the loss of the worker")
        (tunnel,) = lb.proxy.tunnels
        end(lb, tunnel)
        assert wait_until(lambda: not lb.proxy.tunnels, what="the end of the tunnel")
