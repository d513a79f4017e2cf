"""Measures CPU time and memory of processes, containers and the whole machine.

CPU time comes from the kernel's per-process clocks (clock_getcpuclockid(3)), in nanoseconds where /proc/PID/stat counts
hundredths of a second; the machine's comes from /proc/stat. Proportional set size (PSS, proc(5)) divides shared memory
among the processes that share it, so that it can be summed. Private memory (USS) is mapped by one process alone.
"""

import contextlib
import time
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from pathlib import Path

import psutil

from comet.inspection import proc_text

SHIM = "containerd-shim"
PROXY = "docker-proxy"


@dataclass(frozen=True)
class Memory:
    """Bytes summed over processes; `files` is the part of `pss` that is pages of files: libraries, the interpreter."""

    pss: int = 0
    rss: int = 0
    private: int = 0
    files: int = 0

    def __add__(self, other: "Memory") -> "Memory":
        return Memory(*(sum(pair) for pair in zip(astuple(self), astuple(other), strict=True)))


def tree(pid: int) -> list[int]:
    """Return the PIDs of a process and its running descendants."""
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.Error:
        return []


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the CPU seconds of those of these processes that run: user and system, all threads."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += time.clock_gettime((~pid << 3) | 2)
    return total


def machine_busy() -> float:
    """Return the seconds since boot in which cores were not idle, summed over all cores."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)


def memory(pids: Iterable[int]) -> Memory:
    """Return the memory of those of these processes that run and may be read."""
    total = Memory()
    for pid in pids:
        with contextlib.suppress(OSError):
            held = proc_text.sizes(Path(f"/proc/{pid}/smaps_rollup").read_text())
            private = held["Private_Clean"] + held["Private_Dirty"]
            total += Memory(held["Pss"], held["Rss"], private, held.get("Pss_File", 0))
    return total


def keepers(pids: Iterable[int], ports: Iterable[int]) -> list[int]:
    """Return the engine's processes for containers: their shims, and the proxies of their published ports."""
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            parent = psutil.Process(pid).parent()
            if parent is not None and parent.name().startswith(SHIM):
                found.append(parent.pid)
    return found + proxies(*ports)


def proxies(*ports: int) -> list[int]:
    """Return the engine's user-space proxies of published ports."""
    found, wanted = [], {str(port) for port in ports}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = process.cmdline()
            if line and PROXY in line[0] and "-host-port" in line and line[line.index("-host-port") + 1] in wanted:
                found.append(process.pid)
    return found


def available() -> int:
    """Return the bytes of memory that are available without swapping."""
    return int(psutil.virtual_memory().available)
