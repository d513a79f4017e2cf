"""Bad weather: dead, unhealthy and full workers, slow clients, drains, and what the supervisor orders."""

import contextlib
import errno
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lb.interface import messages
from lb.interface.messages import Message
from lb.interface.settings import Settings, UpstreamSpec
from lb.proxy.upstream_pool import Upstream
from tests.support.lb import TIMEOUT, Balancer, Behave, Worker, WorkerConnection, lb_and_workers, raw, response
from tests.support.waiting import PATIENCE, wait_until

GET = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"
PUT = b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"


def close(connection: WorkerConnection, request: bytes) -> None:
    connection.sock.close()


def hang(connection: WorkerConnection, request: bytes) -> None:
    connection.worker.over.wait(TIMEOUT)


def after(seconds: float) -> Behave:
    def behave(connection: WorkerConnection, request: bytes) -> None:
        time.sleep(seconds)
        connection.send(response(connection.worker.name.encode()))

    return behave


def once(event: threading.Event) -> Behave:
    """Answer once the event is there."""

    def behave(connection: WorkerConnection, request: bytes) -> None:
        assert event.wait(60)
        connection.send(response(connection.worker.name.encode()))

    return behave


# Repeats.


@pytest.mark.parametrize("request_bytes", [GET, PUT, POST])
def test_a_refused_connection_is_retried_and_marks_the_worker(request_bytes: bytes) -> None:
    """Nothing was sent, so any method may go elsewhere."""
    with lb_and_workers(count=2) as (lb, (first, second)):
        first.stop_listening()
        answer = lb.ask(request_bytes)
        assert (answer.status, answer["X-Comet-Worker"]) == (200, "worker-1")
        assert not lb.upstream("worker-0").ready
        assert [lb.ask().status for _ in range(4)] == [200] * 4
        assert lb.count("retries") == 1
        assert len(second.requests) == 5


@pytest.mark.parametrize("request_bytes", [GET, POST])
def test_failed_connects_do_not_count_as_retries(request_bytes: bytes) -> None:
    """A node that leaves takes several workers at once: a request that was not sent yet goes on until it finds one of
    the others.
    """
    with lb_and_workers(count=6) as (lb, workers):
        for worker in workers[:5]:
            worker.stop_listening()
        answer = lb.ask(request_bytes)
        assert (answer.status, answer["X-Comet-Worker"]) == (200, "worker-5")
        assert lb.count("retries") == 5


def test_without_retries_a_refused_connection_is_the_end() -> None:
    with lb_and_workers(count=2, retries=0) as (lb, (first, _)):
        first.stop_listening()
        assert lb.ask().status == 503
        assert lb.ask().status == 200


def test_a_refused_connection_takes_out_even_the_last_worker() -> None:
    with lb_and_workers(count=1) as (lb, (worker,)):
        worker.stop_listening()
        for _ in range(2):  # Found out by the request itself, and known.
            answer = lb.ask()
            assert (answer.status, answer["Retry-After"]) == (503, "1")
            assert answer.body == b'{"error": "no worker is available"}\n'


@pytest.mark.parametrize("request_bytes", [GET, POST])
def test_an_unsent_request_of_any_method_is_503(request_bytes: bytes) -> None:
    """RFC 9110 section 15.6.4: come again; 502 would say that a worker answered wrongly."""
    with lb_and_workers(count=3) as (lb, workers):
        for worker in workers:
            worker.stop_listening()
        answer = lb.ask(request_bytes)
        assert (answer.status, answer["Retry-After"]) == (503, "1")
        assert answer.body == b'{"error": "no worker is available"}\n'


def test_a_sent_and_lost_request_stays_502_if_the_next_refuses() -> None:
    with lb_and_workers(close, None) as (lb, (_, second)):
        second.stop_listening()
        assert lb.ask().status == 502


def full(connection: WorkerConnection, request: bytes) -> None:
    connection.send(response(b"full", "503 Service Unavailable", b"Retry-After: 1", b"X-Comet-Full: 1"))


@pytest.mark.parametrize(("request_bytes", "status"), [(GET, 200), (PUT, 200), (POST, 503)])
def test_a_full_worker_sends_safe_requests_elsewhere(request_bytes: bytes, status: int) -> None:
    """The worker stays healthy, and the connection to it is kept."""
    with lb_and_workers(full, None) as (lb, (first, second)):
        for n in range(1, 4):
            lb.proxy.pool._cursor = 0
            answer = lb.ask(request_bytes)
            assert answer.status == status
            assert answer["X-Comet-Full"] is None
            assert (len(first.requests), len(second.requests)) == (n, n if status == 200 else 0)
            lb.rest("worker-0", -60.0)  # However long this takes: a POST goes on a connection used a moment ago.
        assert lb.upstream("worker-0").ready
        assert not lb.upstream("worker-0").suspect
        assert len(first.connections) == 1
        assert lb.count("in_flight") == lb.upstream("worker-0").in_flight == 0


