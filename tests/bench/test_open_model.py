"""The open model's clients, against a server that answers late."""

import asyncio
import gc
import warnings

import pytest

from comet.compare.questions import load
from comet.load.closed_model import ResultCounts
from tests.support import virtual_time

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class LateServer:
    """Answers each request after so many seconds; never, if that is None."""

    def __init__(self, late: float | None) -> None:
        self._late = late
        self.asked = 0
        self.connected = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connected += 1
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                self.asked += 1
                if self._late is not None:
                    await asyncio.sleep(self._late)
                    writer.write(ANSWER)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.connected -= 1
            writer.close()


def _pace(late: LateServer, seconds: float, fail: bool = False) -> ResultCounts:
    async def pace() -> ResultCounts:
        async with await asyncio.start_server(late, load.HOST, 0) as server:
            port = server.sockets[0].getsockname()[1]
            try:
                async with load.at_rate(port, rate=100) as book:
                    await asyncio.sleep(seconds)
                    if fail:
                        raise KeyError("the block's own error")
            finally:
                async with asyncio.timeout(60):
                    while late.connected:
                        await asyncio.sleep(0.01)
        return book

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        book = virtual_time.run(pace())
        gc.collect()
    return book


def test_a_request_in_flight_at_the_end_is_in_the_book() -> None:
    late = LateServer(0.3)
    book = _pace(late, 0.5)
    assert book.requests == late.asked > 20
    assert book.ok == book.requests


def test_a_silent_server_costs_timeouts_and_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "TIMEOUT", 0.4)
    late = LateServer(None)
    book = _pace(late, 0.3)
    assert dict(book.errors) == {"timeout": late.asked}


def test_a_block_that_fails_leaves_no_connection() -> None:
    late = LateServer(None)
    with pytest.raises(KeyError):
        _pace(late, 0.3, fail=True)
    gc.collect()
    assert late.asked
    assert not late.connected
