"""Takes the terminal (alternate screen, no cursor, keys without echo), draws, and restores it.

Ctrl-C remains a signal to the whole foreground process group, so it works whatever state the board is in. Ctrl-Z
arrives as a key (keys are unbuffered), so that the terminal is restored before the group stops and not some time after.
"""

import contextlib
import os
import sys
import termios
import tty
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

SUSPEND = "\x1a"
NAMES = {
    "\x1b[A": "up", "\x1bOA": "up", "k": "up", "\x1b[B": "down", "\x1bOB": "down", "j": "down", "\x1b[5~": "page up",
    "b": "page up",
    "\x1b[6~": "page down", " ": "page down", "\x1b[H": "first", "\x1b[1~": "first", "g": "first", "\x1b[F": "last",
    "\x1b[4~": "last",
    "G": "last", "\x1b": "escape", "?": "help", "h": "help", "q": "leave", "Q": "leave", SUSPEND: "suspend",
}  # fmt: skip


class Screen:
    """Standard input and output, used as a board's screen."""

    def __init__(self) -> None:
        # The size comes from the terminal itself, also while it changes: COLUMNS and LINES may be outdated values of a
        # shell.
        self.console = Console(
            highlight=False,
            _environ={name: text for name, text in os.environ.items() if name not in ("COLUMNS", "LINES")},
        )
        self._live: Live | None = None
        self._attributes: list[object] | None = None
        self.keys = os.isatty(0) and _is_foreground()

    @property
    def size(self) -> tuple[int, int]:
        return self.console.size.width, self.console.size.height

    @property
    def is_held(self) -> bool:
        return self._live is not None

    @property
    def is_ours(self) -> bool:
        """Whether the terminal is this job's; a shell that has put the job into the background uses it itself."""
        return _is_foreground(1, otherwise=True)  # Of a terminal that is gone a signal tells.

    def acquire(self) -> None:
        if self._live is not None or not self.is_ours:
            return
        if self.keys:
            self._attributes = termios.tcgetattr(0)
            tty.setcbreak(0, termios.TCSANOW)
            changed = termios.tcgetattr(0)
            changed[6][termios.VSUSP] = b"\0"
            termios.tcsetattr(0, termios.TCSANOW, changed)
        self._live = Live(
            console=self.console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )
        self._live.start()

    def draw(self, lines: Sequence[Text]) -> None:
        if self._live is not None:
            self._live.update(Group(*lines), refresh=True)

    def release(self) -> None:
        """Restore the terminal; may be called at any time, and more than once."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()
        attributes, self._attributes = self._attributes, None
        # A shell that is in the foreground again has set the attributes that it needs.
        if attributes is not None and _is_foreground():
            with contextlib.suppress(termios.error):
                termios.tcsetattr(0, termios.TCSANOW, attributes)  # type: ignore[arg-type]
        sys.stdout.flush()


def key_names(data: bytes) -> list[str]:
    """Return the names of the keys in the bytes read; a key without a name is returned as itself."""
    text, found = data.decode(errors="replace"), []
    while text:
        length = next((size for size in (4, 3, 2) if text[:size] in NAMES), 1)
        key, text = text[:length], text[length:]
        found.append(NAMES.get(key, key))
    return found


def _is_foreground(descriptor: int = 0, otherwise: bool = False) -> bool:
    """Return whether our process group has the terminal; `otherwise` where the descriptor is none."""
    try:
        return os.tcgetpgrp(descriptor) == os.getpgrp()
    except OSError:
        return otherwise