def test_when_all_workers_are_full_their_response_is_forwarded() -> None:
    with lb_and_workers(full, full) as (lb, workers):
        answer = lb.ask()
        assert (answer.status, answer["Retry-After"], answer.body) == (503, "1", b"full")
        assert [len(worker.requests) for worker in workers] == [1, 1]
        assert lb.count("own_errors") == 0


@pytest.mark.parametrize(("request_bytes", "status"), [(GET, 200), (PUT, 200), (POST, 502)])
def test_an_early_close_is_retried_only_if_safe(request_bytes: bytes, status: int) -> None:
    """RFC 9110 section 9.2.2; a POST is never sent twice."""
    with lb_and_workers(close, None) as (lb, (first, second)):
        assert lb.ask(request_bytes).status == status
        assert len(first.requests) == 1
        assert [request[-5:] for request in second.requests] == (
            [request_bytes[-5:]] if status == 200 and request_bytes != GET else [b"1\r\n\r\n"] if status == 200 else []
        )


def test_the_keep_alive_race_never_reaches_the_client() -> None:
    """One worker only, that closes the connection when the second request arrives."""
    seen = {"connection": 0}

    def once(connection: WorkerConnection, request: bytes) -> None:
        if getattr(connection, "used", False):
            connection.sock.close()
            return
        connection.used = True  # type: ignore[attr-defined]
        seen["connection"] += 1
        connection.send(response())

    with lb_and_workers(once) as (lb, _):
        assert [lb.ask().status for _ in range(3)] == [200, 200, 200]
        assert lb.upstream("worker-0").health.healthy
        assert not lb.upstream("worker-0").suspect
        assert seen["connection"] == 3


def test_a_post_goes_on_a_fresh_connection_or_one_just_used() -> None:
    with lb_and_workers(count=1) as (lb, (worker,)):
        lb.ask()
        lb.rest("worker-0", 2.0)
        assert lb.ask(POST).status == 200
        assert len(worker.connections) == 2
        lb.rest("worker-0", -60.0)
        assert lb.ask(POST).status == 200
        assert len(worker.connections) == 2


def test_retries_are_limited_and_never_reach_a_worker_twice() -> None:
    with lb_and_workers(close, close, close, close, retries=2) as (lb, workers):
        assert lb.ask().status == 502
        assert sorted(len(worker.requests) for worker in workers) == [0, 1, 1, 1]


def test_a_large_body_is_not_held_for_a_retry() -> None:
    def read_and_close(connection: WorkerConnection, request: bytes) -> None:
        connection.sock.close()

    with lb_and_workers(read_and_close, count=1) as (lb, (_, second)):
        blob = b"x" * 200000
        assert lb.ask(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(blob) + blob).status == 502
        assert second.requests == []


# Health.


def test_health_checks_take_a_worker_out_and_back() -> None:
    status = {"now": 200}
    unhealthy = Worker("worker-0", health=lambda: status["now"])
    with lb_and_workers(unhealthy, None, health_interval=0.05) as (lb, (first, _)):
        wait_until(lambda: first.probes >= 2)
        assert lb.upstream("worker-0").ready
        status["now"] = 404
        wait_until(lambda: not lb.upstream("worker-0").ready)
        assert {lb.ask()["X-Comet-Worker"] for _ in range(4)} == {"worker-1"}
        status["now"] = 200
        wait_until(lambda: lb.upstream("worker-0").ready)
        assert {lb.ask()["X-Comet-Worker"] for _ in range(4)} == {"worker-0", "worker-1"}


def test_a_hanging_worker_delays_no_other_check() -> None:
    hanging = Worker("worker-0", health=lambda: time.sleep(5) or 200)
    with lb_and_workers(hanging, None, health_interval=0.05, health_timeout=3.0) as (lb, (_, second)):
        wait_until(lambda: second.probes >= 5, seconds=2.5)
        wait_until(lambda: not lb.upstream("worker-0").ready)
        hanging._health = lambda: 200


def test_a_suspect_worker_is_checked_at_once() -> None:
    ready: list[bool] = []

    def failing() -> int:
        ready.append(lb.upstream("worker-0").ready)
        return 500

    with lb_and_workers(Worker("worker-0", close, health=failing), None) as (lb, _):
        assert lb.ask().status == 200
        wait_until(lambda: not lb.upstream("worker-0").ready, seconds=2.0)
        assert ready[0]
        assert not any(ready[1:])  # One check was enough.


def test_a_passed_check_clears_a_suspect() -> None:
    odd = Worker("worker-0", close)
    with lb_and_workers(odd, None) as (lb, (first, _)):
        assert lb.ask().status == 200
        wait_until(lambda: first.probes == 1 and not lb.upstream("worker-0").suspect)
        assert lb.upstream("worker-0").ready


def test_suspicion_never_takes_out_the_last_worker() -> None:
    with lb_and_workers(Worker("worker-0", close, health=lambda: 500), health_fall=1000) as (lb, (worker,)):
        assert lb.ask().status == 502
        wait_until(lambda: worker.probes >= 1)
        assert lb.upstream("worker-0").ready


