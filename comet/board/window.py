"""A supervisor's end of its board: a process of its own that has the terminal, and a pipe to tell it what happens.

The supervisor never writes to the terminal while the board lives, and needs nothing from it: a board that hangs is left behind at
the end, one that dies is followed by plain lines. Either way the terminal is set right again from here.
"""

import contextlib
import json
import os
import subprocess
import sys
import termios
import threading

from comet.cluster import Cluster
from comet.config import Config
from comet.database import SOURCES
from comet.display import Aside, Display, LineDisplay, Message, write

PATIENCE = 1.5
"""Seconds that the board has at the end to show what is left."""

WAITING_AT_MOST = 1 << 20
"""Bytes."""

BACK = "\x1b[?1047l\x1b[?25h\x1b[0m\r\n"
"""First screen, cursor, no colour."""


class Window:
    """Never waits but in `close`. What the board is too slow to take waits here, up to WAITING_AT_MOST bytes; the rest it can read in
    the journal."""

    def __init__(self, config: Config, cluster: Cluster) -> None:
        read_fd, self._fd = os.pipe()
        os.set_blocking(self._fd, False)
        self._waiting = b""
        self._lines: Display | None = None
        self._closing = False
        self._attributes = _attributes()
        argv = [sys.executable, "-m", "comet", "ps", "--watch", "--feed-fd", str(read_fd), "--config", str(config.path)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (str(SOURCES), os.environ.get("PYTHONPATH"))))}
        self._board = subprocess.Popen(argv, env=environment, pass_fds=(read_fd,))
        os.close(read_fd)
        self._stderr = os.dup(2)
        log = os.open(cluster.path("logs", "supervisor.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.dup2(log, 2)  # What Python says of an error of ours must not fall into the picture.
        os.close(log)
        self._over = threading.Event()
        threading.Thread(target=self._wait, name="board", daemon=True).start()

    def show(self, message: Message) -> None:
        if self._lines is None:
            if len(self._waiting) < WAITING_AT_MOST:
                self._waiting += json.dumps(message).encode() + b"\n"
            try:
                self._write()
                return
            except OSError:
                self._lines = Aside(LineDisplay())
        self._lines.show(message)

    def close(self) -> None:
        """Let the board show what is left and end; it is killed where it cannot."""
        self._closing = True
        with contextlib.suppress(OSError):
            self._write()
        os.close(self._fd)
        if not self._over.wait(PATIENCE):
            self._board.kill()
            self._over.wait(PATIENCE)
        if self._lines is not None:
            self._lines.close()
        os.dup2(self._stderr, 2)
        os.close(self._stderr)

    def _write(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._waiting:
                self._waiting = self._waiting[os.write(self._fd, self._waiting) :]

    def _wait(self) -> None:
        code = self._board.wait()
        if code:
            self._set_right()
        if not self._closing:
            with contextlib.suppress(OSError):
                write(1, "the board has ended; the cluster goes on, Ctrl-C stops it\n")
        self._over.set()

    def _set_right(self) -> None:
        """Through a description of the terminal of our own: it may be stopped (Ctrl-S), and we must not wait for it."""
        with contextlib.suppress(OSError, termios.error):
            if self._attributes is not None and os.tcgetpgrp(0) == os.getpgrp():
                termios.tcflow(0, termios.TCOON)
                termios.tcsetattr(0, termios.TCSANOW, self._attributes)
        with contextlib.suppress(OSError):
            fd = os.open(os.ttyname(1), os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(fd, "wb", 0) as terminal:
                terminal.write(BACK.encode())


def _attributes() -> list[int | list[bytes | int]] | None:
    try:
        return termios.tcgetattr(0)
    except termios.error:
        return None
