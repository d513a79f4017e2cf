"""An event loop whose clock moves only while nothing is to be done: how busy the machine is decides no test of times.

Everything else is the loop's own, sockets too.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

QUIET = 0.003
"""Seconds without an event after which nothing is on its way: the loopback interface delivers at once."""


class _Selector(selectors.DefaultSelector):
    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for events; where a timer is next, move the clock there instead."""
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        found = super().select(QUIET)
        if not found:
            self.now += timeout
        return found


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _Selector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


def run(main: Coroutine[Any, Any, T]) -> T:
    """As `asyncio.run`."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(main)
