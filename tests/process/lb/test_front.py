"""Faults of the front at the raw socket: what a client meets, what the service gets, and that nothing is in the way
without an order.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lb.interface.counters import Reading
from lb.interface.settings import Settings, UpstreamSpec
from tests.support.cluster import free_ports
from tests.support.lb import Balancer, Client, Worker, WorkerConnection, lb_and_workers, response
from tests.support.waiting import wait_until

GET = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"
BODY = b"0123456789" * 10


def answer(connection: WorkerConnection, request: bytes) -> None:
    if request.startswith(b"GET /chunked"):
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\n" + BODY + b"\r\n0\r\n\r\n")
    elif request.startswith(b"POST"):
        connection.send(response(request.partition(b"\r\n\r\n")[2]))
    else:
        connection.send(response(BODY))


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Balancer, Worker]]:
    with lb_and_workers(answer) as (lb, (worker,)):
        yield lb, worker


@pytest.fixture
def order(served: tuple[Balancer, Worker], tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Orders faults of the front, and clears them afterwards."""
    lb, _ = served

    def ordered(overrides: list[dict[str, Any]] | None = None, **settings: Any) -> None:
        document = {name.replace("_", "-"): value for name, value in settings.items()}
        done = threading.Event()
        plan = document | ({"overrides": overrides} if overrides else {})
        lb.call(lambda: (lb.server._front.order(plan, str(tmp_path)), done.set()))
        assert done.wait(10)

    yield ordered
    ordered()


def met(lb: Balancer, request: bytes = GET) -> bytes:
    """All bytes that a client gets on a connection of its own; `reset` at the end if it is reset."""
    with lb.connect() as client:
        client.send(request)
        found = b""
        try:
            while data := client.sock.recv(65536):
                found += data
        except ConnectionResetError:
            return found + b"reset"
        except TimeoutError:
            return found + b"silence"
        return found


CLOSING = b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def test_a_request_is_untouched_without_an_order(served: tuple[Balancer, Worker]) -> None:
    lb, _ = served
    assert lb.ask(GET).body == BODY
    assert all(each._diverted is None for each in lb.server._admissions)


