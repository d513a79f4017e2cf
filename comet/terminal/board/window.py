"""The supervisor's side of the board: a child process that owns the terminal, and a pipe to it.

The supervisor never writes to the terminal while the board lives, and needs nothing from the board. A board that hangs
is killed at the end; after one that dies, plain lines follow. In both cases the supervisor's process restores the
terminal.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import termios
import threading
from typing import Any

from comet.config.schema import Config
from comet.host import files
from comet.host.checkout import SOURCES
from comet.state.directory import Cluster
from comet.terminal.messages import BackgroundDisplay, Display, LineDisplay, Message, write

CLOSE_TIMEOUT = 1.5
"""Seconds that the board has at the end to show the remaining messages."""

MAX_PENDING = 1 << 20
"""Maximum number of bytes that wait for a slow board."""

RESTORE = "\x1b[?1047l\x1b[?25h\x1b[0m\r\n"
"""Escape sequences that restore the primary screen, the cursor and the default colors."""


class Window:
    """A display that forwards messages to the board's process, and waits only in `close`.

    Up to MAX_PENDING bytes wait here for a slow board. It can read the rest in the journal.
    """

    def __init__(self, config: Config, cluster: Cluster) -> None:
        read_fd, self._fd = os.pipe()
        os.set_blocking(self._fd, False)
        self._pending = b""
        self._fallback: Display | None = None
        self._closing = False
        self._attributes = _attributes()
        argv = [sys.executable, "-m", "comet", "ps", "--watch", "--feed-fd", str(read_fd), "--config", str(config.path)]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, (str(SOURCES), os.environ.get("PYTHONPATH"))))
        }
        self._board = _spawn_uninterrupted(argv, env=environment, pass_fds=(read_fd,))
        os.close(read_fd)
        self._stderr = os.dup(2)
        log = files.append(cluster.path("logs", "supervisor.log"))
        os.dup2(log, 2)  # Tracebacks of the supervisor must not be written over the board.
        os.close(log)
        self._exited = threading.Event()
        threading.Thread(target=self._wait, name="board", daemon=True).start()

    def show(self, message: Message) -> None:
        if self._fallback is None:
            if len(self._pending) < MAX_PENDING:
                self._pending += json.dumps(message).encode() + b"\n"
            try:
                self._write()
                return
            except OSError:
                self._fallback = BackgroundDisplay(LineDisplay())
        self._fallback.show(message)

    def close(self) -> None:
        """Let the board show the remaining messages and end; kill it if it does not within the timeout."""
        self._closing = True
        with contextlib.suppress(OSError):
            self._write()
        os.close(self._fd)
        if not self._exited.wait(CLOSE_TIMEOUT):
            self._board.kill()
            self._exited.wait(CLOSE_TIMEOUT)
        if self._fallback is not None:
            self._fallback.close()
        os.dup2(self._stderr, 2)
        os.close(self._stderr)

    def _write(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._pending:
                self._pending = self._pending[os.write(self._fd, self._pending) :]

    def _wait(self) -> None:
        code = self._board.wait()
        if code:
            self._restore_terminal()
        if not self._closing:
            with contextlib.suppress(OSError):
                write(1, "the board has ended; the cluster keeps running, Ctrl-C stops it\n")
        self._exited.set()

    def _restore_terminal(self) -> None:
        """Restore the terminal through a new file description.

        The terminal may be stopped (Ctrl-S), and the supervisor must not wait for it.
        """
        with contextlib.suppress(OSError, termios.error):
            if self._attributes is not None and os.tcgetpgrp(0) == os.getpgrp():
                termios.tcflow(0, termios.TCOON)
                termios.tcsetattr(0, termios.TCSANOW, self._attributes)
        with contextlib.suppress(OSError):
            fd = os.open(os.ttyname(1), os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(fd, "wb", 0) as terminal:
                terminal.write(RESTORE.encode())


def _spawn_uninterrupted(argv: list[str], **options: Any) -> "subprocess.Popen[bytes]":
    """Start a process in the terminal's foreground that ignores Ctrl-C, which is for the supervisor.

    It ignores SIGINT from its first moment (a shell leaves its `trap ''` to what it executes), and until then it has
    the signal blocked: a handler of its own would come after all its imports.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return subprocess.Popen(["/bin/sh", "-c", "trap '' INT; exec \"$@\"", "sh", *argv], **options)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _attributes() -> list[int | list[bytes | int]] | None:
    try:
        return termios.tcgetattr(0)
    except termios.error:
        return None
