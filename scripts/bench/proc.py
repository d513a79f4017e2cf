"""Processes that a bench starts, measures and surely ends.

Each leads a session of its own, and the kernel ends it should the bench itself die (PR_SET_PDEATHSIG by setpriv). CPU time is read from the
kernel's per-process clock (clock_getcpuclockid(3)): nanoseconds, where /proc/PID/stat counts in hundredths of a second.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import psutil

from comet.errors import UserError
from comet.listeners import find_free

T = TypeVar("T")


class BenchError(Exception):
    """What a bench cannot go on without; its text is one clear line for the user."""


def wait_for(look: Callable[[], T], seconds: float, what: str, pause: float = 0.01) -> T:
    """The first true answer of `look`. BenchError when none comes in time."""
    deadline = time.monotonic() + seconds
    while not (answer := look()):
        if time.monotonic() > deadline:
            raise BenchError(f"not within {seconds:g} s: {what}")
        time.sleep(pause)
    return answer


def free_ports(count: int) -> list[int]:
    """Ports in a row that are free now. BenchError: there are none."""
    try:
        first = find_free("127.0.0.1", count)
    except UserError as error:
        raise BenchError(error.message) from None
    return list(range(first, first + count))


def accepts(port: int) -> bool:
    """Whether something takes a connection there."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def tree(pid: int) -> list[int]:
    """A process and all below it that live."""
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.Error:
        return []


def cpu_seconds(pid: int) -> float:
    """CPU time of a living process, all its threads, user and system. The clock of a process: see clock_getcpuclockid(3)."""
    return time.clock_gettime((~pid << 3) | 2)


def tree_cpu(pid: int) -> float:
    """CPU time of a process and all below it that live."""
    total = 0.0
    for each in tree(pid):
        with contextlib.suppress(OSError):
            total += cpu_seconds(each)
    return total


def reset_peak(pid: int) -> None:
    """Let the kernel measure the peak of memory anew (proc(5), clear_refs)."""
    for each in tree(pid):
        with contextlib.suppress(OSError):
            Path(f"/proc/{each}/clear_refs").write_text("5")


def memory(pid: int, field: str) -> int:
    """Sum over the tree of a field of /proc/PID/status in bytes: VmHWM (peak) or VmRSS (now)."""
    total = 0
    for each in tree(pid):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{each}/status").read_text().splitlines():
                if line.startswith(field + ":"):
                    total += int(line.split()[1]) * 1024
    return total


@contextlib.contextmanager
def running(
    command: Sequence[str], log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None, grace: float = 3.0
) -> Iterator["subprocess.Popen[bytes]"]:
    """A process for the length of a block; TERM at its end, KILL for the whole group when that was not heard."""
    guard = ("setpriv", "--pdeathsig", "TERM", "--") if shutil.which("setpriv") else ()
    with log.open("ab") as out:
        process = subprocess.Popen(
            [*guard, *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=dict(env) if env else None,
            cwd=cwd,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(grace)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def serving(process: "subprocess.Popen[bytes]", port: int, log: Path, name: str, seconds: float = 15.0) -> None:
    """Wait until a process accepts; BenchError with its last words when it ends instead, or does not in time."""

    def words() -> str:
        said = log.read_text(errors="replace").strip().splitlines()
        return " / ".join(said[-3:]) if said else "not a word"

    def look() -> bool:
        if process.poll() is not None:
            raise BenchError(f"{name} ended at once: {words()}")
        return accepts(port)

    try:
        wait_for(look, seconds, f"{name} accepts on port {port}")
    except BenchError as error:
        raise BenchError(f"{error}; its last words: {words()}" if process.poll() is None else str(error)) from None
