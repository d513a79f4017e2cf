"""Replicas that are OS processes: watched by pidfd, judged by psutil, signalled through the pidfd.

A death is pushed: a pidfd (pidfd_open(2)) becomes readable when its process ends, own child or not. What has become of the process
is then psutil's to say (gone, a zombie; were a PID ever to name another process, its time of birth tells), and its answer is
what counts: a zombie is dead. A signal goes through the pidfd, so it cannot reach a process that merely got the same PID later.

How a process comes into being differs and is a `Launcher`'s matter.
"""

import asyncio
import contextlib
import ctypes
import fcntl
import os
import signal as signals
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import psutil

from comet.drivers.base import Sink
from comet.drivers.oomkills import OomKills
from comet.observation import Drained, Exit, Exited, Removed, Started, StartFailed
from comet.replica import ReplicaSpec
from comet.wallclock import iso

STATUS_PATIENCE = 0.1
"""Seconds to wait for the exit status of a process that is seen dead, before it is reported without one."""


PR_SET_CHILD_SUBREAPER = 36
PIDFD_INFO = struct.Struct("=2Q11Ii")  # mask, cgroup, pid to fsgid, exit code
PIDFD_INFO_EXIT = 1 << 3
PIDFD_GET_INFO = 3 << 30 | PIDFD_INFO.size << 16 | 0xFF << 8 | 11  # _IOWR(0xFF, 11, struct pidfd_info)
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Launched:
    """A process that was just made. `status` gives its exit code, -N for signal N, None while unknown; `status_fd` becomes readable
    when `status` has it (None: it has it as soon as the process is dead, or never). `begun` is when it became what it is, in seconds from
    boot, where it was made before that."""

    pid: int
    status: Callable[[], int | None]
    status_fd: int | None = None
    begun: float | None = None


class Launcher(Protocol):
    def launch(self, spec: ReplicaSpec, instance: int) -> Launched:
        """Make the process; OSError or UserError where that fails."""

    def drain(self, name: str, grace: float) -> bool:
        """Ask it to drain; False: nobody will tell when it has."""

    def gone(self, name: str, instance: int) -> None:
        """It died: let go of what belonged to this instance."""

    def release(self, name: str) -> None:
        """No process will be made under this name again."""

    def rename(self, former: str, name: str) -> None:
        """What belongs to `former` belongs to `name` from now on."""

    def close(self) -> None:
        """Give up helpers of the launcher's own."""


@dataclass
class _Running:
    spec: ReplicaSpec
    instance: int
    launched: Launched
    create_time: float
    pidfd: int
    killed_at: float | None = None


class ProcessDriver:
    """Drives every process that its launcher can make."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sink: Sink, launcher: Launcher) -> None:
        self._loop = loop
        self._sink = sink
        self._launcher = launcher
        self._oom = OomKills()
        self._running: dict[str, _Running] = {}
        self._dying: list[_Running] = []

    def start(self, spec: ReplicaSpec, instance: int) -> None:
        try:
            launched = self._launcher.launch(spec, instance)
        except Exception as error:
            self._sink(spec.name, instance, StartFailed(f"{error}" or type(error).__name__))
            return
        self.watch(spec, instance, launched)

    def watch(self, spec: ReplicaSpec, instance: int, launched: Launched) -> None:
        """Take a living process under watch -> Started, and Exited when it ends; for one just made or one adopted."""
        try:
            pidfd = os.pidfd_open(launched.pid)
            create_time = born(launched.pid)
        except ProcessLookupError:
            self._sink(spec.name, instance, Started(launched.pid, str(launched.pid)))
            self._sink(spec.name, instance, Exited(decode(launched.status())))
            self._launcher.gone(spec.name, instance)
            return
        self._running[spec.name] = _Running(spec, instance, launched, create_time, pidfd)
        self._loop.add_reader(pidfd, self._woken, spec.name)
        self._sink(spec.name, instance, Started(launched.pid, str(launched.pid)))

    def times(self, name: str) -> tuple[float | None, float | None]:
        """When its process was made (`born`): with the PID, its identity; and when it became what it is, where that was later."""
        running = self._running.get(name)
        return (running.create_time, running.launched.begun) if running else (None, None)

    def drain(self, name: str) -> None:
        running = self._running.get(name)
        if running is not None and not self._launcher.drain(name, running.spec.drain_grace):
            self._sink(name, running.instance, Drained())

    def terminate(self, name: str) -> None:
        self.kill(name, signals.SIGTERM)

    def kill(self, name: str, signal: int) -> None:
        running = self._running.get(name)
        if running is None:
            if all(dying.spec.name != name for dying in self._dying):
                self._sink(name, None, Exited())
            return
        if signal == signals.SIGKILL and running.killed_at is None:
            running.killed_at = time.monotonic()
        try:
            signals.pidfd_send_signal(running.pidfd, signal)
        except ProcessLookupError:
            return  # It died first; its pidfd is about to say so.

    def remove(self, name: str) -> None:
        self._sink(name, None, Removed())

    def release(self, name: str) -> None:
        self._launcher.release(name)

    def rename(self, former: str, name: str) -> None:
        self._launcher.rename(former, name)
        for dying in self._dying:
            if dying.spec.name == former:
                dying.spec = replace(dying.spec, name=name)
        running = self._running.pop(former, None)
        if running is not None:
            running.spec = replace(running.spec, name=name)
            self._running[name] = running
            self._loop.add_reader(running.pidfd, self._woken, name)

    def close(self) -> None:
        for running in self._running.values():
            self._loop.remove_reader(running.pidfd)
            os.close(running.pidfd)
        self._running.clear()
        self._oom.close()
        self._launcher.close()

    def _woken(self, name: str) -> None:
        running = self._running[name]
        if is_alive(running.launched.pid, running.create_time):
            return
        noticed = time.monotonic()
        self._loop.remove_reader(running.pidfd)
        del self._running[name]
        self._dying.append(running)
        if running.launched.status() is None:
            # Orphaned by the death of the forkserver, it was left to us: the supervisor is a subreaper.
            known = reap(running.pidfd)
            if known is None and running.launched.status_fd is None:
                known = last_words(running.launched.pid, running.create_time, running.pidfd)
            if known is not None:
                running.launched = Launched(running.launched.pid, lambda: known)
        os.close(running.pidfd)
        if running.launched.status() is not None or running.launched.status_fd is None:
            self._report(running, noticed)
            return
        # The forkserver is the parent and passes the status on a moment after the death.
        fd = running.launched.status_fd
        timer = self._loop.call_later(STATUS_PATIENCE, self._status_told, running, noticed, fd, None)
        self._loop.add_reader(fd, self._status_told, running, noticed, fd, timer)

    def _status_told(self, running: _Running, noticed: float, fd: int, timer: asyncio.TimerHandle | None) -> None:
        self._loop.remove_reader(fd)
        if timer is not None:
            timer.cancel()
        self._report(running, noticed)

    def _report(self, running: _Running, noticed: float) -> None:
        detect_ms = None if running.killed_at is None else round((noticed - running.killed_at) * 1000, 3)
        self._dying.remove(running)
        self._launcher.gone(running.spec.name, running.instance)
        exit = decode(running.launched.status(), detect_ms)
        if exit.signal == "SIGKILL" and running.killed_at is None:
            exit = replace(exit, oom=self._oom.ended(running.launched.pid, running.create_time))
        self._sink(running.spec.name, running.instance, Exited(exit))


def reap(pidfd: int) -> int | None:
    """The exit status of a dead child in subprocess's form; None where it is no child of ours."""
    try:
        told = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return None
    if told is None:
        return None
    return told.si_status if told.si_code == os.CLD_EXITED else -told.si_status


