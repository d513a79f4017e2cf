"""A small event loop: epoll, timers, and calls handed over from other threads.

waitress's own loop asks every connection whether it wants to read or write before each wait: its cost per wait grows with the
open connections. Here a connection says so when it changes, so a wait costs what has happened, not what is open. One thread
runs the loop; only `call_from_thread` may be called from others.
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

LONGEST_WAIT = 1.0  # seconds; a lost wake-up would cost no more than this


class Timer:
    """A call to come; `cancel` makes it never come."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self.call = None


class EventLoop:
    """`after_round` is called once per turn, after everything that happened in it."""

    def __init__(self, after_round: Callable[[], None] = lambda: None) -> None:
        self.after_round = after_round
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._soon: deque[Callable[[], None]] = deque()
        self._handed: deque[Callable[[], None]] = deque()
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
        """Forget a descriptor that is still open."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def call_at(self, when: float, call: Callable[[], None]) -> Timer:
        """Call at `when` (time.monotonic), never before."""
        timer = Timer(call)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    def call_soon(self, call: Callable[[], None]) -> None:
        """Call in this turn, after what is running now."""
        self._soon.append(call)

    def call_from_thread(self, call: Callable[[], None]) -> None:
        self._handed.append(call)
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
            self.turn()

    def turn(self) -> None:
        """Wait for something to happen, or a timer, and deal with all of it."""
        for fd, mask in self._epoll.poll(self._patience()):
            if fd == self._wake:
                os.eventfd_read(self._wake)
                continue
            handler = self._handlers.get(fd)
            if handler is not None:
                self._guard(handler, mask)
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            call = heapq.heappop(self._timers)[2].call
            if call is not None:
                self._guard(call)
        # What is handed over meanwhile waits for the next turn, so that a steady stream cannot starve the sockets.
        for _ in range(len(self._handed)):
            self._guard(self._handed.popleft())
        while self._soon:
            self._guard(self._soon.popleft())
        self._guard(self.after_round)

    @staticmethod
    def _guard(call: Callable[..., None], *values: int) -> None:
        """A mistake in one call must not end the others."""
        try:
            call(*values)
        except Exception:
            log.exception("unplanned exception in the event loop")

    def _patience(self) -> float:
        if self._handed or self._soon:
            return 0.0
        if not self._timers:
            return LONGEST_WAIT
        return min(max(0.0, self._timers[0][0] - time.monotonic()), LONGEST_WAIT)

    def close(self) -> None:
        self._epoll.close()
        os.close(self._wake)