def test_an_application_error_marks_no_worker_suspect() -> None:
    with lb_and_workers(lambda connection, _: connection.send(response(b"no", "500 Oops"))) as (lb, (worker,)):
        assert [lb.ask().status for _ in range(10)] == [500] * 10
        assert lb.upstream("worker-0").ready
        assert worker.probes == 0


def test_first_checks_are_staggered() -> None:
    with lb_and_workers(count=4, health_interval=4.0) as (lb, workers):
        del lb
        wait_until(lambda: workers[0].probes)
        assert workers[3].probes == 0
        wait_until(lambda: workers[3].probes >= 1)


def test_no_workers_is_503_with_retry_after() -> None:
    with lb_and_workers() as (lb, _):
        answer = lb.ask()
        assert (answer.status, answer["Retry-After"]) == (503, "1")
        assert answer.body == b'{"error": "no worker is available"}\n'


# Queue and timeouts.


def test_a_full_worker_makes_requests_wait_in_order() -> None:
    go_on = threading.Event()
    with lb_and_workers(once(go_on), max_in_flight=1, queue_timeout=60.0) as (lb, (worker,)):
        clients = [lb.connect() for _ in range(5)]
        for n, client in enumerate(clients):
            client.send(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % n)
            wait_until(lambda n=n: lb.count("requests") == n + 1)
        assert lb.count("queued") == 4
        go_on.set()
        assert [client.answer().status for client in clients] == [200] * 5
        assert [request.split(b" ")[1] for request in worker.requests] == [b"/%d" % n for n in range(5)]
        for client in clients:
            client.sock.close()
        assert lb.count("queued") == 0


def test_a_queued_retry_does_not_block_the_queue() -> None:
    go_on = threading.Event()

    def first(connection: WorkerConnection, request: bytes) -> None:
        if b"/lost" in request:
            wait_until(lambda: lb.count("in_flight") == 2)
            connection.sock.close()
        else:
            connection.send(response(b"free"))

    def second(connection: WorkerConnection, request: bytes) -> None:
        go_on.wait(10)
        connection.send(response(b"busy"))

    with (
        lb_and_workers(first, second, max_in_flight=1) as (lb, (free, _)),
        lb.connect() as lost,
        lb.connect() as busy,
        lb.connect() as other,
    ):
        lost.send(b"GET /lost HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_until(lambda: free.requests)
        busy.send(GET)
        wait_until(lambda: lb.count("queued") == 1)
        other.send(GET)
        assert other.answer().body == b"free"
        assert lb.count("queued") == 1
        go_on.set()
        assert [client.answer().body for client in (busy, lost)] == [b"busy", b"busy"]


def test_a_queued_retry_keeps_the_request_deadline() -> None:
    with lb_and_workers(close, hang, max_in_flight=1, request_timeout=4.0) as (lb, _), lb.connect() as lost:
        lb.upstream("worker-1").in_flight = 1  # As if another one were there.
        lost.send(GET)
        wait_until(lambda: lb.count("queued") == 1)
        (client,) = lb.proxy._queue
        due = client.due
        lb.upstream("worker-1").in_flight = 0
        lb.call(lb.proxy.serve_queue)
        assert lost.answer().status == 504
        assert client.due == due


def test_the_queue_has_a_deadline() -> None:
    with lb_and_workers(hang, max_in_flight=1, queue_timeout=0.2) as (lb, _), lb.connect() as first:
        first.send(GET)
        wait_until(lambda: lb.count("in_flight") == 1)
        answer = lb.ask()
        assert (answer.status, answer["Retry-After"]) == (503, "1")
        assert lb.count("queued") == 0


def test_a_client_that_leaves_the_queue_is_not_served() -> None:
    go_on = threading.Event()
    with lb_and_workers(once(go_on), max_in_flight=1) as (lb, (worker,)), lb.connect() as first:
        first.send(GET)
        wait_until(lambda: lb.count("in_flight") == 1)
        with lb.connect() as second:
            second.send(b"POST /gone HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nab")
            wait_until(lambda: lb.count("queued") == 1)
        wait_until(lambda: lb.count("queued") == 0)
        go_on.set()
        assert first.answer().status == 200
        assert len(worker.requests) == 1


def test_a_queued_upload_applies_backpressure() -> None:
    go_on = threading.Event()
    with (
        lb_and_workers(once(go_on), max_in_flight=1, queue_timeout=60.0) as (lb, (worker,)),
        lb.connect() as first,
        lb.connect() as second,
    ):
        first.send(GET)
        wait_until(lambda: lb.count("in_flight") == 1)
        blob = b"z" * (4 << 20)
        threading.Thread(
            target=second.send,
            args=(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(blob) + blob,),
            daemon=True,
        ).start()
        wait_until(lambda: any(each.reading_held for each in list(lb.proxy.clients)), what="a body that waits")
        go_on.set()
        assert second.answer("POST").status == 200
        assert worker.requests[1].endswith(blob)


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
        wait_until(lambda: lb.count("connections") == 0)


@contextlib.contextmanager
def deaf_port() -> Iterator[int]:
    """A port that takes no connection, and does not say so: its accept queue is full, further SYNs are dropped."""
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        yield full.getsockname()[1]


@pytest.mark.parametrize("deaf", [1, 4])
def test_workers_with_a_slow_connect_are_skipped(deaf: int) -> None:
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(deaf_port()) for _ in range(deaf)]
        good = stack.enter_context(contextlib.closing(Worker("good")))
        specs = tuple(UpstreamSpec(f"worker-{n}", "127.0.0.1", port) for n, port in enumerate([*ports, good.port]))
        lb = stack.enter_context(
            contextlib.closing(Balancer(specs, Settings(connect_timeout=1.0, health_interval=60.0, retries=2)))
        )
        assert lb.ask(POST)["X-Comet-Worker"] == f"worker-{deaf}"


