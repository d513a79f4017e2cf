"""Finds a file of the cluster: at its given path or where it is after a rename of the folder.

A rename does not affect open files, but a worker also uses paths: to notice that a file was replaced, and to open it
again. So it keeps a descriptor of the directory, from which the kernel reports the present path. The given path is used
as long as it leads to a directory in the cluster's folder. After a rename it leads to nothing, or into the folder of
another cluster.
"""

from __future__ import annotations

import contextlib
import os

MARK = "COMET_FOLDER"
"""Environment variable with the cluster's folder as `INODE:PATH`; not set for a worker without a supervisor."""


class Place:
    """The location of one file; `path` is its path as of the last `follow`."""

    def __init__(self, path: str, mark: str | None = None) -> None:
        self.path = path
        self._given = path
        self._inode, _, self._folder = (os.environ.get(MARK, "") if mark is None else mark).partition(":")
        self._real = os.path.realpath(path)
        self._directory = -1
        with contextlib.suppress(OSError):  # The directory may not exist yet.
            self.hold()

    def hold(self) -> None:
        """Keep a descriptor of the directory that contains the file now."""
        self.close()
        self._real = os.path.realpath(self.path)
        self._directory = os.open(os.path.dirname(self._real), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def follow(self) -> bool:
        """Update `path`; return whether it has changed."""
        before, self.path = self.path, self._current_path()
        return self.path != before

    @property
    def moved(self) -> bool:
        """Whether the file was not at the given path at the last `follow`."""
        return self.path != self._given

    def close(self) -> None:
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1

    def _current_path(self) -> str:
        if self._directory < 0 or (
            self._is_in_place() and os.path.isdir(os.path.dirname(os.path.realpath(self._given)))
        ):
            return self._given
        now = os.readlink(f"/proc/self/fd/{self._directory}")
        try:
            if os.path.samestat(os.stat(now), os.fstat(self._directory)):
                return os.path.join(now, os.path.basename(self._real))
        except OSError:
            pass  # The directory was removed.
        return self._given

    def _is_in_place(self) -> bool:
        """Return whether the cluster's folder is where it was at the start of this process."""
        if not self._folder:
            return True
        try:
            return str(os.stat(self._folder).st_ino) == self._inode
        except OSError:
            return False
