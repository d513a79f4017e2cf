"""Corrects what a process inherits from the one that starts it, before anything else is done.

This holds for every entry point: supervisor.py, `comet`, `python -m comet` and the admin server.

What a load balancer corrects (`lb/system/process_setup.py`: closed descriptors, blocked and ignored signals) is
corrected here too, and more.

A user may type a command within a process that a replica of another cluster runs. Every process is recognized by the
cluster's mark in its initial environment, which cannot be changed later. So the command is executed again without the
other cluster's mark.

A umask may remove the owner's rights on new files, or let others write to them. A character that the terminal's
encoding cannot express must not end a command. COLUMNS and LINES may have any value.

Only the standard library and that module are imported here: the Python that runs this may lack every package.
"""

import contextlib
import io
import os
import re
import resource
import signal
import sys
from dataclasses import dataclass

from lb.system import process_setup

DESCRIPTORS = 4096
"""The open files that a supervisor of 200 workers or a load balancer under load may need.

A supervisor opens pidfds, control connections and calls to the engine.
"""

MIN_DESCRIPTORS = 256
"""The fewest open files with which a process worker has room for the connections of two load balancers."""

MIN_FILE_SIZE = 64 << 20
"""The bytes that a file must be allowed to have: logs, events, counters, and a database of some size."""


@dataclass
class InheritedState:
    """Inherited values that other modules need.

    `umask`, without the bits that took rights from the owner, is the umask for a custom service. `folder` is the
    working folder, None if it has been removed. A program that calls the command line from Python does not call
    `prepare_process`, and keeps these defaults.
    """

    umask: int = 0o022
    folder: str | None = "."


inherited = InheritedState()


def prepare_process() -> None:
    """Correct the inherited state; call this before anything is opened."""
    process_setup.prepare_process()
    signal.setitimer(signal.ITIMER_REAL, 0)
    inherited.umask = os.umask(0o077) & 0o077
    os.umask(inherited.umask | 0o022)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    for name in ("COLUMNS", "LINES"):
        if not re.fullmatch(r"[1-9][0-9]{1,3}", os.environ.get(name, "80")):
            del os.environ[name]
    with contextlib.suppress(ValueError, OSError):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY and soft < DESCRIPTORS:
            resource.setrlimit(
                resource.RLIMIT_NOFILE,
                (DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard), hard),
            )
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        if shortage_of_size(soft) is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    inherited.folder = _folder()
    sys.path[:] = [os.path.join(inherited.folder or "/", path) for path in sys.path]


@dataclass(frozen=True)
class Shortage:
    """A limit that is too low: what it means, what to do, and whether a cluster cannot run at all."""

    text: str
    advice: str
    fatal: bool


def shortages() -> list[Shortage]:
    """Return which limits of this process are too low for a cluster."""
    files = shortage_of_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    size = shortage_of_size(resource.getrlimit(resource.RLIMIT_FSIZE)[0])
    return [each for each in (files, size) if each is not None]


def shortage_of_files(limit: int) -> Shortage | None:
    """Return what a limit of open files (`ulimit -n`) means for a cluster; None if it is high enough."""
    if limit == resource.RLIM_INFINITY or limit >= DESCRIPTORS:
        return None
    advice = (
        f"raise the limit: ulimit -n {DESCRIPTORS} (as root, or LimitNOFILE= of a systemd unit, where the "
        "hard limit is lower)"
    )
    if limit < MIN_DESCRIPTORS:
        return Shortage(
            f"a process may have {limit} open files here, and a cluster needs {MIN_DESCRIPTORS} at least", advice, True
        )
    return Shortage(
        f"a process may have {limit} open files here: a load balancer takes some {limit // 2} connections",
        advice,
        False,
    )


def shortage_of_size(limit: int) -> Shortage | None:
    """Return what a limit of the size of files (`ulimit -f`) means for a cluster; None if it is high enough."""
    if limit == resource.RLIM_INFINITY or limit >= MIN_FILE_SIZE:
        return None
    return Shortage(
        f"a file may have {limit} bytes here, and a cluster needs {MIN_FILE_SIZE} at least",
        "raise the limit: ulimit -f unlimited (as root, or LimitFSIZE= of a systemd unit, where the hard limit is "
        "lower)",
        True,
    )


MARKS = ("COMET_CLUSTER", "COMET_REPLICA")
"""Environment variables by which a cluster recognizes its processes."""


def remove_marks() -> None:
    """Execute this command again if it carries another cluster's mark.

    Do not call it in processes that a supervisor starts, because these are marked on purpose.
    """
    if any(name in os.environ for name in MARKS) and sys.executable:
        kept = {name: value for name, value in os.environ.items() if name not in MARKS}
        with contextlib.suppress(OSError):
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], kept)


def has_terminal() -> bool:
    """Whether this process has a controlling terminal.

    Once the terminal is closed, SIGHUP means that it closed, not a request to reload.
    """
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        return None
