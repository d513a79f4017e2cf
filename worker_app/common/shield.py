"""Protects the worker from other processes of the same user: no access by /proc/PID, no debugger, no core dump.

/proc/PID shows memory, environment and open files. Root's built-in workers, in containers or not, and the custom
services of root's other clusters all run as uid 10001. None of them may use a worker to reach what only this worker may
reach: its database and password, and the folders that are mounted for it alone.

The workers of an ordinary user are not protected: that user's supervisor has no more rights than they have, and
identifies its processes by their environment.
"""

from __future__ import annotations

import contextlib
import os
import resource

PR_SET_DUMPABLE = 4
PR_SET_NAME = 15


def protect(contained: bool) -> None:
    """Forbid core dumps and, if `contained` (in a container) or started by root, access by other processes."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if contained or _is_root(os.getppid()):
        _prctl(PR_SET_DUMPABLE, 0)


def set_process_name(name: bytes) -> None:
    """Set the name of this thread; the name of the first thread is that of the process."""
    _prctl(PR_SET_NAME, name)


def _is_root(pid: int) -> bool:
    """Return whether that process belongs to root and this one does not."""
    try:
        return os.getuid() != 0 and os.stat(f"/proc/{pid}").st_uid == 0
    except OSError:
        return False


def _prctl(option: int, value: int | bytes) -> None:
    with contextlib.suppress(ImportError, OSError):  # A self-compiled Python may lack ctypes.
        import ctypes

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
