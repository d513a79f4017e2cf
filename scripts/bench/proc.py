"""Starts, measures and reliably ends a bench's processes.

Each leads its own session, and the kernel ends it if the bench itself dies (PR_SET_PDEATHSIG by setpriv).
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

from comet.common.errors import UserError
from comet.compare.questions import meter
from comet.host.sockets import find_free

T = TypeVar("T")


class BenchError(Exception):
    """What prevents a bench from continuing; its text is one clear line for the user."""


def wait_for(condition: Callable[[], T], seconds: float, what: str, pause: float = 0.01) -> T:
    """Return the first true result of `look`; BenchError if none comes in time."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise BenchError(f"not within {seconds:g} s: {what}")
        time.sleep(pause)
    return answer


def free_ports(count: int) -> list[int]:
    """Return consecutive ports that are free now; BenchError if there are none."""
    try:
        first = find_free("127.0.0.1", count)
    except UserError as error:
        raise BenchError(error.message) from None
    return list(range(first, first + count))


def accepts(port: int) -> bool:
    """Return whether something accepts connections at this port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def tree_cpu(pid: int) -> float:
    """Return the CPU time of a process and all its live descendants."""
    return meter.cpu_seconds(meter.tree(pid))


def tree_kernel_cpu(pid: int) -> float:
    """Return how much of it was spent in the kernel; the kernel samples that, so it is coarser than the whole."""
    total = 0.0
    for each in meter.tree(pid):
        with contextlib.suppress(psutil.Error):
            total += psutil.Process(each).cpu_times().system
    return total


def reset_peak(pid: int) -> None:
    """Reset the kernel's peak of memory (proc(5), clear_refs)."""
    for each in meter.tree(pid):
        with contextlib.suppress(OSError):
            Path(f"/proc/{each}/clear_refs").write_text("5")


def memory(pid: int, field: str) -> int:
    """Return the sum over the tree of a field of /proc/PID/status in bytes: VmHWM (peak) or VmRSS (current)."""
    total = 0
    for each in meter.tree(pid):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{each}/status").read_text().splitlines():
                if line.startswith(field + ":"):
                    total += int(line.split()[1]) * 1024
    return total


@contextlib.contextmanager
def running(
    command: Sequence[str], log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None, grace: float = 3.0
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a process for a block; at its end send TERM, then KILL to the whole group if it has not ended."""
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
    """Wait until a process accepts connections; BenchError with its last output if it ends instead, or does not in
    time.
    """

    def words() -> str:
        said = log.read_text(errors="replace").strip().splitlines()
        return " / ".join(said[-3:]) if said else "not a word"

    def condition() -> bool:
        if process.poll() is not None:
            raise BenchError(f"{name} ended at once: {words()}")
        return accepts(port)

    try:
        wait_for(condition, seconds, f"{name} accepts on port {port}")
    except BenchError as error:
        raise BenchError(f"{error}; its last output: {words()}" if process.poll() is None else str(error)) from None
