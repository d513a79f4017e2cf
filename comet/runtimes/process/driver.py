"""Drives replicas that are OS processes: watches and signals them through pidfds.

A pidfd (pidfd_open(2)) becomes readable when its process ends, whether it is our own child or not. /proc then says
what has become of the process: gone, or a zombie; if the PID should name another process by now, its time of birth
shows that. This answer is what counts: a zombie is dead. A signal goes through the pidfd, so it cannot reach a process
that merely got the same PID later.

Processes are made in different ways; each way is a `Launcher`.
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
from functools import partial
from pathlib import Path
from typing import Protocol

from comet.common.clock import iso
from comet.common.errors import os_error_text
from comet.host import process_identity
from comet.host.oom_kills import OomWatch
from comet.host.process_identity import birth_of, is_alive
from comet.reconcile.driver_interface import Sink
from comet.reconcile.observations import Drained, Exit, Exited, Removed, Started, StartFailed
from comet.reconcile.replica import ReplicaSpec
from comet.runtimes.process import memory_limits
from comet.runtimes.process.leftovers import SessionLeftovers

STATUS_TIMEOUT = 0.1
"""Seconds to wait for the exit status of a process that is seen dead, before it is reported without one."""


MEMORY_EXCEEDED = "out of memory"
"""The process name of a built-in worker that ends itself because it reached its own memory limit."""

PR_SET_CHILD_SUBREAPER = 36
PIDFD_INFO = struct.Struct("=2Q11Ii")  # mask, cgroup, pid to fsgid, exit code
PIDFD_INFO_EXIT = 1 << 3
PIDFD_GET_INFO = 3 << 30 | PIDFD_INFO.size << 16 | 0xFF << 8 | 11  # _IOWR(0xFF, 11, struct pidfd_info)


@dataclass
class Launched:
    """A process that was just made.

    `status` returns its exit code, -N for signal N, None while unknown. `status_fd` becomes readable when `status` has
    the code (None: `status` has it as soon as the process is dead, or never). `begun` is when the process became this
    replica, in seconds from boot, where it was made before that. `group` limits its memory. `leads_session`: it leads a
    session, and what it leaves in there belongs to it.
    """

    pid: int
    status: Callable[[], int | None]
    status_fd: int | None = None
    begun: float | None = None
    group: Path | None = None
    leads_session: bool = False


class Launcher(Protocol):
    def launch(self, spec: ReplicaSpec, instance: int) -> Launched:
        """Make the process; raise OSError or UserError where that fails."""

    def drain(self, name: str, grace: float) -> bool:
        """Ask the replica to drain; return False where nothing will report when it has."""

    def on_exit(self, name: str, instance: int) -> None:
        """Release what belonged to this instance, which has died."""

    def release(self, name: str) -> None:
        """Release what belongs to this name: no process will be made under it again."""

    def rename(self, former: str, name: str) -> None:
        """Move what belongs to `former` to `name`."""

    def close(self) -> None:
        """End the launcher's own helpers."""


@dataclass
class _Running:
    spec: ReplicaSpec
    instance: int
    launched: Launched
    create_time: float
    pidfd: int
    killed_at: float | None = None
    kills: int = 0
    """How many processes of its group the out-of-memory killer had ended when the watch began."""
    exceeded_memory: bool = False
    """Whether it ended itself because it reached its memory limit."""
    terminated: bool = False
    leftovers: SessionLeftovers | None = None