def last_words(pid: int, create_time: float, pidfd: int) -> int | None:
    """The exit status, in subprocess's form, of a dead process that is nobody's child here; None where the kernel does not tell.

    A zombie's is field 52 of its stat (proc(5); since Linux 3.5, to its own user). Of one that its parent has reaped the pidfd knows it
    since Linux 6.15 (PIDFD_GET_INFO, linux/pidfd.h).
    """
    with contextlib.suppress(OSError, IndexError):
        if born(pid) == create_time:
            state, *rest = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
            if state == b"Z":
                return os.waitstatus_to_exitcode(int(rest[48]))
    with contextlib.suppress(OSError):
        told = bytearray(PIDFD_INFO.pack(PIDFD_INFO_EXIT, *[0] * 13))
        fcntl.ioctl(pidfd, PIDFD_GET_INFO, told)
        mask, *_, status = PIDFD_INFO.unpack(told)
        if mask & PIDFD_INFO_EXIT:
            return os.waitstatus_to_exitcode(status)
    return None


def become_subreaper() -> None:
    """Have processes whose parent dies become our children, not PID 1's (prctl(2), PR_SET_CHILD_SUBREAPER)."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def born(pid: int) -> float:
    """Seconds from boot to the making of this process; ProcessLookupError where there is none.

    Not psutil's create_time(): that adds the boot time, which moves whenever the wall clock is set, and then a supervisor would not
    know its own processes again. This never changes (proc(5), starttime).
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except FileNotFoundError:
        raise ProcessLookupError(pid) from None
    # The name may hold spaces and brackets; starttime is field 22, the 20th after the name.
    return int(stat.rpartition(b")")[2].split()[19]) / CLOCK_TICKS


def is_alive(pid: int, create_time: float | None) -> bool:
    """Whether the process with this PID runs and is the one made at `create_time` (`born`; None: any)."""
    try:
        process = psutil.Process(pid)
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return False
        return create_time is None or born(pid) == create_time
    except (psutil.NoSuchProcess, ProcessLookupError):
        return False


def is_stopped(pid: int | None) -> bool:
    """Whether this process exists and does nothing, by a signal or for a debugger."""
    try:
        return psutil.Process(pid).status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
    except psutil.NoSuchProcess:
        return False


def decode(status: int | None, detect_ms: float | None = None) -> Exit:
    """An exit from multiprocessing's and subprocess's form of a status: -N for signal N."""
    at = iso(time.time() - (detect_ms or 0) / 1000)
    if status is None:
        return Exit(at=at, detect_ms=detect_ms)
    if status >= 0:
        return Exit(code=status, at=at, detect_ms=detect_ms)
    try:
        name = signals.Signals(-status).name
    except ValueError:
        name = f"SIG{-status}"
    return Exit(code=status, signal=name, at=at, detect_ms=detect_ms)