def test_a_retry_waits_for_room_within_the_request_timeout() -> None:
    """It would be sent only to be cut off, and the worker blamed for it."""
    over = threading.Event()

    def half(connection: WorkerConnection, request: bytes) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        over.wait(TIMEOUT)
        connection.send(b"hello")

    with contextlib.ExitStack() as stack:
        good = stack.enter_context(contextlib.closing(Worker("good", half)))
        specs = (
            UpstreamSpec("worker-0", "127.0.0.1", good.port),
            UpstreamSpec("worker-1", "127.0.0.1", stack.enter_context(deaf_port())),
        )
        settings = Settings(connect_timeout=0.5, request_timeout=2.5, health_interval=60.0, max_in_flight=1)
        lb = stack.enter_context(contextlib.closing(Balancer(specs, settings)))
        client = stack.enter_context(lb.connect())
        client.send(GET)
        wait_until(lambda: good.requests)
        answer = lb.ask()
        over.set()
        assert (answer.status, answer.body) == (503, b'{"error": "no worker had room in time"}\n')
        assert client.answer().body == b"hellohello"
        assert len(good.requests) == 1
        assert lb.upstream("worker-0").ready
        assert not lb.upstream("worker-0").suspect


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


def test_own_descriptor_shortage_is_503_and_marks_no_suspect(monkeypatch: pytest.MonkeyPatch) -> None:
    with lb_and_workers(count=1) as (lb, _):

        async def fail(*_: Any) -> Any:
            raise OSError(errno.EMFILE, "Too many open files")

        monkeypatch.setattr(
            lb.proxy.dialer,
            "_loop",
            type("Loop", (), {"create_connection": fail, "create_task": lb.loop.create_task})(),
        )
        answer = lb.ask()
        assert (answer.status, answer["Retry-After"]) == (503, "1")
        assert lb.upstream("worker-0").ready
        assert not lb.upstream("worker-0").suspect
        monkeypatch.undo()
        assert lb.ask().status == 200


def test_idle_upstream_connections_close_before_the_worker_does() -> None:
    with lb_and_workers(count=1, upstream_idle_timeout=0.2) as (lb, (worker,)):
        lb.ask()
        wait_until(lambda: not lb.upstream("worker-0").connections)
        assert lb.ask().status == 200
        assert len(worker.connections) == 2


# The supervisor's orders.


