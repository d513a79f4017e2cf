"""Policies over real sockets: what the client's request decides, and what the response carries."""

import socket
import threading
import time

from tests.support.lb import Balancer, WorkerConnection, lb_and_workers, response
from tests.support.waiting import wait_until


def get(*fields: bytes, method: bytes = b"GET") -> bytes:
    return b"\r\n".join((method + b" / HTTP/1.1", b"Host: a", *fields)) + b"\r\n\r\n"


def worker_of(lb: Balancer, request: bytes) -> str | None:
    return lb.ask(request)["X-Comet-Worker"]


def test_a_cookie_leads_back_and_is_renewed_for_a_lost_worker() -> None:
    with lb_and_workers(count=3, balance="sticky-cookie") as (lb, workers), lb.connect() as client:
        first = client.ask(get())
        assert first["Set-Cookie"] == f"comet-worker={first['X-Comet-Worker']}; Path=/; HttpOnly; SameSite=Lax"
        cookie = f"Cookie: a=b; comet-worker={first['X-Comet-Worker']}".encode()
        kept = [client.ask(get(cookie)) for _ in range(6)]
        assert {(each["X-Comet-Worker"], each["Set-Cookie"]) for each in kept} == {(first["X-Comet-Worker"], None)}
        others = {client.ask(get())["X-Comet-Worker"] for _ in range(6)}
        assert len(others) == 3
        gone = int(str(first["X-Comet-Worker"])[-1])
        workers[gone].close()
        moved = lb.ask(get(cookie))
        assert moved.status == 200
        assert moved["X-Comet-Worker"] != first["X-Comet-Worker"]
        assert str(moved["Set-Cookie"]).startswith(f"comet-worker={moved['X-Comet-Worker']};")


def test_responses_of_any_framing_carry_the_cookie_once() -> None:
    def chunked(connection: WorkerConnection, request: bytes) -> None:
        connection.send(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nSet-Cookie: own=1\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
        )

    with lb_and_workers(chunked, balance="sticky-cookie") as (lb, _), lb.connect() as client:
        for _ in range(2):
            assert [value for name, value in client.ask(get()).fields if name.lower() == b"set-cookie"] == [
                b"own=1",
                b"comet-worker=worker-0; Path=/; HttpOnly; SameSite=Lax",
            ]
        assert client.ask(get(b"Cookie: comet-worker=worker-0"))["Set-Cookie"] == "own=1"


def test_a_request_waits_for_its_own_worker_and_blocks_no_other() -> None:
    gate = threading.Event()

    def slow(connection: WorkerConnection, request: bytes) -> None:
        gate.wait(60)
        connection.send(response())

    mine = get(b"Cookie: comet-worker=worker-0")
    with (
        lb_and_workers(slow, count=1, balance="sticky-cookie", max_in_flight=1) as (lb, (first, _)),
        lb.connect() as busy,
        lb.connect() as waiting,
    ):
        busy.send(mine)
        wait_until(lambda: first.requests)
        waiting.send(mine)
        wait_until(lambda: lb.count("queued") == 1)
        assert worker_of(lb, get(b"Cookie: comet-worker=worker-1")) == "worker-1"
        gate.set()
        assert [each.answer()["X-Comet-Worker"] for each in (busy, waiting)] == ["worker-0", "worker-0"]


def test_a_wait_for_a_place_is_no_latency_of_the_worker() -> None:
    gate = threading.Event()

    def busy_once(connection: WorkerConnection, request: bytes) -> None:
        if b"/failed" in request:
            gate.wait(60)
        connection.send(response(b"", "500 Internal Server Error" if b"/failed" in request else "200 OK"))

    with (
        lb_and_workers(busy_once, balance="peak-ewma", max_in_flight=1) as (lb, (worker,)),
        lb.connect() as failed,
        lb.connect() as waiting,
    ):
        failed.send(get().replace(b" / ", b" /failed "))
        wait_until(lambda: worker.requests)
        waiting.send(get())
        wait_until(lambda: lb.count("queued") == 1)
        waited_since = time.monotonic()
        wait_until(lambda: time.monotonic() > waited_since + 1)
        gate.set()
        assert (failed.answer().status, waiting.answer().status) == (500, 200)
        wait_until(lambda: lb.upstream("worker-0").latency)
        assert lb.upstream("worker-0").latency < 1


def test_a_field_leads_to_the_same_worker_also_for_unique_heads() -> None:
    settings = {"balance": "consistent-hash", "balance_key": "header:X-User"}
    with lb_and_workers(count=3, **settings) as (lb, _), lb.connect() as client:
        homes = {n: client.ask(get(b"X-User: %d" % n))["X-Comet-Worker"] for n in range(40)}
        assert len(set(homes.values())) == 3
        for n in range(40):
            for head in (b"X-User: %d" % n, b"x-user:  %d" % n):
                assert client.ask(get(head, b"X-Other: %d" % (n * 7)))["X-Comet-Worker"] == homes[n]


def test_the_address_of_the_client_is_a_key() -> None:
    with lb_and_workers(count=3, balance="consistent-hash") as (lb, _):
        found = {}
        for n in range(1, 30):
            with socket.create_connection(("127.0.0.1", lb.port), source_address=(f"127.0.0.{n}", 0)) as peer:
                peer.sendall(get(b"Connection: close"))
                answer = b"".join(iter(lambda peer=peer: peer.recv(65536), b""))  # type: ignore[misc]
                found[n] = answer.partition(b"X-Comet-Worker: ")[2][:8]
        assert set(found.values()) == {b"worker-0", b"worker-1", b"worker-2"}
        assert len({worker_of(lb, get()) for _ in range(5)}) == 1
