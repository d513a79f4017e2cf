"""Runs the user's own client next to a scenario: a command with the addresses in its environment."""

import errno
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from comet.common.errors import UserError

END_TIMEOUT = 10.0
"""Seconds that the client has after SIGTERM."""


def require(words: Sequence[str]) -> None:
    """Raise UserError unless there is a program of the client's name."""
    if words and shutil.which(words[0]) is None:
        reason = os.strerror(errno.EACCES if os.path.exists(words[0]) else errno.ENOENT)
        raise UserError(f"{words[0]}: cannot be run: {reason}", 2)


class ClientCommand:
    """The client; its output goes to stderr, so that stdout has the report alone."""

    def __init__(self, words: Sequence[str], urls: Sequence[str]) -> None:
        self._words = list(words)
        environment = os.environ | {"COMET_URL": urls[0] if urls else "", "COMET_URLS": " ".join(urls)}
        try:
            self._process = subprocess.Popen(self._words, env=environment, stdout=sys.stderr.fileno())
        except OSError as error:
            raise UserError(f"{self._words[0]}: cannot be run: {error.strerror}") from None

    @property
    def exit_code(self) -> int | None:
        """The exit code, 128 + N where a signal ended it; None while it runs."""
        code = self._process.poll()
        return None if code is None else code if code >= 0 else 128 - code

    def end(self) -> None:
        """Send SIGTERM and wait; SIGKILL where that does not help."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(END_TIMEOUT)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def as_dict(self) -> dict[str, Any]:
        return {"command": shlex.join(self._words), "exit_code": self.exit_code}
