"""The clients of a comparison: a fixed number (closed), or a fixed rate (open; see comet.load.open_model)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from comet.load.closed_model import ClosedModel, RequestSpec, ResultCounts
from comet.load.open_model import CompletedRequest, OpenModel

HOST = "127.0.0.1"
PATH = "/api/v1/hello"
TIMEOUT = 15.0


@asynccontextmanager
async def clients(port: int, number: int, pause: float = 0.0) -> AsyncIterator[ResultCounts]:
    """Run `number` clients that ask in a loop for the length of the block; yield their counts.

    The first 0.3 s warm up and are not counted.
    """
    model = ClosedModel([(HOST, port)], PATH, TIMEOUT)
    try:
        model.start(number, pause)
        await asyncio.sleep(0.3)
        yield model.start(number, pause)
        await model.stop()
    finally:
        model.end()
        await model.wait_closed()


@asynccontextmanager
async def at_rate(port: int, rate: float) -> AsyncIterator[ResultCounts]:
    """Send `rate` requests a second for the length of the block; times count from when each was due.

    The requests in flight at the block's end are waited for, since otherwise the slowest would be missing.
    """
    counts = ResultCounts()

    def note(ended: CompletedRequest) -> None:
        if ended.answer is None:
            counts.errors[ended.failure] += 1
        else:
            counts.note(ended.answer, ended.ended - ended.due)

    model = OpenModel([(HOST, port)], [RequestSpec(PATH)], rate, note, timeout=TIMEOUT)
    sender = asyncio.create_task(model.send())
    try:
        yield counts
        sender.cancel()
        await model.drained()
    finally:
        sender.cancel()
        await asyncio.wait([sender])
        await model.end()
