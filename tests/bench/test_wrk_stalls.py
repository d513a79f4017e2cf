"""What is read from the load generator, and that a stall is in it."""

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

import pytest

from comet.load.closed_model import RequestSpec
from scripts.bench.hdr import percentile_ms
from scripts.bench.wrk import observe, sorting

ANSWER = b"HTTP/1.1 200 OK\r\nX-Comet-Worker: worker-0\r\nContent-Length: 2\r\n\r\nok"


@contextmanager
def server(delay: float, quick: int, stall: float) -> Iterator[int]:
    """A port whose connections are answered after `delay` seconds, but for one request of each, which is answered after
    `stall` seconds: the one that follows `quick` others, so that their number depends on no clock.
    """
    port, over = SimpleQueue[int](), threading.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            for number in itertools.count():
                await reader.readuntil(b"\r\n\r\n")
                # Nobody reads the end of a stall that outlasts the test.
                until = asyncio.get_running_loop().time() + (stall if number == quick else delay)
                while (left := until - asyncio.get_running_loop().time()) > 0 and not over.is_set():
                    await asyncio.sleep(min(0.05, left))
                writer.write(ANSWER)
                await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def serve() -> None:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as made:
            port.put(made.sockets[0].getsockname()[1])
            await asyncio.to_thread(over.wait)
        while len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0.01)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        yield port.get(timeout=120)
    finally:
        over.set()
        thread.join()


@pytest.fixture
def script(tmp_path: Path) -> Path:
    made = tmp_path / "load.lua"
    made.write_text(sorting([RequestSpec("/")]))
    return made


def test_what_is_out_when_the_time_is_over_is_waited_for(script: Path) -> None:
    with server(0, 1, 4) as port:
        seen = observe(port, script, 4, 2.5)
    # Each client asked twice at once.
    assert (seen.kinds, seen.answered, seen.late) == ({"ok": 8}, 8, 4)
    assert percentile_ms(seen.raw, 100) >= 3900  # type: ignore[operator]


def test_a_stall_past_the_load_shows_in_timeouts_and_percentiles(script: Path) -> None:
    with server(0.01, 25, 60) as port:
        seen = observe(port, script, 4, 2.0, drain_timeout=1.5)
    assert (seen.kinds["timeout"], seen.unanswered) == (4, 4)
    assert seen.kinds["ok"] > 8
    assert percentile_ms(seen.raw, 100) == pytest.approx(1500, rel=0.001)
    # In 1.5 s of silence clients would have asked at least 18 times each, as they did in 2 s before; much of what they
    # asked and would have asked waited for long.
    assert percentile_ms(seen.corrected, 90) > 1000  # type: ignore[operator]


def test_a_stall_within_the_load_is_corrected(script: Path) -> None:
    with server(0.01, 20, 0.8) as port:
        seen = observe(port, script, 4, 2.0)
    assert seen.unanswered == 0
    assert 0 < seen.late <= 4  # Who was answered just before the end asked no more.
    assert percentile_ms(seen.raw, 90) < 400  # type: ignore[operator]
    assert percentile_ms(seen.corrected, 90) > 400  # type: ignore[operator]
