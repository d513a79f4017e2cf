"""TLS for clients over real sockets: versions, renewal under load, bad handshakes, the PROXY protocol before it."""

import os
import shutil
import socket
import ssl
import subprocess
import threading
import warnings
from pathlib import Path
from typing import Any

import h11
import pytest

from lb.process import tls
from tests.support.lb import Balancer, Client, Worker, WorkerConnection, lb_and_workers, response
from tests.support.waiting import wait_until
from tests.unit.lb.http.test_proxy_protocol import FOUR, v2

GET = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"
PROXY = "127.0.0.2"


def certificate(folder: Path, name: str) -> dict[str, Any]:
    """Make a certificate, and return the settings that use it."""
    key, made = folder / f"{name}.key", folder / f"{name}.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(made), "-days", "2", "-subj", f"/CN={name}"]
    subprocess.run(command, check=True, capture_output=True)
    return {"tls_certificate": str(made), "tls_key": str(key), "tls_digest": name}


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return certificate(tmp_path_factory.mktemp("tls"), "one.example")


def client_context() -> ssl.SSLContext:
    made = ssl.create_default_context()
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    return made


def connect(
    lb: Balancer, context: ssl.SSLContext | None = None, before: bytes = b"", source: str = "127.0.0.1"
) -> Client:
    sock = socket.create_connection(("127.0.0.1", lb.port), timeout=60, source_address=(source, 0))
    sock.sendall(before)
    return Client.of((context or client_context()).wrap_socket(sock, server_hostname="a.example"))


def name_of(client: Client) -> bytes:
    """The name in the certificate that this client saw; the form of a certificate contains it as it is."""
    sock = client.sock
    assert isinstance(sock, ssl.SSLSocket)
    shown = sock.getpeercert(binary_form=True) or b""
    return next(name for name in (b"one.example", b"two.example") if name in shown)


def field(worker: Worker, name: bytes) -> bytes:
    return worker.requests[-1].partition(b"\r\n" + name + b": ")[2].partition(b"\r\n")[0]


