"""Identifies processes by PID and time of birth, and sends signals to exactly that process.

All data is read from /proc (proc(5)). A PID names whichever process has it at the moment; together with its time of
birth it names one process permanently. A signal is sent through a pidfd. The pidfd is opened first, and the identity is
checked after that, while the pidfd cannot refer to a later process with the same PID. If the check passes, the pidfd
refers to that process, or to one that is already dead.

Sessions (setsid(2)) show which processes belong to a replica, whatever they do to their title and environment. As long
as one member lives, no other process gets the leader's PID.
"""

import contextlib
import errno
import os
import re
import select
import signal
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")

MAX_PID = 1 << 22
"""PID_MAX_LIMIT of Linux."""

DEAD = ("Z", "X", "x")
STOPPED = ("T", "t")
_PENDING = re.compile(r"^S(?:ig|hd)Pnd:\s*([0-9a-f]+)$", re.MULTILINE).findall
POLL_PAUSE = 0.05


@dataclass(frozen=True)
class Process:
    """One line of the process table; `birth` is in seconds since boot."""

    pid: int
    state: str
    parent: int
    session: int
    birth: float

    @property
    def alive(self) -> bool:
        """Whether the process is alive; a zombie is dead."""
        return self.state not in DEAD

    @property
    def leads_session(self) -> bool:
        """Whether the process leads its session."""
        return self.session == self.pid


@lru_cache
def boot_id() -> str:
    """Return the id of this boot of the machine (random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def process(pid: int) -> Process | None:
    """Return the process that has this PID now, or None."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The name may contain spaces and brackets. The fields after it start with the third one.
    fields = stat.rpartition(b")")[2].split()
    return Process(pid, fields[0].decode(), int(fields[1]), int(fields[3]), int(fields[19]) / CLOCK_TICKS)


def processes() -> list[Process]:
    """Return all visible processes."""
    return [found for pid in pids() if (found := process(pid)) is not None]


def name(pid: int) -> str | None:
    """Return a process's name (proc(5), comm), also while its exit status is not read yet; None if it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip() or None
    except OSError:
        return None


def is_stopped(pid: int | None) -> bool:
    """Return whether this process exists and is stopped, by a signal or for a debugger."""
    found = None if pid is None else process(pid)
    return found is not None and found.state in STOPPED


def birth_of(pid: int) -> float:
    """Return the time from boot to the creation of this process, in seconds.

    Raise ProcessLookupError if there is no such process. psutil's create_time() is not used, because it adds the boot
    time, which changes whenever the wall clock is set; a supervisor would then not recognize its own processes. This
    value never changes (proc(5), starttime).
    """
    found = process(pid)
    if found is None:
        raise ProcessLookupError(pid)
    return found.birth


def is_alive(pid: int, birth: float | None) -> bool:
    """Return whether the process with this PID runs and is the one that was born then (None: any); a zombie is dead."""
    found = process(pid)
    return found is not None and found.alive and birth in (None, found.birth)


def is_being_killed(pid: int) -> bool:
    """Return whether SIGKILL waits for this process, which then ends as soon as the kernel lets it."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    return any(int(mask, 16) >> signal.SIGKILL - 1 & 1 for mask in _PENDING(status))


def is_possible_pid(pid: object) -> bool:
    """Return whether this can be the PID of a process that may be signaled.

    That excludes no process, process groups (0, -1, -PID) and the first process.
    """
    return isinstance(pid, int) and not isinstance(pid, bool) and 1 < pid <= MAX_PID