class Supervisor:
    """The other end of the control socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(TIMEOUT)
        self._decoder = messages.Decoder()
        self._waiting: list[Message] = []

    def send(self, message: Message) -> None:
        self.sock.sendall(messages.encode(message))

    def receive(self, kind: str) -> Message:
        """Return the next message of a kind, dropping others."""
        while True:
            while self._waiting:
                message = self._waiting.pop(0)
                if message["type"] == kind:
                    return message
            data = self.sock.recv(65536)
            if not data:
                raise EOFError
            self._waiting = self._decoder.feed(data)


@contextlib.contextmanager
def supervised(*behaviours: Worker | Behave | None, **settings: Any) -> Any:
    workers = [each if isinstance(each, Worker) else Worker(f"worker-{n}", each) for n, each in enumerate(behaviours)]
    specs = [UpstreamSpec(worker.name, "127.0.0.1", worker.port) for worker in workers]
    ours, theirs = socket.socketpair()
    settings.setdefault("health_interval", 60.0)
    lb = Balancer(tuple(specs), Settings(**settings), theirs)
    try:
        yield lb, workers, specs, Supervisor(ours)
    finally:
        ours.close()
        lb.close()
        for worker in workers:
            worker.close()


def test_a_new_supervisor_gets_ready_and_worker_health() -> None:
    with supervised(None, None) as (lb, _, _, supervisor):
        ready = supervisor.receive("ready")
        assert (ready["name"], ready["port"]) == ("lb-0", lb.port)
        assert [supervisor.receive("health")["upstream"] for _ in range(2)] == ["worker-0", "worker-1"]


def test_ping_and_status() -> None:
    with supervised(None, max_in_flight=9) as (_, _, specs, supervisor):
        supervisor.send(messages.ping(42))
        assert supervisor.receive("pong")["id"] == 42
        supervisor.send({"type": "of tomorrow"})
        supervisor.send(messages.status())
        status = supervisor.receive("status")
        assert status["version"] == messages.VERSION
        assert status["settings"]["max_in_flight"] == 9
        (upstream,) = status["upstreams"]
        expected = {"name": "worker-0", "host": "127.0.0.1", "port": specs[0].port, "state": "up", "healthy": True}
        expected |= {"health_path": None, "health_host": None}
        assert upstream == expected


def test_a_pong_counts_requests_on_draining_workers() -> None:
    with supervised(hang, None, half_close_grace=0.1) as (lb, workers, specs, supervisor):
        with lb.connect() as waiting:
            waiting.send(GET)
            wait_until(lambda: workers[0].requests)
            supervisor.send(messages.ping(1))
            assert {**supervisor.receive("pong"), "checks": {}} == {"type": "pong", "id": 1, "checks": {}}
            supervisor.send(messages.upstreams([replace(specs[0], state="draining")]))
            supervisor.send(messages.ping(2))
            assert supervisor.receive("pong")["busy"] == {"worker-0": 1}

        def idle() -> bool:
            supervisor.send(messages.ping(3))
            return "busy" not in supervisor.receive("pong")

        wait_until(idle)


def test_a_pong_has_the_durations_of_health_checks() -> None:
    with supervised(None, health_interval=0.1, health_timeout=30.0) as (_, _, _, supervisor):

        def checked() -> float | None:
            supervisor.send(messages.ping(1))
            return supervisor.receive("pong").get("checks", {}).get("worker-0")

        assert 0 < wait_until(checked) < 30_000


def test_health_changes_are_reported() -> None:
    with supervised(None, None) as (lb, workers, _, supervisor):
        workers[0].stop_listening()
        lb.ask()
        while (edge := supervisor.receive("health"))["healthy"]:
            pass
        assert (edge["upstream"], edge["reason"]) == ("worker-0", "connection refused")


def test_requests_on_a_worker_marked_down_are_retried_if_safe() -> None:
    with supervised(hang, None) as (lb, workers, specs, supervisor), lb.connect() as waiting, lb.connect() as unsafe:
        waiting.send(GET)
        wait_until(lambda: workers[0].requests)
        lb.ask()
        unsafe.send(POST)
        wait_until(lambda: len(workers[0].requests) == 2)
        supervisor.send(messages.upstreams([UpstreamSpec("worker-0", "127.0.0.1", specs[0].port, "down"), specs[1]]))
        assert waiting.answer()["X-Comet-Worker"] == "worker-1"
        assert lb.upstream("worker-0").in_flight == 1
        assert len(workers[1].requests) == 2


def test_a_draining_or_removed_worker_finishes_what_it_has() -> None:
    with supervised(after(0.3), None) as (lb, workers, specs, supervisor), lb.connect() as client:
        for last in (False, True):
            client.send(GET)
            wait_until(lambda last=last: len(workers[0].requests) == 1 + last)
            supervisor.send(
                messages.upstreams(
                    [specs[1]] if last else [UpstreamSpec("worker-0", "127.0.0.1", specs[0].port, "draining"), specs[1]]
                )
            )
            supervisor.send(messages.ping(1))
            supervisor.receive("pong")
            assert {lb.ask()["X-Comet-Worker"] for _ in range(3)} == {"worker-1"}
            assert client.answer()["X-Comet-Worker"] == "worker-0"
            supervisor.send(messages.upstreams(specs))
            supervisor.send(messages.ping(1))
            supervisor.receive("pong")
            lb.proxy.pool._cursor = 0
        wait_until(lambda: lb.count("in_flight") == 0)


def silent() -> Worker:
    """A machine that is gone: connections to it stay open, and nothing comes on them."""
    made = Worker("worker-0", hang, health=lambda: 200 if made.over.wait(TIMEOUT) else 0)
    return made


def test_requests_on_a_removed_worker_are_retried_if_safe() -> None:
    """A process that ends closes its connections, a machine that is gone does not: those who wait would wait until
    their time is up.
    """
    with (
        supervised(silent(), None, health_timeout=0.2) as (lb, workers, specs, supervisor),
        lb.connect() as waiting,
        lb.connect() as unsafe,
    ):
        waiting.send(GET)
        wait_until(lambda: workers[0].requests)
        lb.ask()
        unsafe.send(POST)
        wait_until(lambda: len(workers[0].requests) == 2)
        former = lb.upstream("worker-0")
        supervisor.send(messages.upstreams([specs[1]]))
        assert waiting.answer()["X-Comet-Worker"] == "worker-1"
        # It may have been done: whether it was nobody can tell yet.
        lb.settle()
        assert former.in_flight == 1


def test_unsafe_requests_on_a_removed_worker_continue() -> None:
    """It may be busy with this very request."""
    with (
        supervised(silent(), None, health_timeout=0.1, health_fall=1, retries=0) as (lb, workers, specs, supervisor),
        lb.connect() as waiting,
    ):
        waiting.send(GET)
        former = lb.upstream("worker-0")
        wait_until(lambda: workers[0].requests)
        supervisor.send(messages.upstreams([specs[1]]))
        wait_until(lambda: workers[0].probes >= 2)
        workers[0].connections[0].send(response(b"late"))
        assert waiting.answer().body == b"late"
        lb.settle()
        assert former.in_flight == 0


def test_a_removed_worker_is_checked_only_while_it_drains() -> None:
    go_on = threading.Event()
    with supervised(once(go_on), None) as (lb, workers, specs, supervisor), lb.connect() as client:
        client.send(GET)
        wait_until(lambda: workers[0].requests)
        former = lb.upstream("worker-0")
        supervisor.send(messages.upstreams([specs[1]]))
        wait_until(lambda: workers[0].probes)
        go_on.set()
        assert client.answer()["X-Comet-Worker"] == "worker-0"
        wait_until(lambda: former not in lb.server._health._loops)
        assert former not in lb.server._health._removed


def test_a_suspicion_of_the_supervisor_is_checked_at_once() -> None:
    with supervised(silent(), None, health_timeout=4.0) as (lb, workers, _, supervisor), lb.connect() as waiting:
        waiting.send(GET)
        wait_until(lambda: workers[0].requests)
        supervisor.send(messages.suspect("worker-0", "its node h2 is down"))
        supervisor.send(messages.suspect("worker-1", "its node h3 is down"))
        assert waiting.answer()["X-Comet-Worker"] == "worker-1"
        edge = supervisor.receive("health")
        while edge["healthy"]:
            edge = supervisor.receive("health")
        assert edge["upstream"] == "worker-0"
        # The other one answers, so the supervisor's word is nothing against it.
        assert workers[1].probes == 1
        wait_until(lambda: lb.upstream("worker-1").ready and not lb.upstream("worker-1").suspect)


def test_new_workers_and_limits_take_effect_at_once() -> None:
    late = Worker("late")
    with supervised() as (lb, _, _, supervisor):
        assert lb.ask().status == 503
        supervisor.send(messages.upstreams([UpstreamSpec("worker-9", "127.0.0.1", late.port)], 3))
        supervisor.send(messages.settings({"retries": 0}))
        supervisor.send(messages.ping(1))
        supervisor.receive("pong")
        assert lb.ask()["X-Comet-Worker"] == "worker-9"
        assert lb.proxy.pool.limit == 3
        assert lb.proxy.settings.retries == 0
    late.close()


def test_the_listening_socket_is_handed_over() -> None:
    """SCM_RIGHTS: after the LB's end the receiver still holds a listening socket on the same port."""
    with supervised(None) as (lb, _, _, supervisor):
        supervisor.receive("health")
        supervisor.send(messages.listener())
        data, fds, _, _ = socket.recv_fds(supervisor.sock, 1000, 1)
        assert messages.decode(data)["type"] == "listener"
        port = lb.port
    with socket.socket(fileno=fds[0]) as held:
        assert held.getsockname()[1] == port
        socket.create_connection(("127.0.0.1", port), 2).close()


