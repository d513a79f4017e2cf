"""Opens, creates and changes files in directories that other users may write to, without path races.

Every system call resolves a path again, and any user who can write to one of its directories decides each time what the
path means: a link to /etc/shadow, a FIFO that blocks the process opening it, a second name of root's file. A descriptor
always means the same file. A `Directory` is therefore opened once without following links, checked, and held. Its
operations take the name of one entry. An existing entry is first opened with O_PATH, which neither blocks nor activates
a device. Then it is checked (a regular file, one link, a known owner, an acceptable size), and only then opened for
use, through that same descriptor. `comet.common.file_checks` has the checks.

Below `.comet/` no link is followed. Above it, paths mean what the cluster's user made of them, because a user who can
write to the cluster's folder controls the cluster anyway. The functions of this module take such a path; `Directory` is
for several operations in one place.

An entry that is not as expected raises UnsafeFile, a missing file FileNotFoundError.
"""

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Collection, Iterator
from pathlib import Path

from comet.common.file_checks import Owner, UnsafeFile, kind_of, require_directory, require_file

STATE_FOLDER = ".comet"

READ_LIMIT = 64 << 20
"""The largest file that is read, in bytes; a larger one is an error and would exhaust this machine's memory."""

ATTEMPTS = 10
"""How often an entry is opened again that other processes remove and create at the same moment."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_ASIDE = re.compile(r"(?s).+\.unusable(\.[0-9a-f]{8})?").fullmatch
"""What `Directory.clear` names what it sets aside."""


class Directory:
    """A directory held open.

    Create one with `opened`, `based`, `of` or `child`. Use it in a `with` statement, or close it; like a file object,
    it closes when no reference to it is left. `path` is its name in messages; `owners` are the users to whom its
    entries may belong.
    """

    def __init__(self, descriptor: int, path: str) -> None:
        self.descriptor = descriptor
        self.path = path
        self.owners: Collection[int] = {os.geteuid(), 0, os.fstat(descriptor).st_uid}

    @classmethod
    def opened(cls, path: str | Path) -> "Directory":
        """Open the directory at this path; its ancestors may be links, but the directory itself may not."""
        return cls(_open_directory(str(path), None, str(path)), str(path))

    @classmethod
    def based(cls, path: str | Path) -> "Directory":
        """Open the directory at a path that the user chose; it may be a link."""
        return cls(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), str(path))

    @classmethod
    def of(cls, path: str | Path) -> "Directory":
        """Open the directory at this path.

        A path below `.comet/` is followed from the cluster's folder without following a link.
        """
        parts = Path(path).parts
        if STATE_FOLDER not in parts:
            return cls.opened(path)
        at = len(parts) - 1 - parts[::-1].index(STATE_FOLDER)
        folder = str(Path(*parts[:at])) if at else "."
        current = cls(os.dup(_held[folder].descriptor), folder) if folder in _held else cls.based(folder)
        for name in parts[at:]:
            with current:
                following = current.child(name)
            current = following
        return current

    def __enter__(self) -> "Directory":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    @property
    def status(self) -> os.stat_result:
        return os.fstat(self.descriptor)

    @property
    def address(self) -> str:
        """A short path of the directory, valid in this process only.

        It is for interfaces that only take paths (UNIX sockets, mmap of a library).
        """
        return f"/proc/self/fd/{self.descriptor}"

    def chmod(self, mode: int) -> None:
        if stat.S_IMODE(self.status.st_mode) != mode:
            os.fchmod(self.descriptor, mode)

    def chown(self, owner: Owner) -> None:
        if self.status.st_uid != owner.uid:
            os.fchown(self.descriptor, owner.uid, owner.gid)

    def child(self, name: str, make: bool = False, owner: Owner | None = None) -> "Directory":
        """Open a directory in this one.

        With `make`, it is created if it is missing, and closed to other writers if this user owns it. `owner` is the
        user whom it is for: with `make` it is given to that user, and its entries are used only if they are that
        user's. Raise UnsafeFile if it is no directory, belongs to an unknown user, or is writable by others.
        """
        path = self._path(name)
        known = {*self.owners} if owner is None else {*self.owners, owner.uid}
        with self._named(name):
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=self.descriptor)
            found = Directory(_open_directory(name, self.descriptor, path), path)
        try:
            if make and found.status.st_uid == os.geteuid():
                found.chmod(stat.S_IMODE(found.status.st_mode) & ~(stat.S_IWGRP | stat.S_IWOTH))
            require_directory(found.status, path, known)
            if make and owner is not None:
                found.chown(owner)
        except OSError:
            found.close()
            raise
        found.owners = known if owner is None or owner.uid == os.geteuid() else {owner.uid}
        return found

    def names(self) -> list[str]:
        return sorted(os.listdir(self.descriptor))

    def lstat(self, name: str) -> os.stat_result | None:
        """Return the status of the entry of this name without following a link; None where there is none."""
        try:
            with self._named(name):
                return os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def check(self, name: str, limit: int | None = None) -> os.stat_result:
        """Return the status of a file that `open` would open."""
        with self._checked(name, limit) as file:
            return os.fstat(file)

    def open(self, name: str, flags: int = os.O_RDONLY, limit: int | None = None) -> int:
        """Open a regular file without blocking, with the `flags` of open(2) except O_CREAT.

        `limit` is the size in bytes that the file may have.
        """
        with self._checked(name, limit) as looked_at, self._named(name):
            # The owner of the file may hold a lease on it (fcntl(2)), for which open(2) would wait without O_NONBLOCK.
            file = os.open(f"/proc/self/fd/{looked_at}", flags | os.O_NONBLOCK | os.O_CLOEXEC)
        os.set_blocking(file, True)
        return file

    def read(self, name: str, limit: int = READ_LIMIT) -> bytes:
        with os.fdopen(self.open(name, limit=limit), "rb") as file:
            content = file.read(limit + 1)
        if len(content) > limit:
            raise UnsafeFile(self._path(name), f"larger than {limit} bytes")
        return content

    def append(self, name: str, mode: int = 0o600, flags: int = os.O_WRONLY | os.O_APPEND) -> int:
        """Open a file for appending and create it if it is missing; an unusable entry of its name is cleared away."""
        for _ in range(ATTEMPTS):
            with contextlib.suppress(FileNotFoundError):
                try:
                    return self.open(name, flags)
                except UnsafeFile:
                    self.clear(name)
            with contextlib.suppress(FileExistsError), self._named(name):
                return os.open(
                    name, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=self.descriptor
                )
        raise UnsafeFile(self._path(name), "is made and removed again and again by another program")

    def write(self, name: str, content: str | bytes, mode: int = 0o600, owner: Owner | None = None) -> None:
        """Replace a file by rename(2), so that a reader or a crash finds the old content or the new, never a part.

        A directory of that name is cleared away.
        """
        draft = f".{name}.{os.getpid()}.{secrets.token_hex(4)}.draft"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with self._named(name):
            file = os.open(draft, flags, mode, dir_fd=self.descriptor)
            try:
                with os.fdopen(file, "wb") as stream:
                    stream.write(content.encode() if isinstance(content, str) else content)
                    os.fchmod(file, mode)
                    if owner is not None and owner.uid != os.geteuid():
                        os.fchown(file, owner.uid, owner.gid)
                self.replace(draft, name)
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(draft, dir_fd=self.descriptor)
                raise

    def rename(self, name: str, new: str, into: "Directory | None" = None) -> None:
        """Move an entry of any kind within this directory or into another one, without following it.

        An existing entry of the new name is replaced where rename(2) allows it.
        """
        with self._named(name):
            os.replace(name, new, src_dir_fd=self.descriptor, dst_dir_fd=(into or self).descriptor)

    def replace(self, name: str, new: str) -> None:
        """Rename a file; an entry of the new name is replaced, and a directory of that name is cleared away."""
        try:
            self.rename(name, new)
        except IsADirectoryError:
            self.clear(new)
            self.rename(name, new)

    def clear(self, name: str) -> None:
        """Clear away the entry of this name.

        A link, FIFO, socket or device holds no data and is removed. A file or directory may hold data and is kept as
        `NAME.unusable`.
        """
        found = self.lstat(name)
        if found is None:
            return
        if not stat.S_ISDIR(found.st_mode) and not stat.S_ISREG(found.st_mode):
            self.remove(name)
            return
        aside = f"{name}.unusable"
        self.rename(name, aside if self.lstat(aside) is None else f"{aside}.{secrets.token_hex(4)}")

    def sweep(self, sockets: str | None = None) -> None:
        """Clear away every entry that is no trusted file, so that programs opening these by path find nothing else.

        Sockets whose names end with `sockets` stay.
        """
        for name in self.names():
            found = self.lstat(name)
            if found is None or (sockets is not None and name.endswith(sockets) and stat.S_ISSOCK(found.st_mode)):
                continue
            if _ASIDE(name):  # Nobody opens it by its name.
                continue
            try:
                self.check(name)
            except UnsafeFile:
                self.clear(name)
            except FileNotFoundError:
                continue

    def remove(self, name: str) -> None:
        """Remove an entry of any kind, a directory with its content, without following a link.

        A missing entry is not an error.
        """
        with contextlib.suppress(FileNotFoundError), self._named(name):
            found = self.lstat(name)
            if found is not None and stat.S_ISDIR(found.st_mode):
                try:
                    shutil.rmtree(name, dir_fd=self.descriptor)
                except RecursionError:
                    raise UnsafeFile(self._path(name), "nested too deeply; remove it by hand") from None
            elif found is not None:
                os.unlink(name, dir_fd=self.descriptor)

    def _path(self, name: str) -> str:
        return os.path.join(self.path, name)

    @contextlib.contextmanager
    def _checked(self, name: str, limit: int | None) -> Iterator[int]:
        """Yield a descriptor that identifies a checked regular file and permits no other operation on it."""
        with self._named(name):
            looked_at = os.open(name, _LOOK, dir_fd=self.descriptor)
        try:
            require_file(os.fstat(looked_at), self._path(name), self.owners, limit)
            yield looked_at
        finally:
            os.close(looked_at)

    @contextlib.contextmanager
    def _named(self, name: str) -> Iterator[None]:
        """Require the name of a single entry, and add its path to errors."""
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise UnsafeFile(self._path(name), "is not the name of one file")
        try:
            yield
        except UnsafeFile:
            raise
        except OSError as error:
            error.filename = self._path(name)
            del error.filename2  # None would be shown, as a second name.
            raise


_held: dict[str, Directory] = {}


def hold(folder: Path) -> Directory:
    """Open a cluster's folder permanently.

    From now on this process reaches everything below the folder's `.comet/` through it, wherever the folder is renamed
    to and whatever takes its place.
    """
    _held[str(folder)] = held = Directory.based(folder)
    return held


def read(path: Path, limit: int = READ_LIMIT) -> bytes:
    """Return the content of a file below `.comet/`, or of any file whose directory is not a link."""
    with Directory.of(path.parent) as directory:
        return directory.read(path.name, limit)


def read_text(path: Path, limit: int = READ_LIMIT) -> str:
    """Return the text of a file like `read`; raise ValueError where it is not UTF-8."""
    return read(path, limit).decode()


def write(path: Path, content: str | bytes, mode: int = 0o600, owner: Owner | None = None) -> None:
    """Replace a file in one step; see `Directory.write`."""
    with Directory.of(path.parent) as directory:
        directory.write(path.name, content, mode, owner)


def append(path: Path, mode: int = 0o600, flags: int = os.O_WRONLY | os.O_APPEND) -> int:
    """Return a descriptor that appends to a file; see `Directory.append`."""
    with Directory.of(path.parent) as directory:
        return directory.append(path.name, mode, flags)


def open_read(path: Path) -> int:
    """Return a descriptor for reading, without blocking."""
    with Directory.of(path.parent) as directory:
        return directory.open(path.name)


def remove(path: Path) -> None:
    """Remove an entry of any kind; it is not an error if it or its directory is missing."""
    with contextlib.suppress(FileNotFoundError), Directory.of(path.parent) as directory:
        directory.remove(path.name)


def discard(path: Path) -> None:
    """Remove what has no further use; it stays where that is refused, as by a file system that became read-only."""
    with contextlib.suppress(OSError):
        remove(path)


def lstat(path: Path) -> os.stat_result | None:
    """Return the status of what is at the path without following a link; None where nothing is."""
    try:
        with Directory.of(path.parent) as directory:
            return directory.lstat(path.name)
    except FileNotFoundError:
        return None


def is_regular(path: Path) -> bool:
    found = lstat(path)
    return found is not None and stat.S_ISREG(found.st_mode)


def is_there(path: str | Path, kind: int = stat.S_IFREG) -> bool:
    """Return whether something of this kind is there.

    An entry that was replaced by another kind, or a file with a second name, counts as missing.
    """
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return stat.S_IFMT(found.st_mode) == kind and (kind == stat.S_IFDIR or found.st_nlink == 1)


def is_same(path: Path, known: os.stat_result | None) -> bool:
    """Return whether what is at the path is what had this status, and not another entry of the same kind.

    The number of an inode is not used again while it is open, nor that of a socket while a process listens on it.
    """
    found = lstat(path)
    return found is not None and known is not None and os.path.samestat(found, known)


def rotated_path(path: Path) -> Path:
    """Return the path of the rotated part of a log or journal."""
    return path.with_name(f"{path.name}.1")


def _open_directory(name: str, within: int | None, path: str) -> int:
    try:
        return os.open(name, _DIRECTORY, dir_fd=within)
    except OSError as error:
        error.filename = path
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
    found = os.stat(name, dir_fd=within, follow_symlinks=False)
    raise UnsafeFile(path, f"is {kind_of(found)} where a directory belongs; move it away")
