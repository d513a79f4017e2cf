"""The clients of a comparison: so many at a time (closed), or at a fixed rate (open).

In the open model a request's latency counts from the moment at which it was due, so that a stall is felt by all that were due in it and
not only by the one that met it (coordinated omission).
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from comet.crowd import UNANSWERED, Book, Connection, Crowd

HOST = "127.0.0.1"
PATH = "/api/v1/hello"
TIMEOUT = 15.0
MOST_CONNECTIONS = 256
"""Of the open model: what is due while so many wait is late, and its lateness counts."""


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
    pace = _Pace(port, rate)
    sender = asyncio.create_task(pace.send())
    try:
        yield pace.book
        sender.cancel()
        await pace.drained()
    finally:
        sender.cancel()
        await asyncio.wait([sender])
        await pace.end()


class _Pace:
    def __init__(self, port: int, rate: float) -> None:
        self.book = Book()
        self._port, self._rate = port, rate
        self._idle: list[Connection] = []
        self._room = asyncio.Semaphore(MOST_CONNECTIONS)
        self._asked: set[asyncio.Task[None]] = set()

    async def send(self) -> None:
        loop = asyncio.get_running_loop()
        begun, number = loop.time(), 0
        while True:
            due = begun + number / self._rate
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            await self._room.acquire()
            task = asyncio.create_task(self._one(due))
            self._asked.add(task)
            task.add_done_callback(self._asked.discard)
            number += 1

    async def drained(self) -> None:
        """Return when all that were asked have an answer or have waited TIMEOUT for it."""
        while self._asked:
            await asyncio.wait(self._asked)

    async def end(self) -> None:
        """Leave no request and no connection behind."""
        for task in self._asked:
            task.cancel()
        await self.drained()
        for connection in self._idle:
            connection.close()
        await asyncio.sleep(0)  # Transports that were closed end in the loop's next turn.

    async def _one(self, due: float) -> None:
        loop = asyncio.get_running_loop()
        connection = self._idle.pop() if self._idle else Connection(HOST, self._port, PATH)
        try:
            async with asyncio.timeout(TIMEOUT):
                answer = await connection.ask()
        except UNANSWERED as error:
            self.book.errors[connection.trouble(error)] += 1
            connection.close()
        except asyncio.CancelledError:
            connection.close()
            raise
        else:
            self.book.note(answer, loop.time() - due)
            self._idle.append(connection)
        finally:
            self._room.release()