def test_an_lb_survives_a_broken_or_dead_supervisor() -> None:
    with supervised(None) as (lb, _, _, supervisor):
        supervisor.send({"type": "upstreams", "upstreams": "nonsense"})
        with pytest.raises(EOFError):
            supervisor.receive("never")
        assert lb.ask().status == 200
    with supervised(None) as (lb, _, _, supervisor):
        supervisor.sock.close()
        assert lb.ask().status == 200


def test_bad_settings_are_refused_whole_and_the_peer_stays() -> None:
    with supervised(None) as (lb, _, _, supervisor):
        for partial in (
            {"head_timeout": "soon", "retries": 9},
            {"max_head": None},
            {"health_interval": 0},
            ["retries"],
            "x",
            1,
        ):
            supervisor.send({"type": "settings", "settings": partial})
        supervisor.send(messages.ping(1))
        supervisor.receive("pong")
        assert lb.proxy.settings == Settings(health_interval=60.0)
        assert lb.ask().status == 200


@pytest.mark.parametrize(
    "message",
    [
        {"type": "drain", "grace": float("nan")},
        {"type": "drain", "grace": -1},
        {"type": "drain", "grace": "soon"},
        {"type": "drain"},
        {"type": "upstreams", "upstreams": [{"name": "w", "host": "h", "port": 70000}]},
        {"type": "upstreams", "upstreams": [{"name": "w", "host": "h", "port": float("inf")}]},
        {"type": "upstreams", "upstreams": [], "max_in_flight": 0},
    ],
)
def test_a_malformed_control_message_drops_the_peer(message: Message) -> None:
    with supervised(None) as (lb, _, _, supervisor):
        supervisor.send(message)
        with pytest.raises(EOFError):
            supervisor.receive("never")
        assert not lb.proxy.draining
        assert lb.ask().status == 200


