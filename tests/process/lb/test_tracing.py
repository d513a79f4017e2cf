"""Spans of a load balancer, as its exporter gets them: W3C trace context, sampling, attempts; nobody waits for them."""

import contextlib
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.lb import WorkerConnection, lb_and_workers
from tests.support.waiting import wait_until

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


def get(*parents: str) -> bytes:
    fields = "".join(f"TraceParent: {each}\r\n" for each in parents)
    return f"GET /a?b HTTP/1.1\r\nHost: a\r\n{fields}tracestate: x=y\r\n\r\n".encode("latin-1")


def context(request: bytes, continued: bool = True) -> tuple[str, str, str]:
    """Trace, span and flags of the only `traceparent` that the worker got; `tracestate` belongs to a trace's origin."""
    (found,) = re.findall(rb"(?i)\r\ntraceparent: 00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})\r", request)
    assert request.lower().count(b"traceparent") == 1
    assert (b"\r\ntracestate: x=y\r\n" in request) is continued
    trace, span, flags = found
    return trace.decode(), span.decode(), flags.decode()


class Exporter:
    """What reads the spans, at the path of its socket."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "spans.sock")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.setblocking(False)
        self._seen: list[dict[str, Any]] = []

    def exchanges(self, count: int) -> list[dict[str, Any]]:
        """The measured exchanges, once there are so many."""
        wait_until(lambda: self._read() >= count, what=f"{count} exchanges")
        return self._seen

    def _read(self) -> int:
        with contextlib.suppress(BlockingIOError):
            self._seen += [json.loads(line) for line in self._socket.recv(1 << 18).splitlines()]
        return len(self._seen)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def exporter(tmp_path: Path) -> Iterator[Exporter]:
    made = Exporter(tmp_path)
    yield made
    made.close()


def test_a_trace_goes_on_with_its_worker_as_a_child(exporter: Exporter) -> None:
    with (
        lb_and_workers(count=1, name="lb-7", span_socket=exporter.path) as (lb, (worker,)),
        lb.connect() as client,
    ):
        for _ in range(3):
            assert client.ask(get(PARENT)).status == 200
        found = exporter.exchanges(3)
        sent = [context(request) for request in worker.requests]
    assert [(each["trace"], each["parent"], each["lb"], each["status"]) for each in found] == [
        (TRACE, SPAN, "lb-7", 200)
    ] * 3
    assert [(TRACE, each["attempts"][0]["span"], "01") for each in found] == sent
    first = found[0]
    assert (first["method"], first["target"], first["client"], first["error"]) == ("GET", "/a?b", "127.0.0.1", None)
    (attempt,) = first["attempts"]
    assert (attempt["worker"], attempt["status"], attempt["error"]) == ("worker-0", 200, None)
    assert first["start"] <= attempt["start"] <= attempt["end"] <= first["end"]
    assert len({each["span"] for each in found} | {span for _, span, _ in sent}) == 6


@pytest.mark.parametrize(
    "parents",
    [
        (), ("",), ("nonsense",), (f"00-{'0' * 32}-{SPAN}-01",), (f"00-{TRACE}-{'0' * 16}-01",),
        (f"ff-{TRACE}-{SPAN}-01",), (f"{PARENT}-more",), (PARENT, PARENT), (f"00-{TRACE}-{SPAN}",),
        (f"00-{TRACE[1:]}-{SPAN}-01",), (PARENT.upper(),), (f"00-{TRACE[:-1]}G-{SPAN}-01",), (f"{PARENT}, {PARENT}",),
        (f"0-{TRACE}-{SPAN}-01",), (f"00-{TRACE}-{SPAN}-1",), (f"00-{TRACE}-{SPAN}-01-",), (f"01-{TRACE}-{SPAN}-01.x",),
        (f"00_{TRACE}_{SPAN}_01",), (PARENT, "nonsense"), ("nonsense", PARENT), (f"00-{TRACE}-{SPAN}-0x",),
        ("\xe9" * 55,),
    ],
)  # fmt: skip
def test_without_one_valid_parent_a_trace_begins(exporter: Exporter, parents: tuple[str, ...]) -> None:
    with lb_and_workers(count=1, span_socket=exporter.path) as (lb, (worker,)), lb.connect() as client:
        assert client.ask(get(*parents)).status == 200
        (told,) = exporter.exchanges(1)
        trace, span, flags = context(worker.requests[0], continued=False)
    assert told["parent"] is None
    assert (told["trace"], told["attempts"][0]["span"], "01") == (trace, span, flags)
    assert trace != TRACE


def test_a_later_version_is_read_as_far_as_it_is_known(exporter: Exporter) -> None:
    with lb_and_workers(count=1, span_socket=exporter.path) as (lb, (worker,)), lb.connect() as client:
        assert client.ask(get(f"01-{TRACE}-{SPAN}-01-more")).status == 200
        assert exporter.exchanges(1)[0]["parent"] == SPAN
        assert context(worker.requests[0])[0] == TRACE


def test_the_first_participant_decides_what_is_recorded(exporter: Exporter) -> None:
    with (
        lb_and_workers(count=1, span_socket=exporter.path, trace_sample=0.0) as (lb, (worker,)),
        lb.connect() as client,
    ):
        for parents in ((), (f"00-{TRACE}-{SPAN}-00",), (PARENT,)):
            assert client.ask(get(*parents)).status == 200
        (told,) = exporter.exchanges(1)
        flags = [context(request, continued=n > 0)[2] for n, request in enumerate(worker.requests)]
    assert (told["trace"], flags) == (TRACE, ["00", "00", "01"])


def test_each_attempt_is_a_span_of_its_own(exporter: Exporter) -> None:
    seen: list[bytes] = []

    def fail(connection: WorkerConnection, request: bytes) -> None:
        seen.append(request)
        connection.reset()

    with lb_and_workers(fail, None, span_socket=exporter.path) as (lb, (_, other)), lb.connect() as client:
        assert client.ask(get(PARENT)).status == 200
        (told,) = exporter.exchanges(1)
        sent = [context(request) for request in (*seen, *other.requests)]
    assert [(each["worker"], each["status"], bool(each["error"])) for each in told["attempts"]] == [
        ("worker-0", None, True),
        ("worker-1", 200, False),
    ]
    assert [(TRACE, each["span"], "01") for each in told["attempts"]] == sent
    assert len({span for _, span, _ in sent}) == 2


def test_an_exchange_without_an_answer_says_why(exporter: Exporter) -> None:
    def hang(connection: WorkerConnection, request: bytes) -> None:
        return

    with (
        lb_and_workers(hang, span_socket=exporter.path, request_timeout=0.3) as (lb, _),
        lb.connect() as client,
    ):
        assert client.ask(get(PARENT)).status == 504
        (told,) = exporter.exchanges(1)
    assert told["status"] == 504
    (attempt,) = told["attempts"]
    assert (attempt["worker"], attempt["status"]) == ("worker-0", None)
    assert attempt["error"]


def test_spans_arrive_however_deep_the_clusters_folder_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address of a UNIX socket has at most 107 bytes (unix(7))."""
    folder = tmp_path / ("deep" * 30)
    folder.mkdir()
    monkeypatch.chdir(folder)
    made = Exporter(Path())
    try:
        with lb_and_workers(count=1, span_socket=str(folder / made.path)) as (lb, _), lb.connect() as client:
            assert client.ask(get(PARENT)).status == 200
            assert made.exchanges(1)[0]["trace"] == TRACE
    finally:
        made.close()


@pytest.mark.parametrize("reader", ["none", "slow"])
def test_nobody_waits_for_the_exporter(tmp_path: Path, exporter: Exporter, reader: str) -> None:
    path = exporter.path if reader == "slow" else str(tmp_path / "nothing.sock")
    with lb_and_workers(count=1, span_socket=path) as (lb, _), lb.connect() as client:
        for _ in range(2000):
            assert client.ask(get()).status == 200


def test_the_access_log_is_written_beside(exporter: Exporter, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    with (
        lb_and_workers(count=1, span_socket=exporter.path, access_log=str(log)) as (lb, _),
        lb.connect() as client,
    ):
        for parents in ((PARENT,), ()):
            assert client.ask(get(*parents)).status == 200
        found = exporter.exchanges(2)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["status"], line["trace_id"]) for line in lines] == [(200, TRACE), (200, found[1]["trace"])]
