"""Reports whether the kernel's out-of-memory killer ended a process or a container.

The exit status alone says only SIGKILL, as for any other kill.

The killer sends the signal and writes the PID to the kernel's log while it holds a lock of the victim that an exit has
to take (mm/oom_kill.c, task_lock). A process that sees the death therefore finds the record in the log. Reading the log
(/dev/kmsg, Documentation/ABI/testing/dev-kmsg) needs CAP_SYSLOG where kernel.dmesg_restrict is set; without it, only
SIGKILL is reported. The log gives PIDs of the initial namespace.
"""

import errno
import os
import re
import time
from collections import deque
from pathlib import Path
from typing import Final

_KILLED = re.compile(rb"^\d+,\d+,(\d+),[^;]*;[^\n]*[Oo]ut of memory[^\n]*: Killed process (\d+) ").match
_LIMITED = re.compile(rb"^\d+,\d+,(\d+),[^;]*;oom-kill:constraint=CONSTRAINT_MEMCG,[^\n]*oom_memcg=([^,\n]*)").match
INITIAL_PID_NAMESPACE: Final = 0xEFFFFFFC
"""PROC_PID_INIT_INO of include/linux/proc_ns.h."""
RECORD: Final = 8192
"""Bytes to read at a time, more than the longest record."""
MAX_GROUPS: Final = 100
"""The number of kills by cgroup limits, over all cgroups of the machine, that are remembered."""
CLOCK_SLACK: Final = 1.0
"""The seconds by which the log's clock (the scheduler's) may be off."""


class OomWatch:
    """The kills of the out-of-memory killer since this object was made.

    No method fails: a record that cannot be read counts as no kill.
    """

    def __init__(self, log: Path = Path("/dev/kmsg")) -> None:
        self._when: dict[int, float] = {}
        self._limited = deque[tuple[float, str]](maxlen=MAX_GROUPS)
        self._fd = -1
        try:
            if Path("/proc/self/ns/pid").stat().st_ino == INITIAL_PID_NAMESPACE:
                self._fd = os.open(log, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                os.lseek(self._fd, 0, os.SEEK_END)
        except OSError:
            self.close()

    @property
    def readable(self) -> bool:
        """Return whether the log reports every kill."""
        return self._fd >= 0

    def ended(self, pid: int, create_time: float) -> bool:
        """Return whether the killer ended the process with this PID, created at `create_time` (seconds since boot)."""
        self._read()
        when = self._when.pop(pid, None)
        # The log's clock stops while the machine sleeps, as CLOCK_MONOTONIC does. Creation times are in CLOCK_BOOTTIME.
        slept = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
        return when is not None and when + slept >= create_time - CLOCK_SLACK

    def last_kill_in(self, container: str) -> float | None:
        """Return when the killer last ended a process because of this container's limit, and forget it; wall time.

        `container` is the full id, after which the engine names the cgroup.
        """
        self._read()
        found = [kill for kill in self._limited if container in kill[1]]
        for kill in found:
            self._limited.remove(kill)
        return time.time() - (time.monotonic() - max(found)[0]) if found else None

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _read(self) -> None:
        while self._fd >= 0:
            try:
                record = os.read(self._fd, RECORD)
            except OSError as error:
                if error.errno == errno.EPIPE:
                    # Records were overwritten before they were read. The next read returns the oldest one that is left.
                    continue
                return
            if not record:
                return
            found = _KILLED(record)
            if found is not None:
                self._when[int(found[2])] = int(found[1]) / 1e6
            limited = _LIMITED(record)
            if limited is not None:
                self._limited.append((int(limited[1]) / 1e6, limited[2].decode(errors="replace")))
