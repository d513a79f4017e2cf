"""Generates open-model load: requests fall due at a constant rate, whatever happens to earlier ones.

The time of a request counts from the moment at which it was due. A stall therefore shows in every request that fell due
during it, not only in the one that met it (coordinated omission). The moment of sending is recorded as well: the
difference is the time spent waiting for a free connection, or for the sender itself.
"""

import asyncio
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from comet.load.closed_model import UNANSWERED, Answer, Connection, RequestSpec

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class CompletedRequest:
    """A finished request; times in seconds of the loop's clock.

    `waited`: all connections were busy when the request was due or shortly before, so it had to wait for one. If there
    is no answer, `failure` is the class of the error, as returned by Connection.failure.
    """

    number: int
    address: Address
    due: float
    sent: float
    ended: float
    waited: bool
    answer: Answer | None
    failure: str = ""


def ramp(first: float, last: float, seconds: float) -> Callable[[int], float]:
    """Return when requests are due: the rate changes evenly from `first` to `last` within these seconds, and stays."""
    growth = (last - first) / seconds
    sent = (first + last) / 2 * seconds

    def due(number: int) -> float:
        if not growth:
            return number / first
        if number > sent:
            return seconds + (number - sent) / last if last else math.inf
        # The requests sent by t are first·t + growth·t²/2; none is due any more where a falling rate has met zero.
        root = first * first + 2 * growth * number
        return (math.sqrt(root) - first) / growth if root >= 0 else math.inf

    return due


class OpenModel:
    """Clients that send `rate` requests a second, spread evenly over `addresses` and cycling through `asks`.

    At most `max_outstanding` requests are in flight. A request that falls due beyond that is sent late, and its
    lateness counts. A request may take `timeout` seconds from when it is sent. With `due`, the rate changes: it returns
    the seconds from the beginning to the request of a number.
    """

    def __init__(
        self, addresses: Sequence[Address], asks: Sequence[RequestSpec], rate: float,
        note: Callable[[CompletedRequest], None], max_outstanding: int = 256, timeout: float = 15.0,
        due: Callable[[int], float] | None = None,
    ) -> None:  # fmt: skip
        self.begun = 0.0
        self.sent = 0
        self._addresses, self._asks = addresses, asks
        self._due = due or (lambda number: number / rate)
        self._note, self._timeout = note, timeout
        self._idle: dict[Address, list[Connection]] = defaultdict(list)
        self._slots = asyncio.Semaphore(max_outstanding)
        self._outstanding: set[asyncio.Task[None]] = set()
        self._keeps = True

    async def send(self, number: int | None = None) -> None:
        """Send this many requests, each when it is due; without end for None."""
        clock = asyncio.get_running_loop().time
        self.begun, waited = clock(), False
        while number is None or self.sent < number:
            due = self.begun + self._due(self.sent)
            if (delay := due - clock()) > 0:
                await asyncio.sleep(delay)
            # Requests delayed by a wait for a free slot count as having waited, until the sender has caught up.
            waited = self._slots.locked() or (waited and delay <= 0)
            await self._slots.acquire()
            task = asyncio.create_task(self._send_one(self.sent, due, waited))
            self._outstanding.add(task)
            task.add_done_callback(self._outstanding.discard)
            self.sent += 1

    def redirect(self, addresses: Sequence[Address]) -> None:
        """Send to these addresses from now on; connections to others are closed once they are idle."""
        self._addresses = addresses
        for gone in self._idle.keys() - set(addresses):
            for connection in self._idle.pop(gone):
                connection.close()

    def retire(self) -> None:
        """Close what is idle, and each connection after its answer; nothing more is sent.

        A load balancer that drains would wait for idle connections.
        """
        self._keeps = False
        for idle in self._idle.values():
            for connection in idle:
                connection.close()
            idle.clear()

    async def drained(self) -> None:
        """Wait until every request sent has an answer or has waited `timeout` for it.

        Without this the slowest requests would be missing.
        """
        while self._outstanding:
            await asyncio.wait(self._outstanding)

    async def end(self) -> None:
        """Cancel all requests and close all connections."""
        for task in self._outstanding:
            task.cancel()
        await self.drained()
        self.retire()
        await asyncio.sleep(0)  # Closed transports end in the loop's next iteration.

    async def _send_one(self, number: int, due: float, waited: bool) -> None:
        clock = asyncio.get_running_loop().time
        address = self._addresses[number % len(self._addresses)]
        # Move to the next request only when every address has had this one, so that each address gets all of them.
        spec = self._asks[number // len(self._addresses) % len(self._asks)]
        idle = self._idle[address]
        connection = idle.pop() if idle else Connection(*address)
        sent = clock()
        try:
            async with asyncio.timeout(self._timeout):
                answer = await connection.send_request(spec)
        except UNANSWERED as error:
            self._note(CompletedRequest(number, address, due, sent, clock(), waited, None, connection.failure(error)))
            connection.close()
        except asyncio.CancelledError:
            connection.close()
            raise
        else:
            self._note(CompletedRequest(number, address, due, sent, clock(), waited, answer))
            if self._keeps and address in self._addresses:
                self._idle[address].append(connection)
            else:
                connection.close()
        finally:
            self._slots.release()
