"""Creates, moves and checks the SQLite database's files, and gives them to the workers' user.

The directory of the database belongs to that user. A worker can put anything there, and a container sees nothing else
of this host. So nothing in it is looked up by path. The directory is opened once, and refused if a stranger owns it or
can swap it. Every file in it is checked and changed through a descriptor (`comet.host.files`). What a worker has put in
the database's place is replaced, and the user is notified.
"""

import contextlib
import errno
import grp
import os
import pwd
import stat
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from comet.common.errors import UserError
from comet.common.file_checks import Owner, UnsafeFile, who
from comet.host.files import STATE_FOLDER, Directory

SIDE_FILES = ("", "-wal", "-shm", "-journal")
INCOMING = ".incoming"
"""Suffix of a database that is moved into its directory, until it has been checked there."""

_HARD_LINKS = Path("/proc/sys/fs/protected_hardlinks")


@dataclass(frozen=True)
class Place:
    """The paths of a SQLite database.

    `link` is the path of the config. `file` is the real database, alone with its side files in `file.parent`. `folder`
    is the cluster's; its owner, and any user who can write to it, controls the cluster anyway.
    """

    link: Path
    file: Path
    folder: Path

    @property
    def address(self) -> str:
        """The path as workers get it; in a URL some characters of a path would have another meaning."""
        return str(self.file)

    def address_under(self, directory: str) -> str:
        """Return the path for a container in which the database's directory is mounted at `directory`."""
        return f"{directory}/{self.file.name}"

    @property
    def incoming(self) -> "Place":
        return replace(self, file=self.file.with_name(self.file.name + INCOMING))


@contextmanager
def opened(where: Place, owner: Owner, make: bool = False) -> Iterator[Directory]:
    """Open the database's directory.

    Raise FileNotFoundError if it is missing, and UnsafeFile if a stranger owns it or can replace it.
    """
    with _open_parent(where) as parent:
        directory = parent.child(where.file.parent.name, make=make, owner=owner)
    with directory:
        yield directory


def exists(where: Place, owner: Owner) -> bool:
    """Return whether the database exists; raise UnsafeFile if something else is in its place."""
    try:
        with opened(where, owner) as directory:
            directory.owners = {*directory.owners, os.geteuid(), 0}
            directory.check(where.file.name)
    except FileNotFoundError:
        return False
    return True


def link_exists(where: Place) -> bool:
    """Return whether the link exists; raise UserError if it is a stranger's or points elsewhere."""
    with _open_link_folder(where) as parent:
        found = parent.lstat(where.link.name)
        if found is None or not stat.S_ISLNK(found.st_mode):
            return False
        if found.st_uid not in parent.owners:
            raise UnsafeFile(
                str(where.link), f"is a link that belongs to {who(found.st_uid)}; remove it, or choose another place"
            )
        target = Path(os.path.abspath(where.link.parent / os.readlink(where.link.name, dir_fd=parent.descriptor)))
    if target != where.file:
        raise UserError(f"{where.link} is a link to {target}; remove it, or name that file as stats-dir")
    return True


def make_link(where: Place) -> None:
    with _open_link_folder(where) as parent, contextlib.suppress(FileExistsError):
        os.symlink(os.path.relpath(where.file, where.link.parent), where.link.name, dir_fd=parent.descriptor)


def has_file_at_link(where: Place, owner: Owner) -> bool:
    """Return whether a file exists at the link's place; raise UserError for anything but a trusted file."""
    with _open_link_folder(where) as parent:
        found = parent.lstat(where.link.name)
        if found is None:
            return False
        if not stat.S_ISREG(found.st_mode):
            raise UserError(f"{where.link} is not a file; stats-dir names the database file itself")
        parent.owners = {*parent.owners, owner.uid}
        parent.check(where.link.name)
    return True


def fix_owners(where: Place, owner: Owner) -> list[str]:
    """Give each existing file of the database to the workers' user.

    A file made by root would be read-only to uid 10001. A file that may not be given to that user is cleared away;
    return a note for each.
    """
    notes = []
    trusted_uids = {os.geteuid(), 0, owner.uid, os.stat(where.folder).st_uid}
    with contextlib.suppress(FileNotFoundError), opened(where, owner) as directory:
        for name in (where.file.name + suffix for suffix in SIDE_FILES):
            try:
                _ensure_owner(directory, name, owner, trusted_uids)
            except UnsafeFile as error:
                directory.clear(name)
                notes.append(f"{where.file.with_name(name)} {error.what.partition(';')[0]}: moved aside")
    return notes


def make_empty(where: Place, owner: Owner) -> None:
    """Create the directory and an empty file if they are missing; both belong to the workers' user."""
    with opened(where, owner, make=True) as directory:
        file = directory.append(where.file.name)
        try:
            if os.fstat(file).st_uid != owner.uid:
                os.fchown(file, owner.uid, owner.gid)
        finally:
            os.close(file)


def rotate(where: Place, owner: Owner) -> Path:
    """Give the database and its side files another name that is not in use."""
    with opened(where, owner) as directory:
        stamp, number = rotated_name(where.file.name), 1
        rotated = stamp
        while any(directory.lstat(rotated + suffix) is not None for suffix in SIDE_FILES):
            number += 1
            rotated = f"{stamp}.{number}"
        _move(directory, where.file.name, directory, rotated)
    return where.file.with_name(rotated)


def rotated_name(name: str, seconds: float = 0.0) -> str:
    """Return the name of a database that is renamed these seconds from now."""
    return f"{name}.{time.strftime('%Y%m%d-%H%M%S', time.localtime(time.time() + seconds))}"