def test_requests_bodies_and_what_services_learn(one: dict[str, Any]) -> None:
    big = b"x" * 3_000_000

    def sized(connection: WorkerConnection, request: bytes) -> None:
        connection.send(response(big if b"/big" in request else b"%d" % len(request.partition(b"\r\n\r\n")[2])))

    with lb_and_workers(sized, **one) as (lb, (worker,)), connect(lb) as client:
        assert isinstance(client.sock, ssl.SSLSocket)
        assert client.sock.version() in ("TLSv1.2", "TLSv1.3")
        for _ in range(3):
            assert client.ask(GET).status == 200
            assert field(worker, b"X-Forwarded-Proto") == b"https"
        assert client.ask(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n").body == big
        head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(big)
        assert client.ask(head + big).body == b"%d" % len(big)
        assert client.ask(GET[:-2] + b"Connection: close\r\n\r\n").status == 200
        assert client.closed()


def test_the_cookie_is_secure(one: dict[str, Any]) -> None:
    with lb_and_workers(count=1, balance="sticky-cookie", **one) as (lb, _), connect(lb) as client:
        assert str(client.ask(GET)["Set-Cookie"]).endswith("; Secure")


def test_versions_below_1_2_are_refused(one: dict[str, Any]) -> None:
    old = client_context()
    old.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore"):
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with lb_and_workers(count=1, **one) as (lb, _):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            connect(lb, old)
        with connect(lb) as client:
            assert client.ask(GET).status == 200


@pytest.mark.parametrize("sent", [GET, b"", b"\x16\x03\x01", b"\x00" * 300])
def test_what_is_no_handshake_ends_its_connection_alone(one: dict[str, Any], sent: bytes) -> None:
    with lb_and_workers(count=1, **one) as (lb, (worker,)), connect(lb) as client:
        with socket.create_connection(("127.0.0.1", lb.port)) as rude:
            rude.sendall(sent)
            rude.shutdown(socket.SHUT_WR)
            try:
                while rude.recv(65536):
                    pass
            except ConnectionResetError:
                pass
        assert client.ask(GET).status == 200
        assert len(worker.requests) == 1


def test_a_renewal_under_load_loses_nothing(one: dict[str, Any], tmp_path: Path) -> None:
    two = certificate(tmp_path, "two.example")
    done = threading.Event()
    seen: list[tuple[bytes, int]] = []

    def knock(lb: Balancer) -> None:
        while not done.is_set():
            with connect(lb) as client:
                seen.append((name_of(client), client.ask(GET).status))

    with lb_and_workers(count=1, **one) as (lb, _), connect(lb) as kept:
        knockers = [threading.Thread(target=knock, args=(lb,)) for _ in range(3)]
        for knocker in knockers:
            knocker.start()
        try:
            wait_until(lambda: len(seen) > 9)
            lb.call(lb.server._configure, two)
            wait_until(lambda: sum(name == b"two.example" for name, _ in seen) > 9)
        finally:
            done.set()
            for knocker in knockers:
                knocker.join(60)
        assert {status for _, status in seen} == {200}
        assert kept.ask(GET).status == 200
        assert name_of(kept) == b"one.example"


def test_an_unusable_renewal_changes_nothing(one: dict[str, Any], tmp_path: Path) -> None:
    two = certificate(tmp_path, "two.example")
    shutil.copy(one["tls_key"], two["tls_key"])
    with lb_and_workers(count=1, **one) as (lb, _):
        os.mkfifo(tmp_path / "fifo")
        for bad in (two, *({"tls_certificate": str(tmp_path / name)} for name in ("missing.pem", "fifo"))):
            lb.call(lb.server._configure, bad)
            wait_until(lambda bad=bad: lb.proxy.settings.tls_certificate == bad["tls_certificate"])  # type: ignore[misc]
            with connect(lb) as client:
                assert (name_of(client), client.ask(GET).status) == (b"one.example", 200)


def test_tls_begins_and_ends_while_running(one: dict[str, Any]) -> None:
    with lb_and_workers(count=1) as (lb, _):
        assert lb.ask(GET).status == 200
        lb.call(lb.server._configure, one)

        def by_tls() -> bool:
            try:
                with connect(lb) as client:
                    return client.ask(GET).status == 200
            except (OSError, AssertionError, h11.RemoteProtocolError):
                return False

        def by_plain() -> bool:
            try:
                return lb.ask(GET).status == 200
            except (OSError, AssertionError, h11.RemoteProtocolError):
                return False

        wait_until(by_tls)
        lb.call(lb.server._configure, {"tls_certificate": None, "tls_key": None})
        wait_until(by_plain)


@pytest.mark.parametrize("header", [b"PROXY TCP4 203.0.113.9 10.0.0.1 12345 80\r\n", v2(0x21, 0x11, FOUR)])
def test_the_proxy_protocol_comes_before_tls(one: dict[str, Any], header: bytes) -> None:
    with lb_and_workers(count=1, trusted_proxies=PROXY, **one) as (lb, (worker,)):
        with connect(lb, before=header, source=PROXY) as client:
            for _ in range(2):
                assert client.ask(GET).status == 200
                assert field(worker, b"X-Forwarded-For") == b"203.0.113.9"
        with connect(lb, source=PROXY) as client:
            assert client.ask(GET).status == 200
            assert field(worker, b"X-Forwarded-For") == PROXY.encode()
        with pytest.raises((ssl.SSLError, ConnectionError)):
            connect(lb, before=header)
        with socket.create_connection(("127.0.0.1", lb.port), source_address=(PROXY, 0)) as slow:
            slow.sendall(header[:10])
            with connect(lb) as client:
                assert client.ask(GET).status == 200


@pytest.mark.parametrize("header", [b"PROXY TCP4 nonsense\r\n", v2(0x31, 0x11, FOUR)])
def test_a_malformed_header_before_tls_is_logged(
    one: dict[str, Any], header: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        lb_and_workers(count=1, trusted_proxies=PROXY, **one) as (lb, _),
        socket.create_connection(("127.0.0.1", lb.port), source_address=(PROXY, 0)) as sock,
    ):
        sock.sendall(header)
        wait_until(lambda: any("PROXY protocol" in record.getMessage() for record in caplog.records))
        lines = [record.getMessage() for record in caplog.records if "PROXY protocol" in record.getMessage()]
        assert [line.split(": ")[:2] for line in lines] == [[PROXY, "PROXY protocol"]]


def test_a_drain_serves_connections_whose_handshake_has_begun(one: dict[str, Any]) -> None:
    with (
        lb_and_workers(count=1, **one) as (lb, _),
        socket.create_connection(("127.0.0.1", lb.port), timeout=60) as sock,
    ):
        wait_until(lambda: lb.server._admissions[0].handshakes)
        lb.call(lb.server._drain, 30.0)
        wait_until(lambda: lb.server._finishing is not None)
        with Client.of(client_context().wrap_socket(sock)) as client:
            assert client.ask(GET)["Connection"] == "close"


def test_a_drain_does_not_wait_for_silent_handshakes(one: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """As a port scanner leaves them: the drain begins at once, and they get no time beyond the grace."""
    monkeypatch.setattr(tls, "HANDSHAKE_TIMEOUT", 3600.0)
    with (
        lb_and_workers(count=1, shutdown_grace=0.5, **one) as (lb, _),
        connect(lb) as client,
        socket.create_connection(("127.0.0.1", lb.port), timeout=60) as silent,
    ):
        assert client.ask(GET)["Connection"] is None
        wait_until(lambda: lb.server._admissions[0].handshakes)
        lb.call(lb.server._drain, 60.0)
        wait_until(lambda: lb.server.proxy.draining)
        assert lb.server._admissions[0].handshakes
        assert client.ask(GET)["Connection"] == "close"
        assert not lb.server.ended.done()
        assert silent.recv(1) == b""
        wait_until(lb.server.ended.done)


def test_faults_of_the_front_under_tls(one: dict[str, Any], tmp_path: Path) -> None:
    with lb_and_workers(count=1, **one) as (lb, (worker,)), connect(lb) as older:
        assert older.ask(GET).status == 200
        done = threading.Event()
        lb.call(lambda: (lb.server._front.order({"failure": 100, "path": "/b"}, str(tmp_path)), done.set()))
        assert done.wait(60)
        for client in (older, connect(lb)):
            with client:
                assert client.ask(GET.replace(b"/", b"/b", 1)).status == 500
                assert client.ask(GET).status == 200
                assert field(worker, b"X-Forwarded-Proto") == b"https"