def test_a_worker_with_an_invalid_host_is_skipped() -> None:
    with supervised(None) as (lb, workers, specs, supervisor):
        odd = UpstreamSpec("odd", "x" * 64 + ".invalid", 80)
        supervisor.send(messages.upstreams([odd, specs[0]]))
        supervisor.send(messages.ping(1))
        supervisor.receive("pong")
        assert lb.ask(POST)["X-Comet-Worker"] == "worker-0"
        assert len(workers[0].requests) == 1


def test_a_drain_finishes_requests_and_sends_close() -> None:
    """RFC 9112 section 9.6; DESIGN section 8: idle clients are not cut while they may be sending."""
    go_on = threading.Event()

    def second_waits(connection: WorkerConnection, request: bytes) -> None:
        assert len(connection.worker.requests) == 1 or go_on.wait(60)
        connection.send(response())

    with supervised(second_waits) as (lb, _, _, supervisor), lb.connect() as busy, lb.connect() as idle:
        idle.ask(GET)
        busy.send(GET)
        wait_until(lambda: lb.count("in_flight") == 1)
        supervisor.send(messages.drain(60.0))
        wait_until(lambda: lb.proxy.draining)
        go_on.set()
        answer = busy.answer()
        assert (answer.status, answer["Connection"]) == (200, "close")
        assert idle.ask(GET)["Connection"] == "close"
        supervisor.receive("drained")
        wait_until(lambda: not lb._thread.is_alive())


def test_a_drain_ends_with_its_grace() -> None:
    with supervised(hang) as (lb, _, _, supervisor), lb.connect() as busy, lb.connect() as idle:
        busy.send(GET)
        wait_until(lambda: lb.count("in_flight") == 1)
        supervisor.send(messages.drain(0.3))
        supervisor.receive("drained")
        assert idle.closed()
        wait_until(lambda: not lb._thread.is_alive())


def test_later_supervisors_connect_to_the_control_socket(tmp_path: Path) -> None:
    with supervised(None) as (lb, _, _, _):
        path = str(tmp_path / "c")
        with socket.socket(socket.AF_UNIX) as control:
            control.bind(path)
            control.listen()
            lb.call(lb.server._hub.listen, control.dup())
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(path)
                supervisor = Supervisor(sock)
                assert supervisor.receive("ready")["port"] == lb.port


def test_a_supervisor_that_does_not_read_is_dropped() -> None:
    with supervised(None) as (lb, _, _, supervisor):
        supervisor.receive("ready")
        for _ in range(3):
            with contextlib.suppress(OSError):
                supervisor.sock.settimeout(0.2)
                supervisor.sock.sendall(messages.encode(messages.status()) * 5000)
        wait_until(lambda: not lb.server._hub.peers)
        assert lb.ask().status == 200


def test_queued_requests_fail_at_once_with_the_last_worker() -> None:
    with (
        supervised(hang, max_in_flight=1) as (lb, workers, specs, supervisor),
        lb.connect() as first,
        lb.connect() as second,
    ):
        first.send(POST)
        wait_until(lambda: workers[0].requests)
        second.send(GET)
        wait_until(lambda: lb.count("queued") == 1)
        supervisor.send(messages.upstreams([UpstreamSpec("worker-0", "127.0.0.1", specs[0].port, "down")]))
        assert second.answer().status == 503
        assert lb.count("queued") == 0


def test_a_client_gone_during_connect_leaves_the_connection() -> None:
    with lb_and_workers(count=1) as (lb, (worker,)):
        seen: list[Any] = []

        def begin_and_abandon() -> None:
            client = lb.proxy.clients.copy().pop()
            client.data_received(GET)
            seen.append(client.connection)
            client.transport.abort()

        with lb.connect():
            wait_until(lambda: lb.proxy.clients)
            lb.call(begin_and_abandon)
            wait_until(lambda: len(lb.upstream("worker-0").idle) == 1)
        assert lb.ask().status == 200
        assert len(worker.connections) == 1
        assert lb.count("aborted") == 1
        assert lb.upstream("worker-0").in_flight == 0


def test_an_unreachable_worker_is_marked_suspect_and_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    with lb_and_workers(count=2) as (lb, (_, second)):
        create = lb.loop.create_connection

        async def connect(factory: Any, host: str, port: int) -> Any:
            if port != second.port:
                raise OSError(errno.EHOSTUNREACH, "No route to host")
            return await create(factory, host, port)

        monkeypatch.setattr(
            lb.proxy.dialer,
            "_loop",
            type("Loop", (), {"create_connection": staticmethod(connect), "create_task": lb.loop.create_task})(),
        )
        suspects, check = list[str](), lb.proxy.on_suspect

        def on_suspect(upstream: Upstream) -> None:
            suspects.append(upstream.name)
            check(upstream)

        monkeypatch.setattr(lb.proxy, "on_suspect", on_suspect)
        assert lb.ask(POST)["X-Comet-Worker"] == "worker-1"
        wait_until(lambda: suspects == ["worker-0"])
        wait_until(lambda: lb.proxy.pool.suspects == 0)  # The check connects in another way and succeeds.


