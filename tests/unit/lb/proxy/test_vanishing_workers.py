"""Sides that vanish, pause or speak at awkward moments, played without sockets: each callback where asyncio may call
it.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from lb.interface.counters import Counters
from lb.interface.settings import Settings, UpstreamSpec
from lb.proxy import connection_end
from lb.proxy.client_connection import Downstream
from lb.proxy.dispatcher import Dispatcher
from lb.proxy.upstream_connection import GONE, HIGH_WATER, IDLE, UpstreamConnection
from tests.support.lb import response

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Transport:
    """Remembers what was asked of it; `on_write` happens within a write."""

    def __init__(self) -> None:
        self.sent = b""
        self.limits = (16, HIGH_WATER)
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
        self.limits = (high // 4, high)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self.limits

    def __getattr__(self, name: str) -> Any:
        return lambda: self.calls.append(name)


class Stage:
    """One client and one idle connection to one worker."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.proxy = Dispatcher(loop, Settings(), Counters(), b"lb:1")
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


def test_a_client_lost_during_the_response_head(stage: Stage) -> None:
    stage.client.data_received(GET)
    stage.client.transport.on_write = stage.vanish
    stage.worker.data_received(CHUNKED + b"5\r\nhello\r\n")
    assert stage.worker.state == GONE
    assert stage.quiet()


@pytest.mark.parametrize("framed", [CHUNKED + b"%s", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n%s"])
def test_a_client_lost_during_the_end_of_the_body(stage: Stage, framed: bytes) -> None:
    stage.client.data_received(GET)
    stage.worker.data_received(framed % b"")
    stage.client.transport.on_write = stage.vanish
    stage.worker.data_received(b"5\r\nhello\r\n0\r\n\r\n" if framed.startswith(CHUNKED) else b"hello")
    assert stage.worker.state == GONE
    assert stage.quiet()


def test_a_chunk_size_in_its_own_packet(stage: Stage) -> None:
    stage.client.data_received(GET)
    for piece in (CHUNKED, b"5\r\n", b"hello", b"\r\n0", b"\r\n\r\n"):
        stage.worker.data_received(piece)
    assert stage.client.transport.sent.endswith(b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
    assert stage.worker.state == IDLE
    assert stage.quiet()


def test_pause_and_resume_without_an_exchange(stage: Stage) -> None:
    for side in (stage.worker, stage.client):
        side.pause_writing()
        side.resume_writing()
    stage.client.data_received(GET)
    stage.worker.data_received(response(b"x"))
    assert stage.client.state == connection_end.IDLE


def test_an_end_of_input_from_a_client_that_does_not_read_yet(stage: Stage) -> None:
    """It may only have nothing more to ask: what it was answered is still its own."""
    stage.client.data_received(GET)
    stage.client.transport.on_write = stage.client.pause_writing
    stage.worker.data_received(response(b"x"))
    assert stage.client.state == connection_end.BLOCKED
    assert stage.client.eof_received()
    stage.client.resume_writing()
    assert stage.client.transport.calls == ["close"]


def test_an_unused_connection_to_a_removed_worker_is_closed(stage: Stage) -> None:
    stage.upstream.ready = False
    late: Any = UpstreamConnection(stage.proxy, stage.upstream, None)
    late.connection_made(Transport())
    assert late.transport.calls == ["abort"]
    assert late not in stage.upstream.idle


def test_the_fast_path_counts_like_the_slow_path(stage: Stage) -> None:
    """Remembered heads, a request repeated before, a worker that left meanwhile."""
    for _ in range(3):
        stage.client.data_received(GET)
        stage.worker.data_received(response(b"x"))
    stage.client.data_received(GET)
    stage.client.retries = 2
    stage.proxy.retrying = 1
    stage.upstream.ready = False
    stage.worker.data_received(response(b"x"))
    assert stage.proxy.retrying == 0
    assert stage.worker.state == GONE
    assert stage.quiet()
    assert stage.client.transport.sent.count(b"HTTP/1.1 200 OK") == 4


def test_a_client_lost_in_a_retry_returns_its_budget(stage: Stage) -> None:
    stage.client.data_received(GET)
    stage.client.retries = 2
    stage.proxy.retrying = 1
    stage.vanish()
    assert stage.proxy.retrying == 0
    assert stage.quiet()


def test_suspicion_and_refusal_are_reported_once(stage: Stage) -> None:
    told: list[str] = []
    stage.proxy.on_suspect = lambda upstream: told.append(f"doubt {upstream.reason}")
    stage.proxy.on_health = lambda upstream: told.append(f"health {upstream.reason}")
    for _ in range(2):
        stage.proxy.mark_suspect(stage.upstream, "reset")
    for _ in range(2):
        stage.proxy.on_connection_refused(stage.upstream)
    assert told == ["doubt reset", "health connection refused"]


def test_requests_stay_on_an_unreachable_last_worker(stage: Stage) -> None:
    stage.client.data_received(GET)
    stage.proxy.on_connection_refused(stage.upstream)
    stage.worker.data_received(response(b"x"))
    assert stage.client.transport.sent.startswith(b"HTTP/1.1 200")
    assert stage.worker.state == GONE


def test_heads_too_long_for_the_cache_are_parsed(stage: Stage) -> None:
    for _ in range(3):
        stage.client.data_received(b"GET / HTTP/1.1\r\nHost: a\r\nCookie: %s\r\n\r\n" % (b"c" * 5000))
        stage.worker.data_received(response(b"x", "200 OK", b"X-Long: " + b"l" * 5000))
    assert stage.client.transport.sent.count(b"HTTP/1.1 200") == 3
    assert len(stage.proxy.readers.others.recent) == len(stage.upstream.reader.recent) == 0


def test_three_bytes_are_not_a_head(stage: Stage) -> None:
    for piece in (b"GET", b" ", b"/ HTTP/1.1\r\nHost: a\r\n\r", b"\n"):
        stage.client.data_received(piece)
    assert stage.worker.transport.sent.startswith(b"GET / HTTP/1.1\r\n")


@pytest.mark.parametrize("upper", [HIGH_WATER, 8 * HIGH_WATER])
def test_writing_to_each_client_is_limited(stage: Stage, upper: int) -> None:
    class Other(Transport):
        pass

    for _ in range(3):
        client: Any = Downstream(stage.proxy)
        transport = Other()
        transport.limits = (16, upper)
        client.connection_made(transport)
        assert transport.limits[1] == HIGH_WATER
        client.pause_writing()
        assert transport.limits == (HIGH_WATER // 4, HIGH_WATER)
        client.connection_lost(None)
