"""The clients of the closed model over real sockets, and the sums of what they saw."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable

import pytest

from comet.load.closed_model import ClosedModel, ResultCounts, percentile_ms, total
from tests.support.waiting import PATIENCE


def test_percentiles_and_sums() -> None:
    assert percentile_ms([], 50) is None
    assert percentile_ms([0.001 * each for each in range(1, 101)], 50) == 50.0
    assert percentile_ms([0.001 * each for each in range(1, 101)], 99) == 99.0
    assert percentile_ms([0.2], 99) == 200.0
    books = [ResultCounts(ok=2, injected=1, times=[0.1, 0.3]), ResultCounts(ok=1, times=[0.2])]
    books[1].errors["504"] += 2
    assert total(books).as_dict() == {
        "requests": 6, "ok": 3, "injected": 1, "errors": {"504": 2}, "repeated": 0, "p50_ms": 200.0, "p99_ms": 300.0,
        "workers": {},
    }  # fmt: skip


def seen_of(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], timeout: float
) -> ResultCounts:
    """What two clients saw of a server that treats each connection like that."""

    async def go() -> ResultCounts:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        crowd = ClosedModel([server.sockets[0].getsockname()[:2]], "/", timeout)
        book = crowd.start(2, 0.02)
        while book.requests < 6:
            await asyncio.sleep(0.01)
        await crowd.stop()
        server.close()
        return book

    return asyncio.run(asyncio.wait_for(go(), 20 * PATIENCE))


def scripted(
    answer: bytes, last: bool = True
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(answer)
                if last:
                    break
            writer.close()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    return serve


@pytest.mark.parametrize(
    ("answer", "last", "kinds"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", False, {"ok"}),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", True, {"ok"}),
        (b"HTTP/1.1 200 OK\r\n\r\nto the end", True, {"ok"}),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", False, {"ok"}),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", True, {"cut short"}),
        (b'HTTP/1.1 500 X\r\nContent-Length: 28\r\n\r\n{"error":"injected failure"}', False, {"injected"}),
        (b"HTTP/1.1 504 X\r\nContent-Length: 0\r\n\r\n", False, {"504"}),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", True, {"cut short"}),
        (b"HTTP/1.1 200", True, {"cut short"}),
        (b"nonsense\r\n\r\n", True, {"cut short"}),
        (b"", True, {"closed without an answer"}),
        (b"", False, {"timeout"}),
    ],
)
def test_clients_report_their_results(answer: bytes, last: bool, kinds: set[str]) -> None:
    book = seen_of(scripted(answer, last), 0.3 if kinds == {"timeout"} else 20.0)
    told = {kind for kind, count in (("ok", book.ok), ("injected", book.injected), *book.errors.items()) if count}
    assert told == kinds
    # A connection that the server closes after its answer is no error of the next request: that one is repeated, and
    # counted as such.
    assert (book.repeated > 0) == (kinds == {"ok"} and last and b"Content-Length" in answer)


def test_clients_do_not_hammer_a_dead_port() -> None:
    async def go() -> ResultCounts:
        with socket.socket() as dead:  # The port is its own, and it listens to nobody.
            dead.bind(("127.0.0.1", 0))
            crowd = ClosedModel([dead.getsockname()], "/", 20.0)
            book = crowd.start(2, 0.0)
            while not book.errors:
                await asyncio.sleep(0)
            await asyncio.sleep(0.3)
            await crowd.stop()
        return book

    book = asyncio.run(go())
    assert set(book.errors) == {"refused"}
    assert book.requests <= 2 * 8


def test_the_number_of_clients_changes_between_steps() -> None:
    async def go() -> list[int]:
        inside: set[int] = set()
        seen = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            inside.add(id(writer))
            await scripted(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", last=False)(reader, writer)
            inside.discard(id(writer))

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        crowd = ClosedModel([server.sockets[0].getsockname()[:2]], "/", 20.0)
        for size in (3, 30, 2):
            crowd.start(size, 0.01)
            deadline = time.monotonic() + 5 * PATIENCE
            while len(inside) != size and time.monotonic() < deadline:
                await asyncio.sleep(0.01)
            seen.append(len(inside))
        await crowd.stop()
        server.close()
        return seen

    assert asyncio.run(go()) == [3, 30, 2]
