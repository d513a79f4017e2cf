"""The access log: one line per exchange that says what a client would want to know, and no cost nor trace where it is off."""

import asyncio
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from lb import access
from tests.lb.harness import WorkerConnection, cluster, eventually

pytestmark = pytest.mark.slow  # Over real sockets: not for the pure tests' ten seconds.

GET = b"GET /a?b HTTP/1.1\r\nHost: a.example\r\n\r\n"
TRACE = b"4bf92f3577b34da6a3ce929d0e0e4736"


def lines(path: Path, count: int) -> list[dict[str, Any]]:
    """The log's records, once there are so many."""
    eventually(lambda: path.exists() and len(path.read_text().splitlines()) >= count, f"{count} lines")
    return [json.loads(line) for line in path.read_text().splitlines()]


def ids(request: bytes) -> list[str]:
    return [found.decode() for found in re.findall(rb"\r\n[Xx]-[Rr]equest-[Ii]d: ([^\r]*)", request)]


def test_each_request_has_an_id_of_its_own_by_which_both_sides_know_it(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    with cluster(count=2, name="lb-7", access_log=str(path)) as (lb, workers), lb.connect() as client:
        for _ in range(4):
            assert client.ask(GET).status == 200
        records = lines(path, 4)
    given = [ids(request) for number in range(2) for worker in workers for request in worker.requests[number : number + 1]]
    assert [[record["request_id"]] for record in records] == given
    assert len({record["request_id"] for record in records}) == 4
    assert [record["worker"] for record in records] == ["worker-0", "worker-1", "worker-0", "worker-1"]
    first = records[0]
    assert (first["lb"], first["method"], first["target"], first["status"], first["retries"], first["client"]) == (
        "lb-7", "GET", "/a?b", 200, 0, "127.0.0.1",
    )  # fmt: skip
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["at"])


def test_an_id_and_a_trace_that_come_with_the_request_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    own = b"GET / HTTP/1.1\r\nHost: a\r\nx-request-id: mine-1\r\ntraceparent: 00-" + TRACE + b"-00f067aa0ba902b7-01\r\n\r\n"
    with cluster(count=1, access_log=str(path)) as (lb, (worker,)), lb.connect() as client:
        for _ in range(3):
            client.ask(own)
        records = lines(path, 3)
        assert [ids(request) for request in worker.requests] == [["mine-1"]] * 3
        assert all(b"traceparent: 00-" + TRACE + b"-00f067aa0ba902b7-01\r\n" in request for request in worker.requests)
    assert {(record["request_id"], record["trace_id"]) for record in records} == {("mine-1", TRACE.decode())}


def test_a_repeat_is_told_with_who_answered_in_the_end(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    with cluster(lambda connection, request: connection.sock.close(), None, access_log=str(path)) as (lb, workers):
        assert lb.ask(GET).status == 200
        (record,) = lines(path, 1)
        assert (record["worker"], record["retries"]) == ("worker-1", 1)
        # One request, one id, however often it is sent.
        assert ids(workers[0].requests[0]) == ids(workers[1].requests[0]) == [record["request_id"]]


def test_a_repeat_after_the_end_of_a_used_connection_is_told_too(tmp_path: Path) -> None:
    """Whoever compares the log with what workers processed needs every repeat, also those that no budget counts."""

    def second_time_deaf(connection: WorkerConnection, request: bytes) -> None:
        if len(connection.worker.requests) == 2:
            connection.sock.close()
        else:
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    path = tmp_path / "access.log"
    with cluster(second_time_deaf, access_log=str(path)) as (lb, (worker,)), lb.connect() as client:
        assert [client.ask(GET).status for _ in range(2)] == [200, 200]
        assert [record["retries"] for record in lines(path, 2)] == [0, 1]
        assert len(worker.requests) == 3
        assert lb.count("retries") == 1


def test_times_say_where_a_request_spent_its_life(tmp_path: Path) -> None:
    def slow(connection: WorkerConnection, request: bytes) -> None:
        time.sleep(0.2)
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na")
        time.sleep(0.2)
        connection.send(b"b")

    path = tmp_path / "access.log"
    with cluster(slow, access_log=str(path), max_in_flight=1) as (lb, _), lb.connect() as one, lb.connect() as two:
        one.send(GET)
        eventually(lambda: lb.count("in_flight") == 1)
        two.send(GET)
        assert (one.answer().status, two.answer().status) == (200, 200)
        first, second = lines(path, 2)
    assert 200 <= first["worker_ms"] < first["total_ms"]
    assert first["total_ms"] >= 400
    assert first["wait_ms"] < 200 <= second["wait_ms"]  # It waited in the queue until the worker had room.


def test_what_ends_badly_is_logged_as_well(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    with cluster(lambda connection, request: connection.worker.over.wait(10), access_log=str(path)) as (lb, _):
        assert lb.ask(b"GET / HTTP/1.1\r\nHost: a\r\nBad name: x\r\n\r\n").status == 400
        with lb.connect() as client:
            client.send(GET)
            eventually(lambda: lb.count("in_flight") == 1)
        refused, left = lines(path, 2)
    assert (refused["status"], refused["client"], "target" in refused) == (400, "127.0.0.1", False)
    assert (left["status"], left["worker"]) == (499, "worker-0")
    with cluster(access_log=str(path)) as (lb, _):
        assert lb.ask(GET).status == 503
        assert [(record["status"], record["worker"]) for record in lines(path, 3)[2:]] == [(503, None)]


def test_two_files_bound_what_is_kept(tmp_path: Path) -> None:
    loop = asyncio.new_event_loop()
    written = access.AccessLog(loop, str(tmp_path / "access.log"), keep=2000)
    for number in range(110):
        written.write({"number": number, "filler": "x" * 80})
        if number % 10 == 9:
            written.flush()
    loop.close()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["access.log", "access.log.1"]
    assert sum(each.stat().st_size for each in tmp_path.iterdir()) < 6000
    assert json.loads((tmp_path / "access.log").read_text().splitlines()[-1])["number"] == 109


def test_a_disk_that_takes_no_lines_costs_no_answer(tmp_path: Path) -> None:
    with cluster(count=1, access_log=str(tmp_path / "nowhere" / "access.log")) as (lb, _), lb.connect() as client:
        assert [client.ask(GET).status for _ in range(3)] == [200] * 3


def test_where_it_is_off_nothing_is_added() -> None:
    with cluster(count=1) as (lb, (worker,)):
        assert lb.ask(GET).status == 200
        assert ids(worker.requests[0]) == []