def test_an_unsolicited_response_closes_the_connection() -> None:
    """RFC 9112 section 9.2: it must not be taken for the answer to the next request."""

    def chatty(connection: WorkerConnection, request: bytes) -> None:
        connection.send(response(b"one"))
        time.sleep(0.05)
        with contextlib.suppress(OSError):
            connection.send(response(b"two"))

    with lb_and_workers(chatty) as (lb, _), lb.connect() as client:
        assert client.ask(GET).body == b"one"
        wait_until(lambda: not lb.upstream("worker-0").connections)
        assert client.ask(GET).body == b"one"


def test_a_bad_chunk_truncates_the_response() -> None:
    def early(connection: WorkerConnection, request: bytes) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        connection.worker.over.wait(10)

    worker = Worker("worker-0", raw)
    worker.behave_after_head(early)
    with lb_and_workers(worker) as (lb, _), lb.connect() as client:
        client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
        while b"hello" not in client.buffer:
            client.buffer += client.sock.recv(1000)
        client.send(b"nonsense\r\n")
        with pytest.raises(ConnectionResetError):
            client.read_to_end()
        wait_until(lambda: lb.count("in_flight") == 0)


def test_a_worker_may_close_while_idle_or_leave_while_answering() -> None:
    """Its connections go with it, on the common path too."""
    go_on = threading.Event()
    with supervised(once(go_on), None) as (lb, workers, specs, supervisor), lb.connect() as client:
        client.send(GET)
        wait_until(lambda: workers[0].requests)
        supervisor.send(
            messages.upstreams([UpstreamSpec("worker-0", "127.0.0.1", specs[0].port, "draining"), specs[1]])
        )
        wait_until(lambda: lb.upstream("worker-0").state == "draining")
        go_on.set()
        assert client.answer()["X-Comet-Worker"] == "worker-0"
        wait_until(lambda: not lb.upstream("worker-0").connections)
        assert client.ask(GET)["X-Comet-Worker"] == "worker-1"
        workers[1].connections[0].sock.shutdown(socket.SHUT_RDWR)
        wait_until(lambda: not lb.upstream("worker-1").idle)
        assert client.ask(GET)["X-Comet-Worker"] == "worker-1"


def test_idle_connections_of_an_unhealthy_worker_are_closed() -> None:
    status = {"now": 200}
    with lb_and_workers(Worker("worker-0", health=lambda: status["now"]), None, health_interval=0.05) as (lb, _):
        lb.ask()
        assert len(lb.upstream("worker-0").idle) == 1
        status["now"] = 500
        wait_until(lambda: not lb.upstream("worker-0").ready)
        assert not lb.upstream("worker-0").idle


def test_a_refused_health_check_takes_a_worker_out_at_once() -> None:
    with lb_and_workers(count=2, health_interval=0.2, health_fall=100) as (lb, (first, _)):
        first.stop_listening()
        wait_until(lambda: not lb.upstream("worker-0").ready)
        assert lb.upstream("worker-0").reason == "connection refused"
        wait_until(lambda: lb.server._health._loops)


def test_retries_are_counted_whatever_their_outcome() -> None:
    def late_close(connection: WorkerConnection, request: bytes) -> None:
        time.sleep(0.02)
        connection.sock.close()

    for last in (None, hang):
        with (
            lb_and_workers(late_close, late_close, last, retries=5, half_close_grace=0.1) as (lb, workers),
            lb.connect() as client,
        ):
            client.send(GET)
            if last is None:
                assert client.answer()["X-Comet-Worker"] == "worker-2"
            else:
                wait_until(lambda workers=workers: workers[2].requests)
                client.sock.close()
            wait_until(lambda lb=lb: lb.count("in_flight") == 0)
            assert lb.proxy.retrying == 0
            assert lb.count("retries") == 2


def test_a_full_workers_split_response_closes_its_connection() -> None:
    def pieces(connection: WorkerConnection, request: bytes) -> None:
        reply = response(b"full", "503 Service Unavailable", b"X-Comet-Full: 1")
        connection.send(reply[:-4])
        time.sleep(0.05)
        with contextlib.suppress(OSError):
            connection.send(reply[-4:])

    with lb_and_workers(pieces, None) as (lb, _):
        assert lb.ask()["X-Comet-Worker"] == "worker-1"
        assert not lb.upstream("worker-0").connections


def test_a_second_drain_message_changes_nothing() -> None:
    with supervised(after(0.3)) as (lb, _, _, supervisor), lb.connect() as client:
        client.send(GET)
        wait_until(lambda: lb.count("in_flight") == 1)
        supervisor.send(messages.drain(5.0))
        supervisor.send(messages.drain(0.0))
        assert client.answer().status == 200
        supervisor.receive("drained")
