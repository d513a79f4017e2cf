"""Runs a small event loop: epoll, timers, and calls from other threads.

waitress's own loop asks every connection before each wait whether it wants to read or write, so the cost of a wait
grows with the number of open connections. Here a connection reports a change of interest when it happens, so a wait
costs as much as there are events. One thread runs the loop; other threads may only use `call_from_thread`.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable

log = logging.getLogger("worker_app")

MAX_POLL_SECONDS = 1.0
"""Limits the delay that a lost wake-up would cause."""


class Timer:
    """A scheduled call; `cancel` prevents it."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self.call = None


class EventLoop:
    """Runs the handlers of events, timers and calls; `after_iteration` is called at the end of each iteration."""

    def __init__(self) -> None:
        self.after_iteration: Callable[[], None] = lambda: None
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._ready: deque[Callable[[], None]] = deque()
        self._from_threads: deque[Callable[[], None]] = deque()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._thread = threading.get_ident()
        self._stopped = False

    def register(self, fd: int, mask: int, handler: Callable[[int], None]) -> None:
        self._handlers[fd] = handler
        self._epoll.register(fd, mask)

    def modify(self, fd: int, mask: int) -> None:
        self._epoll.modify(fd, mask)

    def unregister(self, fd: int) -> None:
        """Remove a descriptor that is still open."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def call_at(self, when: float, call: Callable[[], None]) -> Timer:
        """Schedule a call at `when` (time.monotonic()), never earlier."""
        timer = Timer(call)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    def call_soon(self, call: Callable[[], None]) -> None:
        """Schedule a call in this iteration, after the current handler."""
        self._ready.append(call)

    def call_from_thread(self, call: Callable[[], None]) -> None:
        self._from_threads.append(call)
        self.wake()

    def wake(self) -> None:
        os.eventfd_write(self._wake, 1)

    def in_loop(self) -> bool:
        return threading.get_ident() == self._thread

    def stop(self) -> None:
        self._stopped = True

    def run(self) -> None:
        self._thread = threading.get_ident()
        while not self._stopped:
            self.run_once()

    def run_once(self) -> None:
        """Wait for events or the next timer, and run all handlers that are due."""
        for fd, mask in self._epoll.poll(self._poll_timeout()):
            if fd == self._wake:
                os.eventfd_read(self._wake)
                continue
            handler = self._handlers.get(fd)
            if handler is not None:
                self._call_safely(handler, mask)
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            call = heapq.heappop(self._timers)[2].call
            if call is not None:
                self._call_safely(call)
        # Calls that arrive now wait for the next iteration, so that a steady stream of them cannot starve the sockets.
        for _ in range(len(self._from_threads)):
            self._call_safely(self._from_threads.popleft())
        while self._ready:
            self._call_safely(self._ready.popleft())
        self._call_safely(self.after_iteration)

    @staticmethod
    def _call_safely(call: Callable[..., None], *values: int) -> None:
        """Run one call; an exception in it must not stop the loop."""
        try:
            call(*values)
        except Exception:
            log.exception("unplanned exception in the event loop")

    def _poll_timeout(self) -> float:
        if self._from_threads or self._ready:
            return 0.0
        if not self._timers:
            return MAX_POLL_SECONDS
        return min(max(0.0, self._timers[0][0] - time.monotonic()), MAX_POLL_SECONDS)

    def close(self) -> None:
        self._epoll.close()
        os.close(self._wake)
