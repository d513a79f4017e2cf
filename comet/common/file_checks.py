"""Decides from the status of an entry whether it may be used, and says for people what it is instead.

What a path names may change after each system call. So these functions take the status of an open descriptor, and open
nothing.

The link count can be wrong for a moment while another process adds and removes links. In a directory that another user
writes to, a file is therefore used only if it belongs to that user; a second name of another user's file does not.
"""

import errno
import os
import pwd
import stat
from collections.abc import Collection
from dataclasses import dataclass

from comet.common.errors import UserError

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFREG: "a regular file",
}


@dataclass(frozen=True)
class Owner:
    """A user and a group by number."""

    uid: int
    gid: int


class UnsafeFile(UserError, OSError):
    """An entry that is not what it should be; `what` (and `strerror`) says what it is instead.

    It is a UserError for callers that do not catch it, and an OSError for callers that treat an unusable file like an
    unreadable one.
    """

    def __init__(self, path: str, what: str) -> None:
        super().__init__(f"{path}: {what}")
        self.what = what
        self.errno, self.strerror, self.filename = errno.EPERM, what, path

    def __str__(self) -> str:
        return self.message


def require_directory(found: os.stat_result, path: str, owners: Collection[int]) -> None:
    """Raise UnsafeFile unless a directory with this status may be used; its type is known."""
    if found.st_uid not in owners:
        raise UnsafeFile(
            path,
            f"belongs to {who(found.st_uid)}, whom Comet does not trust here; move it away, or choose another place",
        )
    # In a sticky directory only the owner of an entry can rename or remove it.
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX:
        raise UnsafeFile(path, f"other users may write to it; take that right away with: chmod go-w {path}")


def require_file(found: os.stat_result, path: str, owners: Collection[int], limit: int | None) -> None:
    """Raise UnsafeFile unless an entry with this status is a file that may be used, of `limit` bytes at most."""
    if not stat.S_ISREG(found.st_mode):
        raise UnsafeFile(path, f"is {kind_of(found)} where a regular file belongs; move it away")
    if found.st_uid not in owners:
        raise UnsafeFile(path, f"belongs to {who(found.st_uid)}, whom Comet does not trust here; move it away")
    if found.st_nlink > 1:
        raise UnsafeFile(path, "has a second name (a hard link) elsewhere; copy it, and put the copy in its place")
    if limit is not None and found.st_size > limit:
        raise UnsafeFile(path, f"holds {found.st_size} bytes, more than the {limit} that it may; move it away")


def who(uid: int) -> str:
    """Return a user as `alice (uid 1000)`."""
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"


def kind_of(found: os.stat_result) -> str:
    """Return the type of an entry as a message names it."""
    return _KINDS.get(stat.S_IFMT(found.st_mode), "something unknown")
