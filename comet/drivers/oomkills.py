"""Whether the kernel's out-of-memory killer ended a process: its exit says SIGKILL alone, as anybody's kill does.

The killer sends the signal and writes the PID to the kernel's log while it holds a lock of the victim's that an exit has to take
(mm/oom_kill.c, task_lock), so whoever sees the death finds it there. Reading the log (/dev/kmsg, Documentation/ABI/testing/dev-kmsg) needs
CAP_SYSLOG where kernel.dmesg_restrict is set; who may not read it is told of SIGKILL alone. The log speaks of PIDs as the initial
namespace counts them.
"""

import errno
import os
import re
import time
from pathlib import Path
from typing import Final

_KILLED = re.compile(rb"^\d+,\d+,(\d+),[^;]*;[^\n]*[Oo]ut of memory[^\n]*: Killed process (\d+) ").match
INITIAL_PID_NAMESPACE: Final = 0xEFFFFFFC  # PROC_PID_INIT_INO, include/linux/proc_ns.h
RECORD: Final = 8192  # bytes; more than the longest record
CLOCK_SLACK: Final = 1.0  # seconds by which the log's clock (the scheduler's) may be off


class OomKills:
    """What the killer did from now on. Never fails: what cannot be read did not happen."""

    def __init__(self, log: Path = Path("/dev/kmsg")) -> None:
        self._when: dict[int, float] = {}
        self._fd = -1
        try:
            if Path("/proc/self/ns/pid").stat().st_ino == INITIAL_PID_NAMESPACE:
                self._fd = os.open(log, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                os.lseek(self._fd, 0, os.SEEK_END)
        except OSError:
            self.close()

    def ended(self, pid: int, create_time: float) -> bool:
        """Whether it ended the process of this PID that was made at `create_time` (seconds since boot)."""
        self._read()
        when = self._when.pop(pid, None)
        # The log's clock stands still while the machine sleeps, as CLOCK_MONOTONIC does; births are told by CLOCK_BOOTTIME.
        slept = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
        return when is not None and when + slept >= create_time - CLOCK_SLACK

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
                    continue  # Records were overwritten before they were read: the next read has the oldest that is left.
                return
            if not record:
                return
            found = _KILLED(record)
            if found is not None:
                self._when[int(found[2])] = int(found[1]) / 1e6
