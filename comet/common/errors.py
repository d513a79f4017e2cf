"""Defines the errors that a user can correct.

Each is reported as one line with an exit code, never as a traceback. Messages are printed, logged and shown on the
page, so none of them contains a password.
"""

import errno
from pathlib import Path

from comet.common.redaction import concealed

_REMEDIES = {
    errno.ENOSPC: "the disk is full ({}): free some space",
    errno.EDQUOT: "the disk quota is used up ({}): free some space",
    errno.EROFS: "its file system is mounted read-only ({})",
    errno.EACCES: "{}: mend its permissions",
}

NOTHING_RUNS = 3
"""The exit code where nothing of the cluster runs."""


class UserError(Exception):
    """A failure with a message for the user.

    `message` is one line (more only where output of a failed step is quoted) that says what is wrong and what to do.
    `exit_code` is one of docs/cli.md's: 1 failed, 2 bad usage or config, 3 nothing of this cluster runs.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        self.message = concealed(message)
        super().__init__(self.message)
        self.exit_code = exit_code


class Busy(UserError):
    """The cluster is starting or stopping, or runs another operation; the same request may be repeated later."""


class Unknown(UserError):
    """What the user named does not exist."""


def nothing_runs(folder: Path) -> UserError:
    """Return the error of a command that needs something of the cluster in `folder` to run."""
    return Unknown(f"{folder}: nothing of this cluster runs", NOTHING_RUNS)


def os_error_text(error: OSError) -> str:
    """Return why the system refused an operation, and what to do about it where that is known."""
    reason = error.strerror or str(error)
    return _REMEDIES.get(error.errno or 0, "{}").format(reason)
