"""Clocks and memory: what a process, a container and the whole machine use.

CPU time comes from the kernel's per-process clocks (clock_getcpuclockid(3)), in nanoseconds where /proc/PID/stat counts in hundredths of a
second; the machine's from /proc/stat. Proportional set size (PSS, proc(5)) shares out what processes share, so that it can be summed.
"""

import contextlib
import time
from collections.abc import Iterable
from dataclasses import dataclass

import psutil

SHIM = "containerd-shim"
PROXY = "docker-proxy"


@dataclass(frozen=True)
class Memory:
    """Bytes over all processes asked about."""

    pss: int = 0
    rss: int = 0

    def __add__(self, other: "Memory") -> "Memory":
        return Memory(self.pss + other.pss, self.rss + other.rss)


def tree(pid: int) -> list[int]:
    """A process and all below it that live."""
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.Error:
        return []


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU time of these processes, those that live; user and system, all threads."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += time.clock_gettime((~pid << 3) | 2)
    return total


def machine_busy() -> float:
    """Seconds that all cores together were not idle since the start of the machine."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)


def memory(pids: Iterable[int]) -> Memory:
    """Of these processes, those that live and may be read."""
    total = Memory()
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            held = psutil.Process(pid).memory_full_info()
            total += Memory(held.pss, held.rss)
    return total


def keepers(container_pid: int, port: int) -> list[int]:
    """The processes that the engine runs for one container: its shim, and the proxies of its published port."""
    found = []
    with contextlib.suppress(psutil.Error):
        parent = psutil.Process(container_pid).parent()
        if parent is not None and parent.name().startswith(SHIM):
            found.append(parent.pid)
    return found + proxies(port)


def proxies(port: int) -> list[int]:
    """The engine's user-space proxies of a published port."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = process.cmdline()
            if line and PROXY in line[0] and "-host-port" in line and line[line.index("-host-port") + 1] == str(port):
                found.append(process.pid)
    return found


def available() -> int:
    """Bytes of memory that could be had without swapping."""
    return int(psutil.virtual_memory().available)
