"""Who is believed about a client, over real sockets: forged fields, PROXY protocol, addresses of both families."""

import socket
from typing import Any

import pytest

from tests.support.lb import Balancer, Client, Worker, lb_and_workers
from tests.support.waiting import wait_until
from tests.unit.lb.http.test_proxy_protocol import FOUR, SIX, v2

PROXY = "127.0.0.2"
CLIENT = "127.0.0.3"
FORGED = {
    b"X-Forwarded-For": b"6.6.6.6",
    b"x-forwarded-FOR": b"6.6.6.7, 6.6.6.8",
    b"X-Forwarded-Proto": b"https",
    b"X-Forwarded-Host": b"evil.example",
    b"X-FORWARDED-Port": b"443",
    b"X-Forwarded-Prefix": b"/evil",
    b"X-Forwarded-Server": b"evil",
    b"Forwarded": b"for=6.6.6.6;proto=https",
    b"X-Real-Ip": b"6.6.6.6",
    b"X-Forwarded": b"for=6.6.6.6",
    b"Front-End-Https": b"on",
    b"X-Scheme": b"https",
}
ODD = {
    b"X_Forwarded_For": b"6.6.6.6",
    b"x_forwarded-proto": b"https",
    b"X-Forwarded_Host": b"evil.example",
    b"X_Forwarded_Port": b"443",
    b"X_Real_IP": b"6.6.6.6",
    b"X.Forwarded.For": b"6.6.6.6",
    b"SCRIPT_NAME": b"/evil",
}


def request(fields: dict[bytes, bytes]) -> bytes:
    lines = [name + b": " + value for name, value in fields.items()]
    return b"\r\n".join([b"GET / HTTP/1.1", b"Host: a.example", *lines]) + b"\r\n\r\n"


def ask(lb: Balancer, source: str, data: bytes) -> int:
    sock = socket.create_connection(("127.0.0.1", lb.port), source_address=(source, 0))
    with Client.of(sock) as client:
        return client.ask(data, "GET").status


def seen(worker: Worker) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in worker.requests[-1].decode("latin-1").split("\r\n")[1:-2]:
        name, _, value = line.partition(": ")
        found.setdefault(name.lower(), []).append(value)
    return found


def of_the_client(worker: Worker) -> dict[str, list[str]]:
    return {name: value for name, value in seen(worker).items() if name not in ("host", "via")}


@pytest.mark.parametrize("trusted", ["", f"{PROXY},10.0.0.0/8", "::1,2001:db8::/32"])
def test_nothing_forged_passes_from_an_untrusted_peer(trusted: str) -> None:
    with lb_and_workers(count=1, trusted_proxies=trusted) as (lb, (worker,)):
        for _ in range(3):  # Parsed, and remembered.
            assert ask(lb, CLIENT, request(FORGED | ODD)) == 200
            assert of_the_client(worker) == {
                "x-forwarded-proto": ["http"],
                "x-forwarded-host": ["a.example"],
                "x-forwarded-for": [CLIENT],
            }


@pytest.mark.parametrize("trusted", [PROXY, "127.0.0.2/31", "9.9.9.9, ::ffff:0:0/96, 127.0.0.0/30"])
def test_a_trusted_proxy_is_believed_but_not_in_odd_forms(trusted: str) -> None:
    with lb_and_workers(count=1, trusted_proxies=trusted) as (lb, (worker,)):
        for _ in range(3):
            assert ask(lb, PROXY, request(FORGED | ODD)) == 200
            found = of_the_client(worker)
            assert found.pop("x-forwarded-for") == [f"6.6.6.6, 6.6.6.7, 6.6.6.8, {PROXY}"]
            names = {name.decode().lower(): [value.decode()] for name, value in FORGED.items()}
            names.pop("x-forwarded-for")
            assert found == names


def test_what_a_trusted_proxy_does_not_say_is_set() -> None:
    with lb_and_workers(count=1, trusted_proxies=PROXY) as (lb, (worker,)):
        ask(lb, PROXY, request({}))
        assert of_the_client(worker) == {
            "x-forwarded-proto": ["http"],
            "x-forwarded-host": ["a.example"],
            "x-forwarded-for": [PROXY],
        }
        ask(lb, PROXY, request({b"X-Forwarded-Proto": b"https", b"Connection": b"X-Forwarded-Proto, X-Forwarded-For"}))
        assert of_the_client(worker)["x-forwarded-proto"] == ["https"]


