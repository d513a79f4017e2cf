"""The clients of a comparison: so many at a time (closed), or at a fixed rate (open; see comet.pace)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from comet.crowd import Ask, Book, Crowd
from comet.pace import Ended, Pace

HOST = "127.0.0.1"
PATH = "/api/v1/hello"
TIMEOUT = 15.0


@asynccontextmanager
async def clients(port: int, number: int, pause: float = 0.0) -> AsyncIterator[Book]:
    """So many clients ask in a loop for the length of the block; their book. The first 0.3 s warm up and are not in it."""
    crowd = Crowd([(HOST, port)], PATH, TIMEOUT)
    try:
        crowd.gather(number, pause)
        await asyncio.sleep(0.3)
        yield crowd.gather(number, pause)
        await crowd.disperse()
    finally:
        crowd.end()
        await crowd.gone()


@asynccontextmanager
async def paced(port: int, rate: float) -> AsyncIterator[Book]:
    """`rate` requests a second are due for the length of the block; times count from when each was due.

    What is in flight at the block's end is waited for: were it left out, the slowest would be missing.
    """
    book = Book()

    def note(ended: Ended) -> None:
        if ended.answer is None:
            book.errors[ended.trouble] += 1
        else:
            book.note(ended.answer, ended.ended - ended.due)

    pace = Pace([(HOST, port)], [Ask(PATH)], rate, note, timeout=TIMEOUT)
    sender = asyncio.create_task(pace.send())
    try:
        yield book
        sender.cancel()
        await pace.drained()
    finally:
        sender.cancel()
        await asyncio.wait([sender])
        await pace.end()
