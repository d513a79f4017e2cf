"""Injects the faults that use up resources: processor time and memory."""

from __future__ import annotations

import hashlib
import mmap
import os
import resource
import signal
import time
from collections.abc import Callable

from worker_app.common import shield

_BLOCK = bytes(256 * 1024)
_MIB = 1 << 20


def use_cpu(seconds: float) -> None:
    """Use processor time of this thread for the given number of seconds.

    Hashing releases the interpreter lock, so other requests suffer from the lost processor time, not from the lock.
    """
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        hashlib.sha256(_BLOCK)


class CpuTask:
    """A task for waitress's dispatcher: uses processor time, then makes a call."""

    def __init__(self, seconds: float, then: Callable[[], None]) -> None:
        self._seconds = seconds
        self._then = then

    def service(self) -> None:
        use_cpu(self._seconds)
        self._then()

    def cancel(self) -> None:
        """Do nothing: the dispatcher calls this for tasks that have not started when it shuts down."""


class MemoryFault:
    """Memory that grows until the process is killed at its memory limit.

    In a container the kernel kills it. For a worker process `limit_address_space` sets the limit first, and reaching it
    ends the process by SIGKILL, as the kernel would.
    """

    def __init__(self) -> None:
        self._blocks: list[mmap.mmap] = []
        self._fraction = 0.0

    def grow(self, mib: float) -> None:
        """Allocate the given number of MiB and touch every page."""
        self._fraction += mib
        whole = int(self._fraction)
        self._fraction -= whole
        try:
            for _ in range(whole):
                # A mapping of its own, so that closing it returns the memory at once, whatever the allocator caches.
                block = mmap.mmap(-1, _MIB)
                for page in range(0, _MIB, mmap.PAGESIZE):
                    block[page] = 1
                self._blocks.append(block)
        except (MemoryError, OSError):
            kill_out_of_memory()

    def release(self) -> None:
        for block in self._blocks:
            block.close()
        self._blocks.clear()
        self._fraction = 0.0


def kill_out_of_memory() -> None:
    """End this process by SIGKILL, as the kernel does; the process's name shows the reason in its exit record."""
    shield.set_process_name(b"out of memory")
    os.kill(os.getpid(), signal.SIGKILL)


def resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def limit_address_space(limit_bytes: int) -> None:
    """Limit memory to `limit_bytes` plus what is reserved and not used (setrlimit(2), RLIMIT_AS)."""
    with open("/proc/self/statm", encoding="ascii") as file:
        virtual, resident = (int(word) * resource.getpagesize() for word in file.read().split()[:2])
    allowed = virtual + max(0, limit_bytes - resident)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or allowed < hard:
        resource.setrlimit(resource.RLIMIT_AS, (allowed, hard))