@contextmanager
def moved_in(where: Place, owner: Owner) -> Iterator[None]:
    """Move a database found at the link's place into the directory as `Place.incoming` during the body.

    There it can be checked where only its workers can change it. It becomes the database if the body succeeds, and
    otherwise is moved back unchanged.
    """
    incoming = where.incoming.file.name
    with _open_link_folder(where) as parent, opened(where, owner, make=True) as directory:
        parent.owners = {*parent.owners, owner.uid}
        original = parent.check(where.link.name)
        trusted_uids = {os.geteuid(), owner.uid, original.st_uid}
        _move(parent, where.link.name, directory, incoming)
        try:
            for name in (incoming + suffix for suffix in SIDE_FILES):
                if not _change_owner(directory, name, owner, trusted_uids):
                    directory.clear(name)
            yield
        except BaseException:
            for name in (incoming + suffix for suffix in SIDE_FILES):
                _change_owner(directory, name, Owner(original.st_uid, original.st_gid), trusted_uids)
            _move(directory, incoming, parent, where.link.name)
            raise
        if any(directory.lstat(where.file.name + suffix) is not None for suffix in SIDE_FILES):
            # Side files alone are renamed too, because SQLite would use them for the database that is moved in.
            rotate(where, owner)
        _move(directory, incoming, directory, where.file.name)


def _open_parent(where: Place) -> Directory:
    """Open the parent of the database's directory, after a check that no other user can swap it."""
    above = where.file.parent.parent
    if STATE_FOLDER in above.parts:
        return Directory.of(above)
    _require_safe_path(where)
    return Directory.opened(os.path.realpath(above))


def _open_link_folder(where: Place) -> Directory:
    """Open the directory of the link."""
    _require_safe_path(where)
    return Directory.opened(os.path.realpath(where.link.parent))


def _require_safe_path(where: Place) -> None:
    """Raise UnsafeFile if another user can rename a directory of the path.

    The engine mounts the directory into containers by its path.
    """
    trusted = {0, os.geteuid(), os.stat(where.folder).st_uid, os.stat("/").st_uid}
    own_parents = {
        *_with_parents(Path(os.path.abspath(where.folder))),
        *_with_parents(Path(os.path.realpath(where.folder))),
    }
    above = {
        *_with_parents(Path(os.path.abspath(where.link.parent))),
        *_with_parents(Path(os.path.realpath(where.link.parent))),
    }
    for each in sorted(above - own_parents):
        try:
            found = os.lstat(each)
        except OSError as error:
            error.filename = str(where.link.parent)
            raise
        if found.st_uid not in trusted:
            raise UnsafeFile(
                str(each),
                f"belongs to {who(found.st_uid)}, who could swap the database; choose another place for stats-dir",
            )
        if stat.S_ISDIR(found.st_mode) and _writable_by_others(found):
            what = "other users may write to it, and could swap the database"
            raise UnsafeFile(str(each), f"{what}; choose another place for stats-dir, or: chmod go-w {each}")


def _with_parents(path: Path) -> tuple[Path, ...]:
    return (path, *path.parents)


def _writable_by_others(found: os.stat_result) -> bool:
    if found.st_mode & stat.S_ISVTX:
        return False
    return bool(found.st_mode & stat.S_IWOTH) or bool(
        found.st_mode & stat.S_IWGRP and not _is_private(found.st_gid, found.st_uid)
    )


def _is_private(gid: int, uid: int) -> bool:
    """Return whether the user is the only member of the group.

    Many systems give each user a group of this kind, and let it write.
    """
    try:
        name = pwd.getpwuid(uid).pw_name
        others = {*grp.getgrgid(gid).gr_mem} - {name}
    except KeyError:
        return gid == uid
    return not others and all(entry.pw_gid != gid or entry.pw_uid == uid for entry in pwd.getpwall())


def _ensure_owner(directory: Directory, name: str, owner: Owner, trusted_uids: Collection[int]) -> None:
    """Give an existing file to the owner; raise UnsafeFile if it is no file of one of the `known` users."""
    try:
        directory.check(name)
    except UnsafeFile:
        if not _change_owner(directory, name, owner, trusted_uids):
            raise
    except FileNotFoundError:
        return


def _change_owner(directory: Directory, name: str, owner: Owner, trusted_uids: Collection[int]) -> bool:
    """Change the owner of a file that belongs to one of the `known` users; return False where it may not be changed.

    The ownership cannot be forged, but a second name of root's file could be planted. Unless the kernel refuses such
    links (proc_sys_fs(5), protected_hardlinks), no file of root's is given away.
    """
    before = directory.owners
    directory.owners = {uid for uid in trusted_uids if uid != 0 or owner.uid == 0 or _links_are_protected()}
    try:
        file = directory.open(name)
    except FileNotFoundError:
        return True
    except UnsafeFile:
        return False
    finally:
        directory.owners = before
    try:
        if os.fstat(file).st_uid != owner.uid:
            os.fchown(file, owner.uid, owner.gid)
    finally:
        os.close(file)
    return True


def _links_are_protected() -> bool:
    try:
        return _HARD_LINKS.read_text().strip() == "1"
    except OSError:
        return False


def _move(source: Directory, name: str, target: Directory, new: str) -> None:
    """Move a database with its side files.

    The file itself is moved last, so that a move that fails leaves it where it was.
    """
    for suffix in (*SIDE_FILES[1:], ""):
        try:
            source.rename(name + suffix, new + suffix, target)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno == errno.EXDEV:
                raise UnsafeFile(
                    source.path, f"is on another filesystem than {target.path}; move {name} there by hand"
                ) from None
            raise
