"""Sides that vanish, pause or speak at awkward moments, played without sockets: each callback where asyncio may call it."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from lb import downstream
from lb.connection import GONE, IDLE, UpstreamConnection
from lb.counters import Counters
from lb.downstream import Downstream
from lb.proxy import Proxy
from lb.settings import Settings, UpstreamSpec
from tests.lb.harness import response

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Transport:
    """Remembers what was asked of it; `on_write` happens within a write."""

    def __init__(self) -> None:
        self.sent = b""
        self.calls: list[str] = []
        self.on_write: Any = None

    def write(self, data: bytes) -> None:
        self.sent += data
        if self.on_write is not None:
            action, self.on_write = self.on_write, None
            action()

    def writelines(self, buffers: list[bytes]) -> None:
        self.write(b"".join(buffers))

    def get_extra_info(self, name: str) -> Any:
        return ("192.0.2.7", 5) if name == "peername" else None

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return lambda: self.calls.append(name)


class Stage:
    """One client and one idle connection to one worker."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.proxy = Proxy(loop, Settings(), Counters(), b"lb:1")
        self.proxy.set_upstreams((UpstreamSpec("worker-0", "127.0.0.1", 1),), None)
        self.upstream = self.proxy.pool.order[0]
        self.worker: Any = UpstreamConnection(self.proxy, self.upstream, None)
        self.worker.connection_made(Transport())
        self.client: Any = Downstream(self.proxy)
        self.client.connection_made(Transport())

    def vanish(self) -> None:
        self.client.connection_lost(None)

    def quiet(self) -> bool:
        return self.proxy.in_flight == self.upstream.in_flight == 0


@pytest.fixture
def stage() -> Iterator[Stage]:
    loop = asyncio.new_event_loop()
    made = Stage(loop)
    yield made
    made.proxy.wheel.close()
    loop.close()


def test_a_client_that_vanishes_over_the_head_of_its_response(stage: Stage) -> None:
    stage.client.data_received(GET)
    stage.client.transport.on_write = stage.vanish
    stage.worker.data_received(CHUNKED + b"5\r\nhello\r\n")
    assert stage.worker.state == GONE
    assert stage.quiet()


@pytest.mark.parametrize("framed", [CHUNKED + b"%s", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n%s"])
def test_a_client_that_vanishes_over_the_last_of_its_body(stage: Stage, framed: bytes) -> None:
    stage.client.data_received(GET)
    stage.worker.data_received(framed % b"")
    stage.client.transport.on_write = stage.vanish
    stage.worker.data_received(b"5\r\nhello\r\n0\r\n\r\n" if framed.startswith(CHUNKED) else b"hello")
    assert stage.worker.state == GONE
    assert stage.quiet()


def test_a_chunk_whose_size_comes_alone(stage: Stage) -> None:
    stage.client.data_received(GET)
    for piece in (CHUNKED, b"5\r\n", b"hello", b"\r\n0", b"\r\n\r\n"):
        stage.worker.data_received(piece)
    assert stage.client.transport.sent.endswith(b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
    assert stage.worker.state == IDLE
    assert stage.quiet()


def test_pauses_that_concern_nobody(stage: Stage) -> None:
    for side in (stage.worker, stage.client):
        side.pause_writing()
        side.resume_writing()
    stage.client.data_received(GET)
    stage.worker.data_received(response(b"x"))
    assert stage.client.state == downstream.IDLE


def test_an_end_of_input_from_a_client_that_does_not_read_yet(stage: Stage) -> None:
    """It may only have nothing more to ask: what it was answered is still its own."""
    stage.client.data_received(GET)
    stage.client.transport.on_write = stage.client.pause_writing
    stage.worker.data_received(response(b"x"))
    assert stage.client.state == downstream.BLOCKED
    assert stage.client.eof_received()
    stage.client.resume_writing()
    assert stage.client.transport.calls == ["close"]


def test_a_connection_opened_in_vain_to_a_worker_that_left(stage: Stage) -> None:
    stage.upstream.ready = False
    late: Any = UpstreamConnection(stage.proxy, stage.upstream, None)
    late.connection_made(Transport())
    assert late.transport.calls == ["abort"]
    assert late not in stage.upstream.idle


def test_the_common_end_accounts_like_the_long_one(stage: Stage) -> None:
    """Remembered heads, a request repeated before, a worker that left meanwhile."""
    for _ in range(3):
        stage.client.data_received(GET)
        stage.worker.data_received(response(b"x"))
    stage.client.data_received(GET)
    stage.client.repeats = 2
    stage.proxy.repeating = 1
    stage.upstream.ready = False
    stage.worker.data_received(response(b"x"))
    assert stage.proxy.repeating == 0
    assert stage.worker.state == GONE
    assert stage.quiet()
    assert stage.client.transport.sent.count(b"HTTP/1.1 200 OK") == 4


def test_who_goes_away_in_a_repeat_gives_its_share_back(stage: Stage) -> None:
    stage.client.data_received(GET)
    stage.client.repeats = 2
    stage.proxy.repeating = 1
    stage.vanish()
    assert stage.proxy.repeating == 0
    assert stage.quiet()


def test_doubts_and_refusals_are_told_once(stage: Stage) -> None:
    told: list[str] = []
    stage.proxy.on_doubt = lambda upstream: told.append(f"doubt {upstream.reason}")
    stage.proxy.on_health = lambda upstream: told.append(f"health {upstream.reason}")
    for _ in range(2):
        stage.proxy.doubt(stage.upstream, "reset")
    for _ in range(2):
        stage.proxy.refused_by(stage.upstream)
    assert told == ["doubt reset", "health connection refused"]


def test_a_request_that_waits_on_a_lost_worker_stays_where_there_is_no_other(stage: Stage) -> None:
    stage.client.data_received(GET)
    stage.proxy.refused_by(stage.upstream)
    stage.worker.data_received(response(b"x"))
    assert stage.client.transport.sent.startswith(b"HTTP/1.1 200")
    assert stage.worker.state == GONE


def test_heads_too_long_to_be_remembered_are_read_all_the_same(stage: Stage) -> None:
    for _ in range(3):
        stage.client.data_received(b"GET / HTTP/1.1\r\nHost: a\r\nCookie: %s\r\n\r\n" % (b"c" * 5000))
        stage.worker.data_received(response(b"x", "200 OK", b"X-Long: " + b"l" * 5000))
    assert stage.client.transport.sent.count(b"HTTP/1.1 200") == 3
    assert len(stage.proxy.requests.recent) == len(stage.upstream.reader.recent) == 0


def test_three_bytes_are_not_a_head(stage: Stage) -> None:
    for piece in (b"GET", b" ", b"/ HTTP/1.1\r\nHost: a\r\n\r", b"\n"):
        stage.client.data_received(piece)
    assert stage.worker.transport.sent.startswith(b"GET / HTTP/1.1\r\n")