class Handle:
    """One living process, held by its pidfd."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self._pidfd = pidfd

    @classmethod
    def of(cls, pid: int | None, birth: float | None, check: Callable[[int], bool] | None = None) -> "Handle | None":
        """Return a handle of the process with this PID if it began then and passes the `check`.

        Return None if it is another process, or dead. Without a birth, the check alone identifies the process.
        """
        if not is_possible_pid(pid) or pid is None or (birth is None and check is None):
            return None
        try:
            handle = cls(pid, os.pidfd_open(pid))
        except OSError:
            return None
        found = process(pid)
        if found is not None and found.alive and birth in (None, found.birth) and (check is None or check(pid)):
            return handle
        handle.close()
        return None

    def send(self, number: int) -> bool:
        """Return whether the process existed to get the signal; raise PermissionError if it is another user's."""
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            return False
        return True

    def ended(self, timeout: float = 0.0) -> bool:
        """Return whether the process is dead, or dies within `timeout` seconds."""
        poll = select.poll()  # Unlike select(2), poll(2) takes descriptors above 1023.
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(max(0.0, timeout) * 1000))

    def close(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


def send(pid: int | None, birth: float | None, number: int) -> bool:
    """Send a signal to the process with this PID and birth, and return whether it existed."""
    handle = Handle.of(pid, birth)
    if handle is None:
        return False
    with contextlib.closing(handle):
        return handle.send(number)


def wait(known: Iterable[tuple[int | None, float | None]], timeout: float) -> None:
    """Wait until these processes have ended, at most `timeout` seconds."""
    deadline = time.monotonic() + timeout
    for pid, birth in known:
        handle = Handle.of(pid, birth)
        if handle is not None:
            with contextlib.closing(handle):
                handle.ended(deadline - time.monotonic())


def end(known: Iterable[tuple[int | None, float | None]], grace: float, timeout: float = 5.0) -> None:
    """Ask processes, given by PID and birth, to end, kill them after `grace` seconds, and wait for their end.

    `timeout` is how long to wait after the kill, in seconds. Raise PermissionError if some belong to another user; the
    others have ended by then.
    """
    foreign: set[int] = set()
    handles = [handle for pid, birth in known if (handle := Handle.of(pid, birth)) is not None]
    try:
        for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, timeout)):
            deadline = time.monotonic() + seconds
            waiting = [handle for handle in handles if not handle.ended()]
            for handle in waiting:
                try:
                    handle.send(number)
                except PermissionError:
                    foreign.add(handle.pid)
            for handle in waiting:
                if handle.pid not in foreign:
                    handle.ended(deadline - time.monotonic())
    finally:
        for handle in handles:
            handle.close()
    if foreign:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), f"/proc/{min(foreign)}")


def members(leader: int, birth: float | None) -> list[Process]:
    """Return the living members of a session except its leader, which may already be dead.

    Return none if another process has the leader's PID by now.
    """
    at_its_place = process(leader)
    if at_its_place is not None and birth is not None and at_its_place.birth != birth:
        return []
    found = [process(pid) for pid in pids() if pid != leader and _session(pid) == leader]
    return [
        each
        for each in found
        if each is not None and each.session == leader and each.alive and (birth is None or each.birth >= birth)
    ]


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def end_members(leader: int, birth: float | None, grace: float) -> None:
    """End the remaining members of a session, again until none is left, as new ones may start meanwhile."""
    deadline = time.monotonic() + grace
    for _ in range(10):
        found = members(leader, birth)
        if not found:
            return
        end([(each.pid, each.birth) for each in found], max(0.0, deadline - time.monotonic()))


def descendants(of: Collection[int], table: Iterable[Process]) -> set[int]:
    """Return the PIDs of all descendants of these processes, without their own.

    The table says which process is whose parent.
    """
    children: dict[int, list[int]] = {}
    for each in table:
        children.setdefault(each.parent, []).append(each.pid)
    found: set[int] = set()
    waiting = list(of)
    while waiting:
        fresh = [child for child in children.get(waiting.pop(), ()) if child not in found]
        found.update(fresh)
        waiting.extend(fresh)
    return found


def command_line(pid: int) -> tuple[str, ...]:
    """Return the words of a process's command line; empty for a zombie, or where it cannot be read."""
    try:
        return tuple(
            word.decode(errors="replace") for word in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") if word
        )
    except OSError:
        return ()


def environment(pid: int) -> dict[str, str]:
    """Return the environment in which a process was started.

    It is empty where it may not be read, or where the process has written its title over it.
    """
    try:
        content = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    pairs = (entry.decode(errors="replace").partition("=") for entry in content.split(b"\0") if b"=" in entry)
    return {name: value for name, _, value in pairs}


def user(pid: int) -> int | None:
    """Return the uid of the user to whom a process belongs, None if it is gone."""
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None


def pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())
