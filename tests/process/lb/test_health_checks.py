"""Workers that fail checks or cannot be reached leave the rotation, and come back."""

import contextlib
import errno
import threading
import time
from typing import Any

import pytest

from lb.interface.settings import Settings, UpstreamSpec
from lb.proxy.upstream_pool import Upstream
from tests.support.lb import Balancer, Worker, lb_and_workers, response
from tests.support.lb_behaviours import GET, POST, close, deaf_port, once
from tests.support.waiting import wait_until


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


@pytest.mark.parametrize(
    ("request_bytes", "retries"),
    [(GET, 0), (b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n" + bytes(300_000), 2)],
)
def test_an_unhealthy_worker_finishes_what_no_other_may_get(request_bytes: bytes, retries: int) -> None:
    """No repeats are wanted, or the body is no longer held: the answer that is on its way is the only one."""
    status, go_on = {"now": 200}, threading.Event()
    failing = Worker("worker-0", once(go_on), health=lambda: status["now"])
    with (
        lb_and_workers(failing, None, health_interval=0.05, retries=retries) as (lb, (first, second)),
        lb.connect() as client,
    ):
        client.send(request_bytes)
        wait_until(lambda: first.requests)
        status["now"] = 500
        wait_until(lambda: not lb.upstream("worker-0").ready)
        go_on.set()
        answer = client.answer(request_bytes[:3].decode())
        assert (answer.status, answer.body, second.requests) == (200, b"worker-0", [])


def test_a_hanging_worker_delays_no_other_check() -> None:
    hanging = Worker("worker-0", health=lambda: time.sleep(5) or 200)
    with lb_and_workers(hanging, None, health_interval=0.05, health_timeout=3.0) as (lb, (_, second)):
        wait_until(lambda: second.probes >= 5, seconds=2.5)
        wait_until(lambda: not lb.upstream("worker-0").ready)
        assert {lb.ask()["X-Comet-Worker"] for _ in range(4)} == {"worker-1"}
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
