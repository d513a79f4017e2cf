"""Requests that a worker refuses, loses or has no room for: which go to another one, and what the client gets."""

import time

import pytest

from tests.support.lb import WorkerConnection, lb_and_workers, response
from tests.support.lb_behaviours import GET, POST, PUT, close, full, hang
from tests.support.waiting import wait_until


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
