"""Ejection for answers over real sockets."""

import socket
from dataclasses import replace

from lb.interface import messages
from lb.interface.settings import Settings, UpstreamSpec
from tests.support.lb import Balancer, Worker, WorkerConnection, lb_and_workers, response
from tests.support.waiting import wait_until

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def failing(connection: WorkerConnection, request: bytes) -> None:
    connection.send(response(b"no", "500 Internal Server Error"))


def statuses(lb: Balancer, count: int) -> list[int]:
    with lb.connect() as client:
        return [client.ask(GET).status for _ in range(count)]


def test_without_settings_nothing_is_ejected_or_observed() -> None:
    with lb_and_workers(failing, count=1) as (lb, _):
        assert statuses(lb, 40) == [500, 200] * 20
        assert lb.proxy._on_response is None


def test_a_failing_worker_is_ejected_for_growing_times() -> None:
    with lb_and_workers(failing, count=1, eject_after_5xx=3, eject_time=60.0, eject_interval=60.0) as (lb, _):
        assert statuses(lb, 6) == [500, 200] * 3
        assert set(statuses(lb, 4)) == {200}
    with lb_and_workers(failing, count=1, eject_after_5xx=3, eject_time=1.0, eject_interval=60.0) as (lb, (worker, _)):
        for _ in range(3):
            wait_until(lambda: not lb.upstream("worker-0").ejected)
            before = len(worker.requests)
            wait_until(lambda: statuses(lb, 2) and lb.upstream("worker-0").ejected)
            assert 3 <= len(worker.requests) - before <= 4


def test_failed_attempts_count_as_gateway_errors() -> None:
    def rude(connection: WorkerConnection, request: bytes) -> None:
        connection.send(b"nonsense\r\n\r\n")

    with lb_and_workers(rude, count=1, eject_after_gateway_errors=2) as (lb, _):
        assert statuses(lb, 4) == [502, 200] * 2
        assert set(statuses(lb, 6)) == {200}


def test_a_share_counts_at_the_end_of_an_interval() -> None:
    settings = {"eject_error_percent": 50.0, "eject_min_requests": 5, "eject_interval": 0.2}
    with lb_and_workers(failing, count=1, **settings) as (lb, _):
        wait_until(lambda: statuses(lb, 20) and lb.upstream("worker-0").ejected)
        assert set(statuses(lb, 6)) == {200}


def test_when_all_fail_half_are_ejected_and_the_others_serve() -> None:
    with lb_and_workers(failing, failing, failing, failing, eject_after_5xx=1) as (lb, _):
        assert set(statuses(lb, 12)) == {500}
        assert sum(each.ejected for each in lb.proxy.pool.order) == 2


def test_settings_turn_ejection_on_and_off_while_running() -> None:
    with lb_and_workers(failing, count=1) as (lb, _):
        lb.call(lb.server._configure, {"eject_after_5xx": 1})
        wait_until(lambda: statuses(lb, 2) and lb.upstream("worker-0").ejected)
        lb.call(lb.server._configure, {"eject_after_5xx": 0})
        wait_until(lambda: not lb.upstream("worker-0").ejected)
        assert statuses(lb, 4).count(500) == 2


def test_nothing_counted_outlives_turning_it_off() -> None:
    """Neither errors in a row nor the length that a next ejection would have had."""
    with lb_and_workers(failing, count=1, eject_after_5xx=3, eject_time=60.0) as (lb, _):
        for errors_before in (2, 3):
            assert statuses(lb, 2 * errors_before) == [500, 200] * errors_before
            lb.call(lb.server._configure, {"eject_after_5xx": 0})
            lb.call(lb.server._configure, {"eject_after_5xx": 3})
            wait_until(lambda: not lb.upstream("worker-0").ejected)
            lb.settle()
        assert statuses(lb, 6) == [500, 200] * 3
        (timer,) = lb.server._ejections._timers.values()
        assert timer.when() - lb.server._loop.time() < 100.0  # 120 for a second ejection


def test_other_settings_do_not_put_off_the_end_of_an_interval() -> None:
    settings = {"eject_error_percent": 50.0, "eject_min_requests": 5, "eject_interval": 1.0}
    with lb_and_workers(failing, count=1, **settings) as (lb, _):

        def ejects() -> bool:
            lb.call(lb.server._configure, {"queue_timeout": 5.0})
            return bool(statuses(lb, 20)) and bool(lb.upstream("worker-0").ejected)

        wait_until(ejects)
        lb.call(lb.server._configure, {"eject_interval": 2.0})
        lb.settle()
        assert lb.upstream("worker-0").ejected


def test_a_worker_that_restarts_begins_without_errors() -> None:
    with lb_and_workers(failing, count=1, eject_after_5xx=3) as (lb, _):
        assert statuses(lb, 4) == [500, 200] * 2
        specs = [each.spec for each in lb.proxy.pool.order]
        for state in ("down", "up"):
            lb.call(lb.server._handle, None, messages.upstreams([replace(specs[0], state=state), specs[1]]))
        lb.settle()
        assert sorted(statuses(lb, 8)) == [200] * 5 + [500] * 3


def test_the_supervisor_hears_of_it_also_one_that_comes_later() -> None:
    workers = [Worker("worker-0", failing), Worker("worker-1")]
    ours, theirs = socket.socketpair()
    specs = tuple(UpstreamSpec(each.name, "127.0.0.1", each.port) for each in workers)
    lb = Balancer(specs, Settings(health_interval=60.0, eject_after_5xx=1, eject_time=60.0), theirs)
    decoder = messages.Decoder()
    heard: list[messages.Message] = []
    try:
        statuses(lb, 4)

        def ejection() -> messages.Message | None:
            heard.extend(messages.read(each) for each in decoder.feed(ours.recv(65536)))
            return next((each for each in heard if each["type"] == "ejection"), None)

        assert wait_until(ejection) == {
            "type": "ejection",
            "upstream": "worker-0",
            "ejected": True,
            "reason": "1 server errors in a row",
            "seconds": 60.0,
        }
    finally:
        lb.close()
        ours.close()
        for each in workers:
            each.close()
