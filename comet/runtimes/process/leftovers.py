"""Ends what a replica's main process leaves in its session when it ends.

What is left belongs to the replica, and ends with it. After an order to stop, it gets the same signal and the rest of
the grace. So a service behind a shell, which dies of the signal without passing it on, ends as gently as one without a
shell. After a crash it is killed at once: it may hold the port of the next start.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from signal import SIGKILL, SIGTERM

from comet.host import process_identity

POLL_PAUSE = 0.005
MAX_POLL_PAUSE = 0.1
"""Seconds between two polls: the pause doubles from POLL_PAUSE to MAX_POLL_PAUSE."""

CRASH_TIMEOUT = 1.0
"""Seconds for which a restart waits for the processes that were killed.

A process in an uninterruptible wait dies only when that wait is over.
"""


class SessionLeftovers:
    """The rest of one session, whose leader is dead; `done` is called when it has ended."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, leader: int, birth: float, graceful: bool, done: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._leader = leader
        self._birth = birth
        self._graceful = graceful
        self._done = done
        self._signaled: set[tuple[int, float]] = set()
        self._pause = POLL_PAUSE
        self._since = time.monotonic()
        self._timer: asyncio.TimerHandle | None = None
        self._poll()

    def kill(self) -> None:
        """Kill what is left: the grace is over."""
        self._graceful = False
        self._since = time.monotonic()
        self._signal_all()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _poll(self) -> None:
        left = self._signal_all()
        if not left or (not self._graceful and time.monotonic() - self._since > CRASH_TIMEOUT):
            self._timer = None
            self._done()
            return
        self._timer = self._loop.call_later(self._pause, self._poll)
        self._pause = min(2 * self._pause, MAX_POLL_PAUSE)

    def _signal_all(self) -> int:
        """Signal each process, in a graceful stop only once; return how many processes there are."""
        found = process_identity.members(self._leader, self._birth)
        for each in found:
            known = (each.pid, each.birth)
            if self._graceful and known in self._signaled:
                continue
            self._signaled.add(known)
            with contextlib.suppress(PermissionError):
                process_identity.send(each.pid, each.birth, SIGTERM if self._graceful else SIGKILL)
        return len(found)