@pytest.mark.parametrize("request_line", [b"/a", b"/chunked"])
def test_what_has_no_fault_passes_the_front_unchanged(
    served: tuple[Balancer, Worker], order: Callable[..., None], request_line: bytes
) -> None:
    lb, worker = served
    order(reset=100, path="/elsewhere")
    before = len(worker.requests)
    with lb.connect() as client:
        for _ in range(3):
            found = client.ask(GET.replace(b"/a", request_line))
            assert (found.status, found.body, found["connection"]) == (200, BODY, None)
        found = client.ask(b"POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
        assert found.body == b"hello"
        found = client.ask(b"POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
        assert b"abc" in found.body
        assert client.ask(b"HEAD /a HTTP/1.1\r\nHost: a\r\n\r\n").status == 200
    assert len(worker.requests) - before == 6
    assert all(b"X-Forwarded-For: 127.0.0.1\r\n" in request for request in worker.requests[before:])


def test_invalid_requests_are_refused_as_ever(served: tuple[Balancer, Worker], order: Callable[..., None]) -> None:
    lb, _ = served
    order(reset=100)
    assert met(lb, b"GET / HTTP/9.9\r\nHost: a\r\n\r\n").startswith(b"HTTP/1.1 505 ")
    assert met(lb, b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").startswith(b"HTTP/1.1 400 ")


def test_reset_gives_no_answer_and_the_service_no_request(
    served: tuple[Balancer, Worker], order: Callable[..., None]
) -> None:
    lb, worker = served
    before = len(worker.requests)
    order(reset=100)
    assert met(lb) == b"reset"
    assert len(worker.requests) == before


def test_reset_after_carries_the_request_out(served: tuple[Balancer, Worker], order: Callable[..., None]) -> None:
    lb, worker = served
    before = len(worker.requests)
    order(reset_after=100)
    assert met(lb) == b"reset"
    assert len(worker.requests) == before + 1


@pytest.mark.parametrize("path", [b"/a", b"/chunked"])
def test_a_body_is_cut_by_a_reset_or_an_end(
    served: tuple[Balancer, Worker], order: Callable[..., None], path: bytes
) -> None:
    lb, _ = served
    request = GET.replace(b"/a", path)
    order(reset_body=100)
    found = met(lb, request)
    assert found.startswith(b"HTTP/1.1 200 ")
    assert found.endswith(b"reset")
    assert BODY[:50] in found
    assert BODY not in found
    order(truncate=100)
    found = met(lb, request)
    assert BODY[:50] in found
    assert BODY not in found
    assert not found.endswith(b"0\r\n\r\n")


def test_hang_is_silent_until_the_client_goes(served: tuple[Balancer, Worker], order: Callable[..., None]) -> None:
    lb, _ = served
    order(hang=100)
    with lb.connect() as client:
        client.send(GET)
        client.sock.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.sock.recv(1)
    wait_until(lambda: not lb.server._front._tasks)


def test_garbage_is_no_http(served: tuple[Balancer, Worker], order: Callable[..., None]) -> None:
    lb, _ = served
    order(garbage=100)
    found = met(lb)
    assert found
    assert not found.startswith(b"HTTP/")


def test_a_wrong_length_is_too_small(served: tuple[Balancer, Worker], order: Callable[..., None]) -> None:
    lb, _ = served
    order(wrong_length=100)
    found = met(lb, CLOSING)
    assert b"Content-Length: 50\r\n" in found
    assert found.endswith(b"\r\n\r\n" + BODY)


def test_bad_framing_has_no_size(served: tuple[Balancer, Worker], order: Callable[..., None]) -> None:
    lb, _ = served
    order(bad_framing=100)
    found = met(lb)
    assert b"Transfer-Encoding: chunked\r\n\r\nno size\r\n" in found
    assert b"Content-Length" not in found


def test_a_kept_connection_closes_at_the_next_request(
    served: tuple[Balancer, Worker], order: Callable[..., None]
) -> None:
    lb, worker = served
    order(close_kept=100)
    before = len(worker.requests)
    with lb.connect() as client:
        assert client.ask(GET)["connection"] is None
        client.sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.sock.recv(1)
        client.sock.settimeout(10)
        client.send(GET)
        assert client.closed()
    assert len(worker.requests) == before + 1


def test_a_redirect_leads_to_itself(served: tuple[Balancer, Worker], order: Callable[..., None]) -> None:
    lb, _ = served
    order(redirect=100)
    with lb.connect() as client:
        for _ in range(2):
            found = client.ask(GET)
            assert (found.status, found["location"]) == (302, "/a")


@pytest.mark.parametrize(
    ("target", "location"),
    [
        (b"//other.example/x", "/.//other.example/x"),
        (b"/\\other.example/x", "/./\\other.example/x"),
        (b"http://other.example/y?z", "/y?z"),
        (b"HTTPS://other.example?z", "/?z"),
        (b"http://other.example//third.example", "/.//third.example"),
        (b"*", "/"),
    ],
)
def test_a_redirect_never_leads_elsewhere(
    served: tuple[Balancer, Worker], order: Callable[..., None], target: bytes, location: str
) -> None:
    lb, _ = served
    order(redirect=100)
    with lb.connect() as client:
        found = client.ask(b"OPTIONS " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (found.status, found["location"]) == (302, location)


def test_any_answer_takes_the_place_of_the_service(served: tuple[Balancer, Worker], order: Callable[..., None]) -> None:
    lb, worker = served
    before = len(worker.requests)
    order(failure=100, status=429, headers=["Retry-After: 7", "Content-Type: text/x"], body="slow down")
    with lb.connect() as client:
        found = client.ask(b"POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
        assert (found.status, found["retry-after"], found["content-type"]) == (429, "7", "text/x")
        assert found.body == b"slow down"
        order(failure=100, status=204)
        assert client.ask(GET).status == 204
    assert len(worker.requests) == before


def test_slow_heads_bodies_and_uploads_arrive_whole(
    served: tuple[Balancer, Worker], order: Callable[..., None]
) -> None:
    lb, _ = served
    order(slow_head=300)
    begun = time.monotonic()
    assert lb.ask(GET).body == BODY
    assert time.monotonic() - begun >= 0.27
    order(slow_body=400, jitter=5)
    begun = time.monotonic()
    assert lb.ask(GET).body == BODY
    assert time.monotonic() - begun >= 0.2
    order(slow_upload=400)
    begun = time.monotonic()
    found = lb.ask(b"POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n" + BODY)
    assert found.body == BODY
    assert time.monotonic() - begun >= 0.2


def test_a_delay_concerns_its_share(served: tuple[Balancer, Worker], order: Callable[..., None]) -> None:
    lb, _ = served
    order(avg_delay=200, delay_distribution="constant", share=0)
    assert lb.ask(GET).body == BODY
    order(avg_delay=200, delay_distribution="constant")
    begun = time.monotonic()
    assert lb.ask(GET).body == BODY
    assert time.monotonic() - begun >= 0.19


@pytest.mark.parametrize(
    ("settings", "hit", "missed"),
    [
        ({"method": "POST, PUT"}, b"PUT /a HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", GET),
        ({"path": "/api/*"}, GET.replace(b"/a", b"/api/x/y?z=1"), GET),
        ({"header": "X-User: a*"}, GET[:-2] + b"x-user: anna\r\n\r\n", GET[:-2] + b"x-user: bob\r\n\r\n"),
        ({"header": "X-User"}, GET[:-2] + b"X-User: bob\r\n\r\n", GET),
    ],
)
def test_faults_for_some_requests_only(
    served: tuple[Balancer, Worker], order: Callable[..., None], settings: dict[str, str], hit: bytes, missed: bytes
) -> None:
    lb, _ = served
    order(failure=100, status=418, **settings)
    assert lb.ask(hit).status == 418
    assert lb.ask(missed).status == 200


def test_a_request_asks_for_its_fault_where_that_is_allowed(
    served: tuple[Balancer, Worker], order: Callable[..., None]
) -> None:
    lb, _ = served
    asking = GET[:-2] + b"X-Comet-Fault: failure=100%, status=503\r\n\r\n"
    assert lb.ask(asking).status == 200
    order(on_request=True)
    assert lb.ask(asking).status == 503
    assert lb.ask(GET).status == 200
    assert met(lb, GET[:-2] + b"X-Comet-Fault: reset\r\n\r\n") == b"reset"


def test_a_request_with_repeated_fields_meets_the_faults(
    served: tuple[Balancer, Worker], order: Callable[..., None]
) -> None:
    lb, _ = served
    order(failure=100, status=418, header="X-User: *bob*")
    assert lb.ask(GET[:-2] + b"Accept: a\r\nAccept: b\r\nX-User: anna\r\nX-User: bob\r\n\r\n").status == 418
    order(on_request=True)
    assert lb.ask(GET[:-2] + b"X-Comet-Fault: failure\r\nX-Comet-Fault: status=503\r\n\r\n").status == 503
    order(failure=100, status=418)
    twice = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxy"
    assert lb.ask(twice).status == 400  # The data path alone says what is wrong with it.


def test_a_count_is_used_up(served: tuple[Balancer, Worker], order: Callable[..., None]) -> None:
    lb, _ = served
    order([{"id": "c1", "count": 3, "failure": 100}])
    assert [lb.ask(GET).status for _ in range(5)] == [500, 500, 500, 200, 200]
    wait_until(lambda: not lb.server._front._active)


def test_a_connection_that_was_open_before_meets_the_faults(
    served: tuple[Balancer, Worker], order: Callable[..., None]
) -> None:
    lb, _ = served
    with lb.connect() as client, lb.connect() as quiet:
        assert client.ask(GET).status == 200
        assert quiet.ask(GET).status == 200
        order(failure=100, status=599)
        assert client.ask(GET).status == 599
        order()
        assert client.ask(GET).status == 200
        assert quiet.ask(GET).status == 200


def test_a_busy_connection_meets_them_with_its_next_request(order: Callable[..., None], tmp_path: Path) -> None:
    release = threading.Event()

    def waits(connection: WorkerConnection, request: bytes) -> None:
        release.wait(30)
        connection.send(response(b"late"))

    with lb_and_workers(waits) as (lb, (worker,)), lb.connect() as client:
        client.send(GET)
        wait_until(lambda: worker.requests)
        done = threading.Event()
        lb.call(lambda: (lb.server._front.order({"failure": 100}, str(tmp_path)), done.set()))
        assert done.wait(10)
        release.set()
        assert client.answer().body == b"late"
        assert client.ask(GET).status == 500


def test_an_address_refuses_and_listens_again_on_the_same_port(tmp_path: Path) -> None:
    worker = Worker("worker-0", answer)
    port = free_ports(1)  # As the supervisor does: the kernel keeps no port that it has chosen itself.
    lb = Balancer((UpstreamSpec("worker-0", "127.0.0.1", worker.port),), Settings(), at=("127.0.0.1", port))

    def answers() -> bool:
        with contextlib.suppress(ConnectionError):
            return lb.ask(GET).status == 200
        return False

    with contextlib.ExitStack() as stack:
        stack.callback(worker.close)
        stack.callback(lb.close)
        for _ in range(2):
            with lb.connect() as kept:
                assert kept.ask(GET).status == 200
                until = time.clock_gettime(time.CLOCK_BOOTTIME) + 3.0
                plan = {"overrides": [{"id": "r1", "until": until, "refuse": True}]}
                lb.call(lb.server._front.order, plan, str(tmp_path))
                wait_until(lambda: not answers(), 60)
                with pytest.raises(OSError, match="in use"):
                    socket.create_server(("127.0.0.1", port))
                assert kept.ask(GET).status == 200
            wait_until(answers, 60)
            assert time.clock_gettime(time.CLOCK_BOOTTIME) >= until


def test_a_later_order_to_refuse_holds_however_fast_it_follows(tmp_path: Path) -> None:
    worker, port = Worker("worker-0", answer), free_ports(1)
    lb = Balancer((UpstreamSpec("worker-0", "127.0.0.1", worker.port),), Settings(), at=("127.0.0.1", port))
    until = time.clock_gettime(time.CLOCK_BOOTTIME) + 600.0
    refusal = {"overrides": [{"id": "r1", "until": until, "refuse": True}]}

    def order_twice() -> None:
        for plan in ({}, refusal):
            lb.server._front.order(plan, str(tmp_path))

    with contextlib.ExitStack() as stack:
        stack.callback(worker.close)
        stack.callback(lb.close)
        lb.call(lb.server._front.order, refusal, str(tmp_path))
        lb.settle()
        lb.call(order_twice)
        for _ in range(10):
            lb.settle()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port))


def test_a_drain_waits_for_requests_that_the_front_delays(tmp_path: Path) -> None:
    worker = Worker("worker-0", answer)
    lb = Balancer((UpstreamSpec("worker-0", "127.0.0.1", worker.port),), Settings())
    with contextlib.ExitStack() as stack:
        stack.callback(worker.close)
        stack.callback(lb.close)
        lb.call(lb.server._front.order, {"avg-delay": 500, "delay-distribution": "constant"}, str(tmp_path))
        lb.settle()
        with lb.connect() as client, lb.connect() as kept:
            assert kept.ask(GET).status == 200
            client.send(GET)
            wait_until(lambda: len(lb.server._front.serving()) == 2)
            lb.call(lb.server._drain, 30.0)
            assert client.answer().status == 200
            kept.send(GET)
            assert kept.answer()["Connection"] == "close"
        wait_until(lb.server.ended.done)


def test_a_body_that_stalls_is_408_at_the_front_too(tmp_path: Path) -> None:
    with lb_and_workers(answer, body_timeout=0.2) as (lb, _):
        lb.call(lb.server._front.order, {"failure": 100}, str(tmp_path))
        lb.settle()
        found = met(lb, b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe")
        assert found.startswith(b"HTTP/1.1 408 "), found


def test_a_head_that_stalls_is_408_at_the_front_too(tmp_path: Path) -> None:
    with lb_and_workers(answer, head_timeout=0.2) as (lb, _):
        lb.call(lb.server._front.order, {"failure": 100}, str(tmp_path))
        lb.settle()
        found = met(lb, b"GET /a HT")
        assert found.startswith(b"HTTP/1.1 408 "), found
        assert found.endswith(b'{"error": "the request head took too long"}\n')


def test_the_front_gives_up_a_client_that_stops_reading(tmp_path: Path) -> None:
    def large(connection: WorkerConnection, request: bytes) -> None:
        connection.send(response(bytes(30_000_000)))

    with lb_and_workers(large, body_timeout=0.3) as (lb, _):
        lb.call(lb.server._front.order, {"failure": 100, "path": "/b"}, str(tmp_path))
        lb.settle()
        with lb.connect() as client:
            client.send(GET)
            wait_until(lambda: lb.server._front._tasks)
            wait_until(lambda: not lb.server._front._tasks, what="its end")
            with pytest.raises(ConnectionResetError):
                client.read_to_end()


def test_a_client_that_reads_slowly_gets_all_at_the_front_too(tmp_path: Path) -> None:
    def large(connection: WorkerConnection, request: bytes) -> None:
        connection.send(response(bytes(12_000_000)))

    with lb_and_workers(large, body_timeout=1.0) as (lb, _):
        lb.call(lb.server._front.order, {"failure": 100, "path": "/b"}, str(tmp_path))
        lb.settle()
        with lb.connect() as client:
            client.send(CLOSING)
            got = 0
            while data := client.sock.recv(1_000_000):
                got += len(data)
                time.sleep(0.1)
            assert got > 12_000_000


def test_a_seed_repeats_the_draws(served: tuple[Balancer, Worker], order: Callable[..., None]) -> None:
    lb, _ = served

    def statuses(lease: str) -> list[int]:
        order([{"id": lease, "failure": 50, "seed": 7}])
        return [lb.ask(GET).status for _ in range(30)]

    first = statuses("s1")
    assert set(first) == {200, 500}
    assert statuses("s2") == first


def test_injections_are_counted(order: Callable[..., None], served: tuple[Balancer, Worker]) -> None:
    lb, _ = served

    def counted() -> dict[str, int]:
        lb.settle()
        return Reading(bytes(lb.counters._map)).front()

    before = counted()
    order(failure=100)
    lb.ask(GET)
    order(avg_delay=1)
    lb.ask(GET)
    after = counted()
    assert (after["failure"] - before["failure"], after["slow"] - before["slow"]) == (1, 1)
    assert "front" not in Reading(bytes(lb.counters._map)).edges()


def test_a_tunnel_passes_the_front(order: Callable[..., None], tmp_path: Path) -> None:
    def echo(connection: WorkerConnection, request: bytes) -> None:
        connection.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")
        while True:
            connection.send(connection.receive())

    with lb_and_workers(echo) as (lb, _), Client(lb.port) as client:
        done = threading.Event()
        lb.call(lambda: (lb.server._front.order({"reset": 100, "method": "POST"}, str(tmp_path)), done.set()))
        assert done.wait(10)
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.receive()
        assert head.startswith(b"HTTP/1.1 101 ")
        client.send(b"ping")
        assert client.receive() == b"ping"


@pytest.mark.parametrize("is_cut", [True, False], ids=["cut", "idle"])
def test_the_front_gives_up_a_tunnel_that_stands_still(is_cut: bool, tmp_path: Path) -> None:
    def flood(connection: WorkerConnection, request: bytes) -> None:
        connection.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")
        connection.send(bytes(60_000_000))

    limits = {"body_timeout": 0.3} if is_cut else {"tunnel_timeout": 0.3}
    with lb_and_workers(flood, **limits) as (lb, _):
        lb.call(lb.server._front.order, {"failure": 100, "path": "/b"}, str(tmp_path))
        lb.settle()
        with lb.connect() as client:
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")
            wait_until(lambda: lb.server._front._tasks)
            if is_cut:
                wait_until(lambda: lb.server.proxy.tunnels)
                lb.call(lb.server.proxy.end_tunnels)
            wait_until(lambda: not lb.server._front._tasks, what="its end")
            with pytest.raises(ConnectionResetError):
                client.read_to_end()


def test_a_client_that_ends_its_side_is_answered(served: tuple[Balancer, Worker], order: Callable[..., None]) -> None:
    lb, _ = served
    order(reset=100, path="/elsewhere")
    with lb.connect() as client:
        client.send(GET + GET)
        client.sock.shutdown(socket.SHUT_WR)
        assert client.read_to_end().count(BODY) == 2
    wait_until(lambda: not lb.server._front._tasks)


def test_a_header_of_the_proxy_protocol_names_the_client(tmp_path: Path) -> None:
    sent = b"PROXY TCP4 192.0.2.7 192.0.2.8 1 2\r\n" + GET
    with lb_and_workers(answer, trusted_proxies="127.0.0.1") as (lb, (worker,)):
        done = threading.Event()
        plan = {"failure": 100, "path": "/b"}
        lb.call(lambda: (lb.server._front.order(plan, str(tmp_path)), done.set()))
        assert done.wait(10)
        with lb.connect() as client:
            assert client.ask(sent, "GET").body == BODY
            assert client.ask(GET.replace(b"/a", b"/b")).status == 500
        assert b"X-Forwarded-For: 192.0.2.7\r\n" in worker.requests[-1]


def test_a_malformed_header_of_the_proxy_protocol_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with lb_and_workers(answer, trusted_proxies="127.0.0.1") as (lb, _):
        lb.call(lb.server._front.order, {"failure": 100}, str(tmp_path))
        lb.settle()
        assert met(lb, b"PROXY TCP4 nonsense\r\n" + GET) == b"reset"
        wait_until(lambda: any("PROXY protocol" in record.getMessage() for record in caplog.records))
