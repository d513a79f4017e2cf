"""The prober, with answers made up by the test."""

import asyncio
import socket
import threading
from typing import Any

import pytest

from comet.reconcile.observations import NotReady, Ready
from comet.supervisor import readiness
from comet.supervisor.readiness import ReadinessProbe


@pytest.mark.slow
def test_an_answer_from_a_former_place_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that moves keeps its instance: what answers where it was says nothing of where it is."""
    asked, go = threading.Event(), threading.Event()
    heard: list[Any] = []

    def probe(url: str, timeout: float, host: str | None = None, statuses: str = "") -> Ready | NotReady:
        if url == "http://there":
            return NotReady("connection refused")
        asked.set()
        go.wait(120)
        return Ready()

    async def play() -> None:
        prober = ReadinessProbe(asyncio.get_running_loop(), lambda *news: heard.append(news), 1.0)
        prober.watch("worker-0", 1, "http://here")
        await asyncio.to_thread(asked.wait, 120)
        prober.watch("worker-0", 1, "http://there")
        go.set()
        while not heard:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        assert heard == [("worker-0", 1, NotReady("connection refused"))]
        prober.watch("worker-0", 1, "http://elsewhere")
        while len(heard) < 2:
            await asyncio.sleep(0.01)
        prober.close()

    monkeypatch.setattr(readiness, "probe", probe)
    asyncio.run(asyncio.wait_for(play(), 120))
    assert heard[1:] == [("worker-0", 1, Ready())]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", Ready()),
        (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", Ready()),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 204 No\r\n\r\n", Ready()),
        (b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 503 No\r\n\r\n", NotReady("GET /: status 503")),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n", NotReady("GET /: closed without an answer")),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", NotReady("GET /: status 101")),
    ],
)
def test_the_final_response_counts(answer: bytes, expected: Ready | NotReady) -> None:
    """RFC 9110 section 15.2: a client takes any number of interim responses."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        assert readiness.probe(f"http://127.0.0.1:{server.getsockname()[1]}/", 60.0) == expected
        thread.join()
