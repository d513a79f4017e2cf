"""The access log: one line per exchange that says what a client would want to know, and no cost nor trace where it is
off.
"""

import asyncio
import contextlib
import json
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from lb.proxy import access_log as access
from tests.support.lb import WorkerConnection, lb_and_workers, response
from tests.support.waiting import wait_until

GET = b"GET /a?b HTTP/1.1\r\nHost: a.example\r\n\r\n"
TRACE = b"4bf92f3577b34da6a3ce929d0e0e4736"


def written(path: Path, count: int) -> list[str]:
    """The log's lines, once there are so many whole ones."""

    def whole() -> list[str]:
        text = path.read_text() if path.exists() else ""
        return text[: text.rfind("\n") + 1].splitlines()

    return wait_until(lambda: found if len(found := whole()) >= count else [], what=f"{count} lines")


def lines(path: Path, count: int) -> list[dict[str, Any]]:
    """The log's records, once there are so many."""
    return [json.loads(line) for line in written(path, count)]


def ids(request: bytes) -> list[str]:
    return [found.decode() for found in re.findall(rb"(?i)\r\nx-request-id:[ \t]*([^\r]*)", request)]


def test_each_request_has_an_id_known_to_both_sides(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    with lb_and_workers(count=2, name="lb-7", access_log=str(path)) as (lb, workers), lb.connect() as client:
        for _ in range(4):
            assert client.ask(GET).status == 200
        records = lines(path, 4)
    given = [
        ids(request) for number in range(2) for worker in workers for request in worker.requests[number : number + 1]
    ]
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
    own = (
        b"GET / HTTP/1.1\r\nHost: a\r\nx-request-id: mine-1\r\ntraceparent: 00-"
        + TRACE
        + b"-00f067aa0ba902b7-01\r\n\r\n"
    )
    with lb_and_workers(count=1, access_log=str(path)) as (lb, (worker,)), lb.connect() as client:
        for _ in range(3):
            client.ask(own)
        records = lines(path, 3)
        assert [ids(request) for request in worker.requests] == [["mine-1"]] * 3
        assert all(b"traceparent: 00-" + TRACE + b"-00f067aa0ba902b7-01\r\n" in request for request in worker.requests)
    assert {(record["request_id"], record["trace_id"]) for record in records} == {("mine-1", TRACE.decode())}


@pytest.mark.parametrize(
    "parent",
    [
        b"00-%b-00f067aa0ba902b7-01" % TRACE.upper(),
        b"00-%b-00f067aa0ba902b7-01" % (b"0" * 32),
        b"ff-%b-" % TRACE,
        TRACE,
    ],
)
def test_what_is_no_trace_context_names_no_trace(tmp_path: Path, parent: bytes) -> None:
    path = tmp_path / "access.log"
    with lb_and_workers(count=1, access_log=str(path)) as (lb, (worker,)):
        lb.ask(b"GET / HTTP/1.1\r\nHost: a\r\ntraceparent: %b\r\n\r\n" % parent)
        assert lines(path, 1)[0]["trace_id"] is None
        assert b"\r\ntraceparent: %b\r\n" % parent in worker.requests[0]


def test_a_retry_is_logged_with_the_worker_that_answered(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    with lb_and_workers(lambda connection, request: connection.sock.close(), None, access_log=str(path)) as (
        lb,
        workers,
    ):
        assert lb.ask(GET).status == 200
        (record,) = lines(path, 1)
        assert (record["worker"], record["retries"]) == ("worker-1", 1)
        # One request, one id, however often it is sent.
        assert ids(workers[0].requests[0]) == ids(workers[1].requests[0]) == [record["request_id"]]


def test_a_retry_after_a_keep_alive_race_is_logged(tmp_path: Path) -> None:
    """Whoever compares the log with what workers processed needs every repeat, also those that no budget counts."""

    def second_time_deaf(connection: WorkerConnection, request: bytes) -> None:
        if len(connection.worker.requests) == 2:
            connection.sock.close()
        else:
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    path = tmp_path / "access.log"
    with lb_and_workers(second_time_deaf, access_log=str(path)) as (lb, (worker,)), lb.connect() as client:
        assert [client.ask(GET).status for _ in range(2)] == [200, 200]
        assert [record["retries"] for record in lines(path, 2)] == [0, 1]
        assert len(worker.requests) == 3
        assert lb.count("retries") == 1


def test_logged_times_are_wait_worker_and_total(tmp_path: Path) -> None:
    is_queued = threading.Event()

    def slow(connection: WorkerConnection, request: bytes) -> None:
        assert is_queued.wait(60)
        time.sleep(0.2)
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na")
        time.sleep(0.2)
        connection.send(b"b")

    path = tmp_path / "access.log"
    with (
        lb_and_workers(slow, access_log=str(path), max_in_flight=1, queue_timeout=60.0) as (lb, (worker,)),
        lb.connect() as one,
        lb.connect() as two,
    ):
        began = time.monotonic()
        one.send(GET)
        wait_until(lambda: worker.requests)
        until_sent = 1000 * (time.monotonic() - began)
        two.send(GET)
        wait_until(lambda: lb.count("queued") == 1)
        is_queued.set()
        assert (one.answer().status, two.answer().status) == (200, 200)
        first, second = lines(path, 2)
    assert 200 <= first["worker_ms"] < first["total_ms"]
    assert first["total_ms"] >= 400
    assert first["wait_ms"] <= until_sent
    assert second["wait_ms"] >= 400  # It waited in the queue until the worker had room.


def test_failed_requests_are_logged(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    with lb_and_workers(
        lambda connection, request: connection.worker.over.wait(10), access_log=str(path), half_close_grace=0.1
    ) as (lb, _):
        assert lb.ask(b"GET / HTTP/1.1\r\nHost: a\r\nBad name: x\r\n\r\n").status == 400
        with lb.connect() as client:
            client.send(GET)
            wait_until(lambda: lb.count("in_flight") == 1)
        refused, left = lines(path, 2)
    assert (refused["status"], refused["client"], "target" in refused) == (400, "127.0.0.1", False)
    assert (left["status"], left["worker"]) == (499, "worker-0")
    with lb_and_workers(access_log=str(path)) as (lb, _):
        assert lb.ask(GET).status == 503
        assert [(record["status"], record["worker"]) for record in lines(path, 3)[2:]] == [(503, None)]


def test_the_access_log_is_rotated_to_one_old_file(tmp_path: Path) -> None:
    loop = asyncio.new_event_loop()
    written = access.AccessLog(loop, str(tmp_path / "access.log"), max_size=2000)
    for number in range(110):
        written.write({"number": number, "filler": "x" * 80})
        if number % 10 == 9:
            written.flush()
    loop.close()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["access.log", "access.log.1"]
    assert sum(each.stat().st_size for each in tmp_path.iterdir()) < 6000
    assert json.loads((tmp_path / "access.log").read_text().splitlines()[-1])["number"] == 109


def test_a_full_disk_costs_log_lines_but_no_response(tmp_path: Path) -> None:
    with (
        lb_and_workers(count=1, access_log=str(tmp_path / "nowhere" / "access.log")) as (lb, _),
        lb.connect() as client,
    ):
        assert [client.ask(GET).status for _ in range(3)] == [200] * 3


def test_without_an_access_log_requests_get_no_id() -> None:
    with lb_and_workers(count=1) as (lb, (worker,)):
        assert lb.ask(GET).status == 200
        assert ids(worker.requests[0]) == []


def test_logged_sizes_are_what_the_client_received(tmp_path: Path) -> None:
    replies = {
        b"/whole": response(b"x" * 500),
        b"/chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\nSum: 1\r\n\r\n",
        b"/none": b"HTTP/1.1 204 No Content\r\n\r\n",
        b"/large": b"HTTP/1.1 200 OK\r\nContent-Length: 700000\r\n\r\n" + b"y" * 700000,
        b"/invalid": b"nonsense\r\n\r\n",
        b"/head": b"HTTP/1.1 200 OK\r\nContent-Length: 700\r\n\r\n",
    }
    path = tmp_path / "access.log"
    with lb_and_workers(
        lambda connection, request: connection.send(replies[request.split(b" ")[1]]), access_log=str(path)
    ) as (lb, _):
        for target in [*replies, b"/whole", b"/whole", b"/whole"]:
            method = b"HEAD" if target == b"/head" else b"GET"
            with lb.connect() as client:
                client.send(method + b" " + target + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                received = client.read_to_end()
            (record,) = lines(path, 1)
            body = {b"/chunks": 6, b"/head": 0}.get(target, len(received.partition(b"\r\n\r\n")[2]))
            assert (record["bytes_sent"], record["body_bytes"]) == (len(received), body), target
            assert record["error"] == (
                "the worker's response is invalid: not an HTTP/1.1 response" if target == b"/invalid" else None
            )
            path.unlink()


def test_a_truncated_response_is_logged_with_its_error(tmp_path: Path) -> None:
    """Its status is what the client saw; that it did not get it all stands beside it."""
    replies = [
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"Content-Length: 9\r\n\r\nhello",
    ]

    def cut(connection: WorkerConnection, request: bytes) -> None:
        number = int(request.split(b" ")[1][1:])
        connection.send(b"HTTP/1.1 200 OK\r\n" + replies[number % 3])
        time.sleep(0.1)
        if number == 1:
            connection.send(b"zz\r\n")
        if number == 3:
            connection.worker.over.wait(60)
        connection.reset() if number == 5 else connection.sock.close()

    path = tmp_path / "access.log"
    for body_timeout, numbers in ((60.0, (0, 1, 2)), (0.5, (3,)), (60.0, (5,))):
        with lb_and_workers(cut, access_log=str(path), body_timeout=body_timeout, health_fall=1000) as (lb, _):
            for number in numbers:
                with lb.connect() as client, contextlib.suppress(ConnectionError):
                    client.send(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)
                    assert client.receive().startswith(b"HTTP/1.1 200 OK\r\n")
                    client.read_to_end()
    found = [
        (record["status"], record["body_bytes"], record["error"].removeprefix("the response was cut: "))
        for record in lines(path, 5)
    ]
    assert found == [
        (200, 5, "closed before the end of the body"),
        (200, 5, "invalid chunk size"),
        (200, 5, "closed before the end of the body"),
        (200, 5, "no progress in time"),
        (200, 5, "reset"),
    ]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ([b"X-Request-Id:"], None),
        ([b"X-Request-Id: \t "], None),
        ([b"X-Request-Id: one", b"X-Request-Id: one"], "one"),
        ([b"X-Request-Id: one", b"x-request-ID: two"], "one"),
        ([b"X-Request-Id:", b"Accept: */*", b"X-REQUEST-ID: two"], "two"),
        ([b"X-Request-Id:", b"X-Request-Id: "], None),
        ([b"X-Request-Id: one", b"X-Request-Id:", b"X-Request-Id: three"], "one"),
        ([b"Connection: x-request-id", b"X-Request-Id: one"], None),
        ([b"A: x-request-id: no", b"X-Request-Id: one"], "one"),
        ([b"X-Request-Idea: no"], None),
    ],
)
def test_a_request_has_exactly_one_request_id(tmp_path: Path, given: list[bytes], wanted: str | None) -> None:
    path = tmp_path / "access.log"
    with lb_and_workers(count=1, access_log=str(path)) as (lb, (worker,)), lb.connect() as client:
        for _ in range(3):  # Read anew, and remembered.
            assert client.ask(b"\r\n".join([b"GET / HTTP/1.1", b"Host: a", *given, b"", b""])).status == 200
        records = lines(path, 3)
    assert [ids(request) for request in worker.requests] == [[record["request_id"]] for record in records]
    if wanted is None:
        assert all(re.fullmatch("[0-9a-f]{32}", record["request_id"]) for record in records)
        assert len({record["request_id"] for record in records}) == 3
    else:
        assert {record["request_id"] for record in records} == {wanted}


def test_the_combined_format(tmp_path: Path) -> None:
    path = tmp_path / "access.log"

    def behave(connection: WorkerConnection, request: bytes) -> None:
        connection.send(response(b"hello") if b"/good" in request else b"nonsense\r\n\r\n")

    with lb_and_workers(behave, access_log=str(path), access_log_format="combined") as (lb, _), lb.connect() as client:
        client.ask(b'GET /good?a="b HTTP/1.1\r\nHost: a\r\nuser-AGENT: curl "x" \xe4\r\nReferer: http://r/\r\n\r\n')
        client.ask(b"POST /good HTTP/1.0\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")
        lb.ask(b"GET /bad HTTP/1.1\r\nHost: a\r\n\r\n")
        refused = len(lb.ask(b"GET / HTTP/1.1\r\n\r\n").body)
        text = written(path, 4)
    parts = [re.fullmatch(r"127\.0\.0\.1 - - \[(.+?)\] (.*)", line) for line in text]
    assert all(part and re.fullmatch(r"\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d \+0000", part[1]) for part in parts)
    assert [part[2] for part in parts if part] == [
        r'"GET /good?a=\x22b HTTP/1.1" 200 5 "http://r/" "curl \x22x\x22 \xE4"',
        '"POST /good HTTP/1.0" 200 5 "-" "-"',
        '"GET /bad HTTP/1.1" 502 72 "-" "-" "the worker\'s response is invalid: not an HTTP/1.1 response"',
        f'"-" 400 {refused} "-" "-" "Host is missing"',
    ]


def test_a_combined_line_has_nine_parts_whatever_is_sent(tmp_path: Path) -> None:
    """Also where a trusted proxy describes its client by what is no address."""
    path = tmp_path / "access.log"
    odd = b'"x" \\ \t\xff\xc3\xa9\'[]'
    head = b"GET /%b HTTP/1.1\r\nHost: a\r\n" % odd.translate(None, b" \t\xff\xc3\xa9")
    fields = (b"X-Forwarded-For", b"Forwarded", b"Referer", b"User-Agent", b"X-Request-Id")
    with lb_and_workers(count=1, access_log=str(path), access_log_format="combined", trusted_proxies="127.0.0.1") as (
        lb,
        _,
    ):
        for name in fields:
            assert lb.ask(head + name + b": " + odd + b"\r\n\r\n").status == 200
        assert lb.ask(b"GET / HTTP/1.1\r\nHost: " + odd + b"\r\n\r\n").status == 400
        text = written(path, len(fields) + 1)
    whole = re.compile(r'127\.0\.0\.1 - - \[[^]]+\] "[^"]*" \d+ \d+ "[^"]*" "[^"]*"( "[^"]*")?')
    assert [
        line for line in text if whole.fullmatch(line) is None or not line.isprintable() or not line.isascii()
    ] == []
