"""Follows a directory of the cluster's folder when that folder is renamed.

The directory is used by its path while the cluster's folder is in its place, as it may be removed and made again there.
Otherwise it is used through a descriptor: its path then leads nowhere, or to another cluster's files.
"""

import contextlib
import os
from typing import Final

MARK: Final = "COMET_FOLDER"
"""Environment variable with the inode and the path of the cluster's folder (`INODE:PATH`); not set for a load balancer
alone.
"""


class Directory:
    """A directory that may move together with the cluster's folder."""

    def __init__(self, path: str) -> None:
        self._given = path
        self._inode, _, self._folder = os.environ.get(MARK, "").partition(":")
        self._held = -1
        self._hold()

    @property
    def path(self) -> str:
        """Return a path at which the directory is now, valid in this process."""
        if self._is_in_place():
            self._hold()
        elif self._held >= 0:
            return f"/proc/self/fd/{self._held}"
        return self._given

    @property
    def address(self) -> str:
        """Return a short path of the directory, for sockets: their addresses have at most 107 bytes (unix(7))."""
        path = self.path
        return f"/proc/self/fd/{self._held}" if self._held >= 0 else path

    def close(self) -> None:
        """Stop following."""
        if self._held >= 0:
            os.close(self._held)
            self._held = -1

    def _hold(self) -> None:
        with contextlib.suppress(OSError):
            if self._held >= 0 and os.path.samestat(os.stat(self._given), os.fstat(self._held)):
                return
            fresh = os.open(self._given, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            self.close()
            self._held = fresh

    def _is_in_place(self) -> bool:
        if not self._folder:
            return True
        try:
            return str(os.stat(self._folder).st_ino) == self._inode
        except OSError:
            return False
