"""A paused load balancer: requests wait, their time in the queue stands still, and all go on afterwards."""

import asyncio
from collections.abc import Iterator
from math import inf
from typing import Any

import pytest

from lb.interface.settings import FOREVER, UpstreamSpec
from lb.proxy import connection_end
from lb.proxy.client_connection import Downstream
from tests.support.lb import response
from tests.unit.lb.proxy.test_vanishing_workers import GET, Stage, Transport


@pytest.fixture
def stage() -> Iterator[Stage]:
    loop = asyncio.new_event_loop()
    made = Stage(loop)
    yield made
    made.proxy.close()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


def another(stage: Stage) -> Any:
    made: Any = Downstream(stage.proxy)
    made.connection_made(Transport())
    return made


def test_requests_wait_until_the_end_of_a_pause(stage: Stage) -> None:
    stage.proxy.pause(FOREVER)
    stage.client.data_received(GET)
    assert (stage.client.state, stage.client.deadline) == (connection_end.QUEUED, inf)
    assert not stage.worker.transport.sent
    stage.proxy.pause(0.0)
    assert stage.client.state == connection_end.WAITING
    stage.worker.data_received(response(b"hi"))
    assert stage.client.transport.sent.endswith(b"hi")
    assert stage.quiet()


def test_requests_in_flight_finish_during_a_pause(stage: Stage) -> None:
    stage.client.data_received(GET)
    stage.proxy.pause(FOREVER)
    waiting = another(stage)
    waiting.data_received(GET)
    stage.worker.data_received(response(b"first"))
    assert stage.client.transport.sent.endswith(b"first")
    assert waiting.state == connection_end.QUEUED


def test_the_time_in_the_queue_stands_still(stage: Stage) -> None:
    stage.proxy.set_upstreams([UpstreamSpec("worker-0", "127.0.0.1", 1)], 1)
    stage.client.data_received(GET)
    waiting = another(stage)
    waiting.data_received(GET)
    before = waiting.deadline
    stage.proxy.pause(FOREVER)
    assert waiting.deadline == inf
    stage.proxy.pause(0.0)
    assert before <= waiting.deadline < inf
    assert waiting.state == connection_end.QUEUED


def test_a_pause_outlasts_the_loss_of_all_workers(stage: Stage) -> None:
    stage.proxy.pause(FOREVER)
    stage.client.data_received(GET)
    stage.proxy.set_upstreams([UpstreamSpec("worker-0", "127.0.0.1", 1, "down")], None)
    gone = another(stage)
    gone.data_received(GET)
    gone.connection_lost(None)
    assert stage.client.state == connection_end.QUEUED
    stage.proxy.pause(0.0)
    assert stage.client.transport.sent.startswith(b"HTTP/1.1 503 ")
    assert stage.quiet()


def test_a_pause_ends_by_itself(stage: Stage) -> None:
    async def story() -> None:
        stage.proxy.pause(stage.proxy._loop.time() + 0.01)
        stage.client.data_received(GET)
        while stage.proxy.paused:
            await asyncio.sleep(0.005)

    stage.proxy._loop.run_until_complete(story())
    assert stage.client.state == connection_end.WAITING


def test_a_drained_load_balancer_keeps_no_request_back(stage: Stage) -> None:
    stage.proxy.pause(FOREVER)
    stage.client.data_received(GET)
    stage.proxy.drain()
    stage.proxy.pause(FOREVER)
    assert stage.client.state == connection_end.WAITING


def test_a_drained_upstream_gets_no_unsent_request(stage: Stage) -> None:
    other = UpstreamSpec("worker-1", "127.0.0.1", 2)
    stage.worker.close()
    stage.client.data_received(GET)
    late = stage.client.connection
    stage.proxy.set_upstreams([UpstreamSpec("worker-0", "127.0.0.1", 1, "draining"), other], None)
    late.connection_made(Transport())
    assert not late.transport.sent
    chosen = stage.client.connection
    assert chosen.upstream.name == "worker-1"
    chosen.connection_made(Transport())
    assert chosen.transport.sent.startswith(b"GET / ")
    assert stage.upstream.in_flight == 0
