"""Connections to workers that fail, close or say what nobody has asked for."""

import contextlib
import errno
import socket
import threading
import time
from typing import Any

import pytest

from lb.interface import messages
from lb.interface.settings import UpstreamSpec
from tests.support.lb import Worker, WorkerConnection, lb_and_workers, raw, response
from tests.support.lb_behaviours import GET, once, supervised
from tests.support.waiting import wait_until


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
