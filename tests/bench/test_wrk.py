"""What is read from the load generator, and that a stall is in it."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

import pytest

from comet.crowd import Ask
from scripts.bench.hdr import percentile_ms
from scripts.bench.proc import BenchError
from scripts.bench.wrk import observe, parse, sorting

REPORTED = """Running 6s test @ http://127.0.0.1:1/
  Socket errors: connect 0, read 3, write 0, timeout 0
@@{"requests":300,"seconds":1.5,"bytes":9000,"refused":1,"read":3,"write":0,"status":5,"timeout":2,"p50_us":10,"p99_us":20,"p999_us":30}
"""


def test_every_kind_of_error_is_counted() -> None:
    burst = parse(REPORTED)
    assert (burst.requests, burst.rate, burst.errors) == (300, 200.0, 11)


def test_silence_is_an_error_and_not_a_result() -> None:
    with pytest.raises(BenchError, match="unable to connect"):
        parse("unable to connect to 127.0.0.1:1 Connection refused")


ANSWER = b"HTTP/1.1 200 OK\r\nX-Comet-Worker: worker-0\r\nContent-Length: 2\r\n\r\nok"


@contextmanager
def server(delay: float, stall: tuple[float, float]) -> Iterator[int]:
    """A port whose connections are answered after `delay`; whoever asks at `stall`, seconds since the first request, not before its end."""
    begun, port, over = [0.0], SimpleQueue[int](), threading.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                begun[0] = begun[0] or time.monotonic()
                since = time.monotonic() - begun[0]
                pause = stall[1] - since if stall[0] <= since < stall[1] else delay
                # Nobody reads the end of a stall that outlasts the test.
                until = time.monotonic() + pause
                while time.monotonic() < until and not over.is_set():
                    await asyncio.sleep(min(0.05, until - time.monotonic()))
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
        yield port.get(timeout=10)
    finally:
        over.set()
        thread.join()


@pytest.fixture
def script(tmp_path: Path) -> Path:
    made = tmp_path / "load.lua"
    made.write_text(sorting([Ask("/")]))
    return made


@pytest.mark.slow
def test_what_is_out_when_the_time_is_over_is_waited_for(script: Path) -> None:
    with server(0.5, (9, 9)) as port:
        seen = observe(port, script, 4, 0.8)
    # Each client asked at 0 and 0.5 s.
    assert (seen.kinds, seen.answered, seen.late) == ({"ok": 8}, 8, 4)
    assert percentile_ms(seen.raw, 1) >= 500  # type: ignore[operator]


@pytest.mark.slow
def test_a_stall_that_outlasts_the_load_is_told_as_timeouts_and_in_every_percentile(script: Path) -> None:
    with server(0.01, (0.5, 60)) as port:
        seen = observe(port, script, 4, 1.0, patience=1.5)
    assert (seen.kinds["timeout"], seen.unanswered) == (4, 4)
    assert seen.kinds["ok"] > 8
    assert percentile_ms(seen.raw, 100) == pytest.approx(1500, rel=0.001)
    # In 1.5 s of silence clients would have asked some 75 times each; half of what they asked and would have asked waited for long.
    assert percentile_ms(seen.corrected, 90) > 1000  # type: ignore[operator]


@pytest.mark.slow
def test_a_stall_within_the_load_is_corrected(script: Path) -> None:
    with server(0.01, (0.3, 1.1)) as port:
        seen = observe(port, script, 4, 1.5)
    assert (seen.unanswered, seen.late) == (0, 4)
    assert percentile_ms(seen.raw, 90) < 400  # type: ignore[operator]
    assert percentile_ms(seen.corrected, 90) > 400  # type: ignore[operator]
