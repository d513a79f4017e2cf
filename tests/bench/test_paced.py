"""The open model's generator, against a server that stalls when it is told."""

import asyncio
from typing import Any

from comet.load.closed_model import RequestSpec
from scripts.bench.hdr import percentile_ms
from scripts.bench.observed import Observed, beside
from scripts.bench.paced import Sending, offer
from tests.support import virtual_time

HEAD = b"HTTP/1.1 200 OK\r\nX-Comet-Worker: worker-0\r\nContent-Length: 2\r\n\r\nok"


async def _offered(rate: float, seconds: float, most: int, stall: float = 0.0) -> tuple[Observed, Sending, int]:
    """Of a server that answers at once, but for its tenth request, which it answers after `stall` seconds."""
    asked = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                asked += 1
                if asked == 10:
                    await asyncio.sleep(stall)
                writer.write(HEAD)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        told: dict[str, Any] = await offer({"lb-0": port}, [RequestSpec("/")], rate, seconds, 2, most)
        await asyncio.sleep(0.05)
    seen = beside(Observed.from_dict(part["lb-0"]) for part in told["slices"])
    return seen, Sending(**told["sending"]), asked


def test_a_stall_is_felt_by_all_that_were_due_in_it() -> None:
    seen, sending, asked = virtual_time.run(_offered(rate=100, seconds=2.0, most=1, stall=1.0))
    # One connection: only one request met the stall, a hundred were due in it.
    raw, corrected = (percentile_ms(each, 75) or 0.0 for each in (seen.raw, seen.corrected))
    assert asked == 200
    assert raw < 300 < 400 < corrected < 1_100
    assert sending.late >= 90
    assert sending.waited >= 0.9 * sending.late
    assert not sending.kept


def test_requests_due_and_never_sent_count_with_their_wait() -> None:
    seen, sending, asked = virtual_time.run(_offered(rate=100, seconds=1.0, most=1, stall=2.0))
    assert asked == 10
    assert sending.unsent == 90
    assert seen.answered == 10
    assert seen.corrected.get_total_count() == 100
    assert not sending.kept


def test_requests_are_told_by_kind_worker_and_slice() -> None:
    seen, sending, asked = virtual_time.run(_offered(rate=100, seconds=1.0, most=50))
    assert (seen.kinds, seen.workers, asked) == ({"ok": 100}, {"worker-0": 100}, 100)
    assert sending.due == 100
    assert sending.unsent == 0


def test_a_port_where_nobody_listens_is_refused_and_not_a_crash() -> None:
    told = virtual_time.run(offer({"lb-0": 1}, [RequestSpec("/")], 50, 0.4, 1, 10))
    assert told["slices"][0]["lb-0"]["kinds"] == {"refused": 20}
