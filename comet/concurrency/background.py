"""Runs work that may block on a daemon thread, without blocking the event loop.

Work that reads files that others can replace, or a file system that may hang, can block forever. It runs on a daemon
thread, for which neither the loop nor the end of the process waits (they wait for an executor's threads). Only one
piece of work of a kind runs at a time: while it is stuck, no other is started.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Background:
    """Runs pieces of one kind of work one after another; it is used from the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._since: float | None = None

    def attempt(self, work: Callable[[], T], done: Callable[[T], None]) -> bool:
        """Start `work` unless the previous one still runs, and return whether it was started.

        `done` gets its result on the loop's thread; after an exception it is not called.
        """
        if self._since is not None:
            return False
        self._since = time.monotonic()

        def carry_out() -> None:
            results = []
            with contextlib.suppress(Exception):
                results.append(work())
            with contextlib.suppress(RuntimeError):  # The loop may be closed, and then nothing waits for the result.
                self._loop.call_soon_threadsafe(finish, results)

        def finish(results: list[T]) -> None:
            self._since = None
            for result in results:
                done(result)

        threading.Thread(target=carry_out, daemon=True).start()
        return True

    def stuck(self, timeout: float) -> bool:
        """Return whether a piece of work has run for longer than `timeout` seconds."""
        return self._since is not None and time.monotonic() - self._since > timeout