class ProcessDriver:
    """Drives every process that its launcher can make."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sink: Sink, launcher: Launcher) -> None:
        self._loop = loop
        self._sink = sink
        self._launcher = launcher
        self._oom = OomWatch()
        self._running: dict[str, _Running] = {}
        self._dying: list[_Running] = []

    def start(self, spec: ReplicaSpec, instance: int) -> None:
        try:
            launched = self._launcher.launch(spec, instance)
        except Exception as error:
            self._sink(spec.name, instance, StartFailed(_reason(error)))
            return
        self.watch(spec, instance, launched)

    def watch(self, spec: ReplicaSpec, instance: int, launched: Launched) -> None:
        """Watch a living process, just made or adopted: report Started, and Exited when it ends."""
        try:
            pidfd = os.pidfd_open(launched.pid)
            create_time = birth_of(launched.pid)
        except ProcessLookupError:
            self._sink(spec.name, instance, Started(launched.pid, str(launched.pid)))
            self._sink(spec.name, instance, Exited(decode(launched.status())))
            self._launcher.on_exit(spec.name, instance)
            return
        self._running[spec.name] = _Running(
            spec, instance, launched, create_time, pidfd, kills=memory_limits.kills(launched.group)
        )
        self._loop.add_reader(pidfd, self._on_exit, spec.name)
        self._sink(spec.name, instance, Started(launched.pid, str(launched.pid)))

    def times(self, name: str) -> tuple[float | None, float | None]:
        """Return when the replica's process was made, and when it became this replica where that was later.

        The time when it was made (`birth_of`) identifies the process, together with the PID.
        """
        running = self._running.get(name)
        return (running.create_time, running.launched.begun) if running else (None, None)

    @property
    def pids(self) -> set[int]:
        """The PIDs of all processes that are watched, or whose end is not reported yet."""
        return {each.launched.pid for each in (*self._running.values(), *self._dying)}

    def drain(self, name: str) -> None:
        running = self._running.get(name)
        if running is not None and not self._launcher.drain(name, running.spec.drain_grace):
            self._sink(name, running.instance, Drained())

    def terminate(self, name: str) -> None:
        if name in self._running:
            self._running[name].terminated = True
        self.kill(name, signals.SIGTERM)

    def kill(self, name: str, signal: int) -> None:
        running = self._running.get(name)
        if running is None:
            dying = [each for each in self._dying if each.spec.name == name]
            if not dying:
                self._sink(name, None, Exited())
            for each in dying:
                if signal == signals.SIGKILL and each.leftovers is not None:
                    each.leftovers.kill()
            return
        if signal == signals.SIGKILL and running.killed_at is None:
            running.killed_at = time.monotonic()
        try:
            signals.pidfd_send_signal(running.pidfd, signal)
        except ProcessLookupError:
            return  # It died first; its pidfd is about to report that.

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
            self._loop.add_reader(running.pidfd, self._on_exit, name)

    def close(self) -> None:
        for running in self._running.values():
            self._loop.remove_reader(running.pidfd)
            os.close(running.pidfd)
        for dying in self._dying:
            if dying.leftovers is not None:
                dying.leftovers.close()
        self._running.clear()
        self._oom.close()
        self._launcher.close()

    def _on_exit(self, name: str) -> None:
        running = self._running[name]
        if is_alive(running.launched.pid, running.create_time):
            return
        noticed = time.monotonic()
        # The name is kept until the status is read.
        running.exceeded_memory = process_identity.name(running.launched.pid) == MEMORY_EXCEEDED
        self._loop.remove_reader(running.pidfd)
        del self._running[name]
        self._dying.append(running)
        if running.launched.leads_session and process_identity.members(running.launched.pid, running.create_time):
            graceful = running.terminated and running.killed_at is None
            ended = partial(self._ended, running, noticed)
            running.leftovers = SessionLeftovers(self._loop, running.launched.pid, running.create_time, graceful, ended)
        else:
            self._ended(running, noticed)

    def _ended(self, running: _Running, noticed: float) -> None:
        """Find the exit status of a process that is dead together with all that it left."""
        running.leftovers = None
        if running.launched.status() is None:
            # Orphaned by the death of the forkserver, it became our child: the supervisor is a subreaper.
            known = reap(running.pidfd)
            if known is None:
                # The forkserver, its parent otherwise, may be too busy to pass the status on in time.
                known = status_of_foreign_process(running.launched.pid, running.create_time, running.pidfd)
            if known is not None:
                running.launched = replace(running.launched, status=lambda: known, status_fd=None)
        os.close(running.pidfd)
        if running.launched.status() is not None or running.launched.status_fd is None:
            self._report(running, noticed)
            return
        # The kernel does not report it (any more): the forkserver passes it on a moment after the death.
        fd = running.launched.status_fd
        timer = self._loop.call_later(STATUS_TIMEOUT, self._on_status, running, noticed, fd, None)
        self._loop.add_reader(fd, self._on_status, running, noticed, fd, timer)

    def _on_status(self, running: _Running, noticed: float, fd: int, timer: asyncio.TimerHandle | None) -> None:
        self._loop.remove_reader(fd)
        if timer is not None:
            timer.cancel()
        self._report(running, noticed)

    def _report(self, running: _Running, noticed: float) -> None:
        detect_ms = None if running.killed_at is None else round((noticed - running.killed_at) * 1000, 3)
        self._dying.remove(running)
        exit = decode(running.launched.status(), detect_ms)
        if running.killed_at is None:
            exit = replace(exit, oom=self._was_out_of_memory(running, exit))
        self._launcher.on_exit(running.spec.name, running.instance)
        self._sink(running.spec.name, running.instance, Exited(exit))

    def _was_out_of_memory(self, running: _Running, exit: Exit) -> bool:
        """Return whether the out-of-memory killer ended it, or a child whose death a shell passes on (128 + 9)."""
        if exit.signal == "SIGKILL" and (
            running.exceeded_memory or self._oom.ended(running.launched.pid, running.create_time)
        ):
            return True
        status_info = exit.code == 128 + signals.SIGKILL or (exit.signal == "SIGKILL" and not self._oom.readable)
        return status_info and memory_limits.kills(running.launched.group) > running.kills


def _reason(error: Exception) -> str:
    """Return why a process could not be made."""
    if isinstance(error, OSError):
        return (f"{error.filename}: " if error.filename else "") + os_error_text(error)
    return str(error) or type(error).__name__


def reap(pidfd: int) -> int | None:
    """Return the exit status of a dead child in subprocess's form; None where it is not our child."""
    try:
        status_info = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return None
    if status_info is None:
        return None
    return status_info.si_status if status_info.si_code == os.CLD_EXITED else -status_info.si_status


def status_of_foreign_process(pid: int, create_time: float, pidfd: int) -> int | None:
    """Return the exit status, in subprocess's form, of a dead process that is no child of ours.

    A zombie's status is field 52 of its stat (proc(5); since Linux 3.5, for its own user). Once its parent has reaped
    it, the pidfd still has the status since Linux 6.15 (PIDFD_GET_INFO, linux/pidfd.h). None where the kernel does not
    report it.
    """
    with contextlib.suppress(OSError, IndexError):
        if birth_of(pid) == create_time:
            state, *rest = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
            if state == b"Z":
                return os.waitstatus_to_exitcode(int(rest[48]))
    with contextlib.suppress(OSError):
        status_info = bytearray(PIDFD_INFO.pack(PIDFD_INFO_EXIT, *[0] * 13))
        fcntl.ioctl(pidfd, PIDFD_GET_INFO, status_info)
        mask, *_, status = PIDFD_INFO.unpack(status_info)
        if mask & PIDFD_INFO_EXIT:
            return os.waitstatus_to_exitcode(status)
    return None


def become_subreaper() -> None:
    """Have orphaned processes become children of ours, not of PID 1 (prctl(2), PR_SET_CHILD_SUBREAPER)."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def decode(status: int | None, detect_ms: float | None = None) -> Exit:
    """Return the exit for a status in the form of multiprocessing and subprocess: -N for signal N."""
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
