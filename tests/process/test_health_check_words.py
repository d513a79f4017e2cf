"""What checks find of a service, in the same words at its start (`comet.supervisor.readiness`) and while it runs
(`lb.process.health_checks`), for every cause.
"""

import asyncio
import contextlib
import re
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from comet.reconcile.observations import NotReady, Ready
from comet.supervisor import readiness
from lb.interface.settings import Settings, UpstreamSpec
from lb.process.health_checks import probe
from lb.proxy.dialer import Dialer
from lb.proxy.upstream_pool import Upstream

TIMEOUT = 60.0
SHORT_TIMEOUT = 0.6
"""Only a service that never answers may take so long, also on a busy machine."""


@contextlib.contextmanager
def service(serve: Callable[[socket.socket, bytes], None]) -> Iterator[tuple[int, list[bytes]]]:
    """The port of a service that treats each connection so, and the requests that it saw."""
    seen: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = listener.accept()
                with contextlib.suppress(OSError), peer:
                    seen.append(peer.recv(65536))
                    serve(peer, seen[-1])

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1], seen
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def at_the_start(port: int, host: str | None = None, timeout: float = TIMEOUT) -> str:
    found = readiness.probe(f"http://127.0.0.1:{port}/up", timeout, host)
    if isinstance(found, Ready):
        return ""
    assert found.reason.startswith("GET /up: ")
    return found.reason.removeprefix("GET /up: ")


def while_it_runs(port: int, host: str | None = None, timeout: float = TIMEOUT) -> str:
    async def main() -> str:
        settings = Settings(health_path="/up", health_host=host, health_timeout=timeout)
        upstream = Upstream(UpstreamSpec("worker-0", "127.0.0.1", port), settings)
        return (await probe(Dialer(asyncio.get_running_loop()), upstream, settings)).reason

    return asyncio.run(main())


def reset(peer: socket.socket, request: bytes) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")


def wait_for_the_end(peer: socket.socket, request: bytes) -> None:
    """Answer nothing for as long as the check lasts."""
    peer.recv(1)


def says(data: bytes) -> Callable[[socket.socket, bytes], None]:
    return lambda peer, request: peer.sendall(data)


CAUSES: list[tuple[str, Callable[[socket.socket, bytes], None]]] = [
    ("", says(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")),
    ("", says(b"HTTP/1.0 302 Found\r\nLocation: /login\r\n\r\n")),
    ("status 400", says(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")),
    ("status 404", says(b"HTTP/1.1 404\r\n\r\n")),
    ("status 503", says(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")),
    ("connection reset", reset),
    ("closed without an answer", lambda peer, request: None),
    ("no HTTP answer", says(b"SSH-2.0-OpenSSH_9.2\r\n")),
    ("no HTTP answer", says(b"\x15\x03\x03\x00\x02\x02\x46")),
    ("no HTTP answer", says(b"220 mail ESMTP\r\n")),
]


@pytest.mark.parametrize("look", [at_the_start, while_it_runs])
@pytest.mark.parametrize(
    ("reason", "serve"), CAUSES, ids=[f"{reason or 'ok'}-{number}" for number, (reason, _) in enumerate(CAUSES)]
)
def test_a_failed_health_check_has_its_reason(
    look: Callable[[int], str], reason: str, serve: Callable[[socket.socket, bytes], None]
) -> None:
    with service(serve) as (port, _):
        assert re.fullmatch(re.escape(reason) + "(: b'.*')?", look(port)), look(port)


@pytest.mark.parametrize("look", [at_the_start, while_it_runs])
def test_a_health_check_without_an_answer_has_its_reason(look: Callable[[int, str | None, float], str]) -> None:
    with service(wait_for_the_end) as (port, _):
        assert look(port, None, SHORT_TIMEOUT) == f"no answer in {SHORT_TIMEOUT:g} s"


@pytest.mark.parametrize("look", [at_the_start, while_it_runs])
def test_a_refused_health_check_has_its_reason(look: Callable[[int], str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        assert look(free.getsockname()[1]) == "connection refused"


@pytest.mark.parametrize("look", [at_the_start, while_it_runs])
def test_the_host_of_a_check_can_be_named(look: Callable[[int, str | None], str]) -> None:
    """Django with ALLOWED_HOSTS answers 400 to any other."""

    def particular(peer: socket.socket, request: bytes) -> None:
        known = b"\r\nHost: shop.example:8443\r\n" in request
        peer.sendall(b"HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n" % (b"200 OK" if known else b"400 Bad Request"))

    with service(particular) as (port, seen):
        assert look(port, "shop.example:8443") == ""
        assert look(port, None) == "status 400"
        assert b"\r\nHost: 127.0.0.1:%d\r\n" % port in seen[-1]
    assert all(request.lower().count(b"\r\nhost:") == 1 for request in seen)


@pytest.mark.parametrize(("statuses", "good"), [("200-399", False), ("401", True), ("200,400-404", True)])
def test_the_expected_statuses_can_be_named(statuses: str, good: bool) -> None:
    async def check(port: int) -> str:
        settings = Settings(health_path="/up", health_timeout=TIMEOUT, health_status=statuses)
        upstream = Upstream(UpstreamSpec("worker-0", "127.0.0.1", port), settings)
        return (await probe(Dialer(asyncio.get_running_loop()), upstream, settings)).reason

    with service(says(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")) as (port, _):
        assert asyncio.run(check(port)) == ("" if good else "status 401")
        found = readiness.probe(f"http://127.0.0.1:{port}/up", TIMEOUT, statuses=statuses)
        assert isinstance(found, Ready) == good


def test_an_unresolvable_health_host_has_its_reason() -> None:
    found = readiness.probe("http://no-such-host.invalid/", TIMEOUT)
    assert isinstance(found, NotReady)
    assert re.match(r"GET /: (cannot be resolved|no answer in)", found.reason)
