"""The open model's clients: requests fall due at a constant rate, whatever becomes of those before them.

A request's time counts from the moment at which it was due, so that a stall is felt by all that were due in it and not only by the one
that met it (coordinated omission). When it was really sent is noted beside that: the difference is time for which it waited for a free
connection, or for the sender itself.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from comet.crowd import UNANSWERED, Answer, Ask, Connection

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Ended:
    """One request, in seconds of the loop's clock. `waited`: all connections were busy, when it was due or
    shortly before, so that it had to wait for them. No answer: `trouble` is the
    class of the error, as Connection.trouble has it."""

    number: int
    address: Address
    due: float
    sent: float
    ended: float
    waited: bool
    answer: Answer | None
    trouble: str = ""


class Pace:
    """`rate` requests a second, shared out evenly over `addresses` and in turn over `asks`; at most `most` of them at a time: what is due
    while so many are out is sent late, and its lateness counts. A request may take `timeout` seconds from when it is sent."""

    def __init__(
        self, addresses: Sequence[Address], asks: Sequence[Ask], rate: float, note: Callable[[Ended], None],
        most: int = 256, timeout: float = 15.0,
    ) -> None:  # fmt: skip
        self.begun = 0.0
        self.sent = 0
        self._addresses, self._asks, self._rate = addresses, asks, rate
        self._note, self._timeout = note, timeout
        self._idle: dict[Address, list[Connection]] = defaultdict(list)
        self._room = asyncio.Semaphore(most)
        self._out: set[asyncio.Task[None]] = set()

    async def send(self, number: int | None = None) -> None:
        """Send so many requests, each when it is due; without end for None."""
        clock = asyncio.get_running_loop().time
        self.begun, waited = clock(), False
        while number is None or self.sent < number:
            due = self.begun + self.sent / self._rate
            if (early := due - clock()) > 0:
                await asyncio.sleep(early)
            # Whom a wait for room delayed waited too, until the sender has caught up.
            waited = self._room.locked() or (waited and early <= 0)
            await self._room.acquire()
            task = asyncio.create_task(self._one(self.sent, due, waited))
            self._out.add(task)
            task.add_done_callback(self._out.discard)
            self.sent += 1

    async def drained(self) -> None:
        """Return when all that were sent have an answer or have waited `timeout` for it: without them the slowest would be missing."""
        while self._out:
            await asyncio.wait(self._out)

    async def end(self) -> None:
        """Leave no request and no connection behind."""
        for task in self._out:
            task.cancel()
        await self.drained()
        for idle in self._idle.values():
            for connection in idle:
                connection.close()
        await asyncio.sleep(0)  # Transports that were closed end in the loop's next turn.

    async def _one(self, number: int, due: float, waited: bool) -> None:
        clock = asyncio.get_running_loop().time
        address = self._addresses[number % len(self._addresses)]
        # The turn over the asks moves on only when every address had its own, so that each address gets all of them.
        what = self._asks[number // len(self._addresses) % len(self._asks)]
        idle = self._idle[address]
        connection = idle.pop() if idle else Connection(*address)
        sent = clock()
        try:
            async with asyncio.timeout(self._timeout):
                answer = await connection.ask(what)
        except UNANSWERED as error:
            self._note(Ended(number, address, due, sent, clock(), waited, None, connection.trouble(error)))
            connection.close()
        except asyncio.CancelledError:
            connection.close()
            raise
        else:
            self._note(Ended(number, address, due, sent, clock(), waited, answer))
            idle.append(connection)
        finally:
            self._room.release()
