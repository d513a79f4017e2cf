"""Repairs what a process inherits from its parent, before it opens anything.

This makes `python -m lb` start in a known state, whatever started it. Descriptors 0 to 2 may be closed: the next file
that is opened, a socket or a log, would become standard output and receive what is printed. Signals may be blocked, and
SIGCHLD and SIGTERM ignored, which no shell does for its user: the exit status of a child would be lost, and a stop
would have no effect. Ignored SIGHUP, SIGINT and SIGQUIT (nohup, a script's `&`) are what the user wants; they stay
ignored, and `not_ignored` reports the others.

It imports the standard library alone: the packages do not import one another, so each has its own copy.
"""

import io
import os
import signal
import sys


def prepare_process() -> None:
    """Open descriptors 0 to 2, unblock all signals and stop ignoring SIGCHLD and SIGTERM; call it before any open."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != fd:
                os.dup2(null, fd)
                os.close(null)
            os.set_inheritable(fd, True)
    # Python sets a stream to None when its descriptor is closed at the start. These stay open until the process ends.
    sys.stdin, sys.stdout, sys.stderr = (
        sys.stdin or _stream(0, "r"),
        sys.stdout or _stream(1, "w"),
        sys.stderr or _stream(2, "w"),
    )
    for number in (signal.SIGCHLD, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def not_ignored(*numbers: signal.Signals) -> tuple[signal.Signals, ...]:
    """Return those of the signals that were not ignored when the process started, and SIGTERM."""
    return tuple(
        number for number in numbers if number == signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN
    )


def _stream(fd: int, mode: str) -> io.TextIOWrapper:
    raw = io.FileIO(fd, mode, closefd=False)
    return io.TextIOWrapper(
        io.BufferedReader(raw) if mode == "r" else io.BufferedWriter(raw), line_buffering=mode == "w"
    )
