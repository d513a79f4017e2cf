"""The clients of a comparison: so many at a time (closed), or at a fixed rate (open).

In the open model a request's latency counts from the moment at which it was due, so that a stall is felt by all that were due in it and
not only by the one that met it (coordinated omission).
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from comet.crowd import Book, Connection, Crowd

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
    """`rate` requests a second are due for the length of the block; times count from when each was due."""
    book = Book()
    sender = asyncio.create_task(_send(port, rate, book))
    try:
        yield book
    finally:
        sender.cancel()
        await asyncio.wait([sender])
        await asyncio.sleep(0)  # Transports that were closed end in the loop's next turn.


async def _send(port: int, rate: float, book: Book) -> None:
    loop = asyncio.get_running_loop()
    idle: list[Connection] = []
    room = asyncio.Semaphore(MOST_CONNECTIONS)
    begun, number = loop.time(), 0
    try:
        async with asyncio.TaskGroup() as group:
            while True:
                due = begun + number / rate
                if due > loop.time():
                    await asyncio.sleep(due - loop.time())
                await room.acquire()
                connection = idle.pop() if idle else Connection(HOST, port, PATH)
                group.create_task(_one(connection, due, book, idle, room))
                number += 1
    finally:
        for connection in idle:
            connection.close()


async def _one(connection: Connection, due: float, book: Book, idle: list[Connection], room: asyncio.Semaphore) -> None:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(TIMEOUT):
            answer = await connection.ask()
    except (OSError, EOFError, ValueError) as error:
        book.errors[connection.trouble(error)] += 1
        connection.close()
    else:
        book.times.append(loop.time() - due)
        if answer.status == 200:
            book.ok += 1
        else:
            book.errors[str(answer.status)] += 1
        idle.append(connection)
    finally:
        room.release()
