"""A terminal for programs under test: a pty, and what a person would see on it (pyte's screen)."""

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import termios
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import pyte

from tests.support.waiting import wait_until

T = TypeVar("T")

COLOUR = re.compile(r"\x1b\[(?:[0-9;]*;)?(?:3[0-8]|4[0-8]|9[0-7])(?:;[0-9;]*)?m")


class Terminal:
    """A program in a session of its own with this terminal. Reading can be stopped, as a terminal that hangs does."""

    def __init__(self, argv: Sequence[str], cwd: Path, width: int = 120, height: int = 40, **environment: str) -> None:
        self._screen = pyte.Screen(width, height)
        self._stream = pyte.ByteStream(self._screen)
        self._lock = threading.Lock()
        self.output = b""
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.chdir(cwd)
            fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
            os.execvpe(argv[0], list(argv), {**os.environ, "TERM": "xterm-256color", **environment})
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # EIO: nobody has the other end any more.
            while data := os.read(self._fd, 65536):
                with self._lock:
                    self.output += data
                    self._stream.feed(data)

    @property
    def lines(self) -> list[str]:
        with self._lock:
            return [line.rstrip() for line in self._screen.display]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def picture(self, look: Callable[[pyte.Screen], T]) -> T:
        """What `look` makes of the screen, while it stands still."""
        with self._lock:
            return look(self._screen)

    def type(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def resize(self, width: int, height: int) -> None:
        with self._lock:
            self._screen.resize(height, width)
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def shows(self, what: str | Callable[[str], object], seconds: float = 60) -> str:
        """What the screen shows once this is on it."""

        def look() -> str:
            text = self.text
            return text if (what in text if isinstance(what, str) else what(text)) else ""

        try:
            return wait_until(look, seconds)
        except AssertionError:
            raise AssertionError(f"not seen: {what}; the screen is:\n{self.text}") from None

    def destroy(self) -> None:
        for kill in (os.killpg, os.kill):  # It leads no group yet where it was forked just now.
            with contextlib.suppress(ProcessLookupError):
                kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        # Its end hangs up the terminal, which ends the reading. The next file that is opened would get the number of
        # one that was closed before, and lose its content to the reader.
        self._reader.join(10)
        with contextlib.suppress(OSError):
            os.close(self._fd)


@contextlib.contextmanager
def terminal(
    argv: Sequence[str], cwd: Path, width: int = 120, height: int = 40, **environment: str
) -> Iterator[Terminal]:
    made = Terminal(argv, cwd, width, height, **environment)
    try:
        yield made
    finally:
        made.destroy()
