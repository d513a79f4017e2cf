"""Reaps orphaned processes that the supervisor inherits as a child subreaper.

A child subreaper (prctl(2)) becomes the parent of every descendant that loses its parent, and such a process becomes
its zombie when it ends.

The supervisor's own children are reaped by the code that started them, which needs their exit status. Any other dead
child is reaped only if the previous poll already found it dead. Code that has just started a child therefore has a
second to see its end.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Collection

from comet.concurrency.background import Background
from comet.host import process_identity


class Reaper:
    """Reaps dead children except `kept`, the PIDs whose exit status other code awaits."""

    def __init__(self, loop: asyncio.AbstractEventLoop, awaited: Callable[[], Collection[int]]) -> None:
        self._awaited = awaited
        self._seen: set[tuple[int, float]] = set()
        self._table = Background(loop)

    def poll(self) -> None:
        """Poll once; the process table is read on another thread, and only if a child is dead."""
        try:
            dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            dead = None
        if dead is None:
            self._seen.clear()
        else:
            self._table.attempt(zombies, self._reap)

    def _reap(self, found: set[tuple[int, float]]) -> None:
        awaited = self._awaited()
        loose = {each for each in found if each[0] not in awaited}
        for pid, _ in loose & self._seen:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        self._seen = loose


def zombies() -> set[tuple[int, float]]:
    """Return the dead children of this process, by PID and birth."""
    me = os.getpid()
    return {(each.pid, each.birth) for each in process_identity.processes() if each.parent == me and not each.alive}