def test_peers_do_not_share_what_was_remembered() -> None:
    """The same bytes mean something else from another peer, also unique heads that match a template."""
    with lb_and_workers(count=1, trusted_proxies=PROXY) as (lb, (worker,)):
        for n in range(20):
            for source, proto in ((PROXY, "https"), (CLIENT, "http")):
                ask(lb, source, request({b"X-Forwarded-Proto": b"https", b"X-N": b"%d" % (n // 2)}))
                assert of_the_client(worker)["x-forwarded-proto"] == [proto]


def test_the_default_keeps_what_was_appended_to() -> None:
    with lb_and_workers(count=1) as (lb, (worker,)):
        ask(lb, CLIENT, request({b"X-Forwarded-For": b"6.6.6.6"}))
        assert of_the_client(worker)["x-forwarded-for"] == [f"6.6.6.6, {CLIENT}"]


@pytest.mark.parametrize(
    ("header", "address"),
    [
        (b"PROXY TCP4 203.0.113.9 10.0.0.1 12345 80\r\n", "203.0.113.9"),
        (b"PROXY TCP6 2001:db8::9 2001:db8::1 12345 80\r\n", "2001:db8::9"),
        (b"PROXY UNKNOWN\r\n", PROXY),
        (v2(0x21, 0x11, FOUR), "203.0.113.9"),
        (v2(0x21, 0x21, SIX), "2001:db8::9"),
        (v2(0x20, 0x00, b""), PROXY),
        (b"", PROXY),
    ],
)
@pytest.mark.parametrize("pieces", [False, True])
def test_a_header_of_the_proxy_protocol(header: bytes, address: str, pieces: bool) -> None:
    with lb_and_workers(count=1, trusted_proxies=PROXY) as (lb, (worker,)):
        sock = socket.create_connection(("127.0.0.1", lb.port), source_address=(PROXY, 0))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with Client.of(sock) as client:
            for piece in [header[at : at + 1] for at in range(len(header))] if pieces else [header]:
                client.send(piece)
            for _ in range(3):
                assert client.ask(request({b"X-Forwarded-For": b"6.6.6.6"})).status == 200
                believed = address == PROXY  # The client behind a TCP proxy is not.
                assert of_the_client(worker)["x-forwarded-for"] == [f"6.6.6.6, {PROXY}" if believed else address]


@pytest.mark.parametrize("header", [b"PROXY TCP4 203.0.113.9 10.0.0.1 12345 80\r\n", v2(0x21, 0x11, FOUR)])
@pytest.mark.parametrize("trusted", [None, "", PROXY])
def test_from_an_untrusted_peer_it_is_no_request(header: bytes, trusted: str | None) -> None:
    with lb_and_workers(count=1, trusted_proxies=trusted) as (lb, (worker,)):
        assert ask(lb, CLIENT, header + request({})) == 400
        assert worker.requests == []


@pytest.mark.parametrize("data", [b"PROXY TCP4 nonsense\r\n", v2(0x31, 0x11, FOUR)])
def test_after_a_malformed_or_second_header_the_connection_ends(data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with lb_and_workers(count=1, trusted_proxies=PROXY) as (lb, (worker,)):
        for header in (data, b"PROXY UNKNOWN\r\n" + data):
            with socket.create_connection(("127.0.0.1", lb.port), source_address=(PROXY, 0)) as sock:
                sock.sendall(header + request({}))
                try:
                    answer = sock.recv(65536)
                except ConnectionResetError:
                    answer = b""
                assert not answer or b" 400 " in answer
        assert worker.requests == []
    assert [record.getMessage().split(": ")[:2] for record in caplog.records if record.name == "lb"] == [
        [PROXY, "PROXY protocol"]
    ]


def test_the_address_behind_trusted_proxies_is_the_key() -> None:
    settings: dict[str, Any] = {"trusted_proxies": f"{PROXY},10.0.0.0/8", "balance": "consistent-hash"}
    with lb_and_workers(count=3, **settings) as (lb, workers):
        for n in range(30):
            ask(lb, PROXY, request({b"X-Forwarded-For": b"6.6.6.6, 203.0.113.%d, 10.0.0.1" % n}))
        assert all(worker.requests for worker in workers)
        before = [len(worker.requests) for worker in workers]
        for n in range(9):
            ask(lb, PROXY, request({b"X-Forwarded-For": b"6.6.6.%d, 203.0.113.1" % n}))
            ask(lb, PROXY, b"PROXY TCP4 203.0.113.1 10.0.0.1 1 80\r\n" + request({b"X-Forwarded-For": b"6.6.6.%d" % n}))
        assert sorted(len(worker.requests) - old for worker, old in zip(workers, before, strict=True)) == [0, 0, 18]


def test_a_change_while_running_reaches_open_connections() -> None:
    with lb_and_workers(count=1) as (lb, (worker,)), lb.connect() as client:
        forged = request({b"X-Forwarded-For": b"6.6.6.6"})
        for trusted, meant in (("", "127.0.0.1"), ("127.0.0.1", "6.6.6.6, 127.0.0.1"), (None, "6.6.6.6, 127.0.0.1")):
            lb.call(lb.server._configure, {"trusted_proxies": trusted})
            wait_until(lambda trusted=trusted: lb.proxy.settings.trusted_proxies == trusted)  # type: ignore[misc]
            client.ask(forged)
            assert of_the_client(worker)["x-forwarded-for"] == [meant]
