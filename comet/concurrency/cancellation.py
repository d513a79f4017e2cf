"""Waits for loop tasks and for blocking work on threads until a stop is requested."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


class Stopped(Exception):
    """A stop was requested before the result came."""


class Interruptible:
    """Waits until a result comes or `stop` is set, whichever is first; `cancelled` is the same signal for threads."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.stop = asyncio.Event()
        self.cancelled = threading.Event()

    def request_stop(self) -> None:
        self.stop.set()
        self.cancelled.set()

    async def outcome(self, work: Awaitable[T]) -> T:
        """Return the result of `work`; raise Stopped if a stop comes first."""
        task = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self.stop.wait())
        await asyncio.wait((task, stop), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if task.done():
            return task.result()
        task.cancel()
        raise Stopped

    async def blocking(self, work: Callable[[], T]) -> T:
        """Return the result of `work`, run on a daemon thread.

        Unlike an executor's thread, it cannot keep the process from ending.
        """
        outcome: asyncio.Future[T] = self._loop.create_future()

        def succeed(result: T) -> None:
            if not outcome.done():
                outcome.set_result(result)

        def fail(error: BaseException) -> None:
            if not outcome.done():
                outcome.set_exception(error)

        def carry_out() -> None:
            try:
                result = work()
            except BaseException as error:
                self._loop.call_soon_threadsafe(fail, error)
            else:
                self._loop.call_soon_threadsafe(succeed, result)

        threading.Thread(target=carry_out, daemon=True).start()
        return await self.outcome(outcome)
