"""Connections that become tunnels."""

import socket

from tests.support.lb import Client, WorkerConnection, lb_and_workers
from tests.support.waiting import wait_until

GET = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"


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
