"""Faults that use resources up: processor time, memory."""

from __future__ import annotations

import hashlib
import mmap
import os
import resource
import signal
import time
from collections.abc import Callable

_BLOCK = bytes(256 * 1024)
_MIB = 1 << 20


def processor(seconds: float) -> None:
    """Burn so many seconds of this thread's processor time. Hashing releases the interpreter, so that other requests suffer from the lost
    processor and not from a lock."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        hashlib.sha256(_BLOCK)


class Burn:
    """A task for waitress's dispatcher: burn, then call."""

    def __init__(self, seconds: float, then: Callable[[], None]) -> None:
        self._seconds = seconds
        self._then = then

    def service(self) -> None:
        processor(self._seconds)
        self._then()

    def cancel(self) -> None:
        """Called when the dispatcher is shut down before the task's turn."""


class Hog:
    """Memory that grows until the limit kills the process. In a container the kernel does that; as a process `cap_process` sets a
    limit first, and reaching it ends the process by SIGKILL, as the kernel would."""

    def __init__(self) -> None:
        self._held: list[mmap.mmap] = []
        self._fraction = 0.0

    def grow(self, mib: float) -> None:
        """Take so many MiB more, every page touched."""
        self._fraction += mib
        whole = int(self._fraction)
        self._fraction -= whole
        try:
            for _ in range(whole):
                # Mapped by itself, so that closing gives it back at once, whatever the allocator thinks.
                piece = mmap.mmap(-1, _MIB)
                for page in range(0, _MIB, mmap.PAGESIZE):
                    piece[page] = 1
                self._held.append(piece)
        except (MemoryError, OSError):
            os.kill(os.getpid(), signal.SIGKILL)

    def release(self) -> None:
        for piece in self._held:
            piece.close()
        self._held.clear()
        self._fraction = 0.0


def cap_process(limit_bytes: int) -> None:
    """Let this process take no more than `limit_bytes` of memory beside the address space it only reserved (setrlimit(2), RLIMIT_AS)."""
    with open("/proc/self/statm", encoding="ascii") as file:
        virtual, resident = (int(word) * resource.getpagesize() for word in file.read().split()[:2])
    allowed = virtual + max(0, limit_bytes - resident)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or allowed < hard:
        resource.setrlimit(resource.RLIMIT_AS, (allowed, hard))
