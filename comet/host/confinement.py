"""Starts processes as another user, without capabilities and with access only to what they need.

A thread's children inherit what the thread gives up (prctl(2), capset(2)) and the mounts that it sees (unshare(2),
mount(2)). Other threads are not affected. Each process is therefore forked from a thread of its own.

Where necessary, that thread first leaves Comet's view of the file system: a user other than root cannot enter `.comet/`
(mode 0700), and perhaps not root's home directory, which may hold the interpreter. A capability that passes every
directory would also allow reading every file of the host. Instead, the thread covers the topmost directory that is
closed to the user with an empty one, in a mount namespace of the process, and mounts what the process needs there under
its usual path. Paths stay the same. Everything else below the closed directory does not exist for the process.
"""

import ctypes
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from comet.common.errors import UserError
from comet.common.file_checks import Owner

Mount = tuple[str, str, bool]
"""A path that a process needs, the path under which it sees it (the same one), and whether it may only read there."""

Entry = tuple[str, str | bool]
"""What exists at a path: a link (its target), or a mount (whether it is read-only)."""

CLONE_NEWNS = 0x20000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_SLAVE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 19
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, PR_CAP_AMBIENT_CLEAR_ALL = 47, 1, 4
CAPABILITY_VERSION = 0x20080522
CAP_SETPCAP = 8
READ_ALL = (1, 2)
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH."""
READ, EXECUTE = 4, 1
"""Permission bits of a file's mode; on a directory, EXECUTE is the right to pass through it."""

MAX_LINKS = 40
"""The number of symbolic links that the kernel follows in one path."""

_libc = ctypes.CDLL(None, use_errno=True)


def spawn(argv: Iterable[str], owner: Owner, needs: Collection[Mount] = (), **options: Any) -> "subprocess.Popen[Any]":
    """Return `subprocess.Popen(argv, **options)`, run as `owner` with access to what it `needs`.

    Raise UserError with the reason where that is not possible. If `owner` is root, the process keeps root's rights;
    only a config that names root asks for that.
    """
    made: list[subprocess.Popen[Any]] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            if os.getuid() == 0 and owner.uid != 0:
                _enter(needs, owner)
            elif owner.uid != 0 and not _needs_rights(needs, owner):
                _drop_capabilities()
            made.append(subprocess.Popen([*_identity(owner), *argv], **options))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work, name="spawn")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return made[0]


def run(
    argv: Iterable[str], owner: Owner, needs: Collection[Mount], input: str, timeout: float, **options: Any
) -> tuple[int, str, str]:
    """Run a command to its end as `owner` and return (exit code, output, errors).

    Raise subprocess.TimeoutExpired if it was killed after `timeout` seconds.
    """
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with spawn(argv, owner, needs, text=True, **pipes, **options) as process:
        try:
            output, errors = process.communicate(input, timeout)
        except BaseException:
            process.kill()
            raise
    return process.returncode, output, errors


def _identity(owner: Owner) -> tuple[str, ...]:
    """Return the words that make a command line run as the owner, without supplementary groups.

    Unless the owner is root, the command has no capabilities either. Popen's own `user` option would fork the
    supervisor with its page tables, which takes ten times as long as executing one more program.
    """
    if (owner.uid, owner.gid) == (os.getuid(), os.getgid()):
        return ()
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise UserError("workers as processes of another user need setpriv; install util-linux, or do not run as root")
    rights = (
        () if owner.uid == 0 else ("--no-new-privs", "--inh-caps=-all", "--ambient-caps=-all", *_BOUNDED[_may_bound()])
    )
    return (setpriv, f"--reuid={owner.uid}", f"--regid={owner.gid}", "--clear-groups", *rights, "--")


# Rights


def _needs_rights(needs: Collection[Mount], owner: Owner) -> bool:
    """Return whether only an ambient capability lets this user reach what is needed.

    That is an ordinary user who was given the right to read everything.
    """
    if os.getuid() == 0 or not any(
        _libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, right, 0, 0) == 1 for right in READ_ALL
    ):
        return False
    return any(obstacle(path, owner, READ) is not None for path, _, _ in needs)


def _drop_capabilities() -> None:
    """Drop this thread's rights, so that its children inherit none and gain none by what they execute."""
    _checked("prctl", _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    sets = _capabilities()
    sets[2] = sets[5] = 0
    _libc.capset(_header(), sets)


_BOUNDED: dict[bool, tuple[str, ...]] = {True: ("--bounding-set=-all",), False: ()}


def _may_bound() -> bool:
    """Return whether the bounding set may be changed; root in a container may not."""
    return bool(_capabilities()[0] & 1 << CAP_SETPCAP)


def _header() -> Any:
    return (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)


def _capabilities() -> Any:
    """Return this thread's effective, permitted and inheritable capabilities.

    The lower 32 bits of each of the three come first, then the upper ones.
    """
    sets = (ctypes.c_uint32 * 6)()
    _libc.capget(_header(), sets)
    return sets


# Paths


def interpreter() -> tuple[Mount, ...]:
    """Return what this Python interpreter needs to run, wherever it is installed, with its installed packages."""
    prefixes = (sys.base_prefix, sys.base_exec_prefix, sys.prefix, sys.exec_prefix)
    return tuple((path, path, True) for path in dict.fromkeys((sys.executable, *prefixes)))


@dataclass(frozen=True)
class PathTrail:
    """The symbolic links that the kernel follows on a path, as (place, target), and the path where it ends."""

    links: tuple[tuple[str, str], ...]
    end: str

    @property
    def places(self) -> Iterator[str]:
        yield from (place for place, _ in self.links)
        yield self.end


def trail(path: str) -> PathTrail:
    """Return the trail of a path; raise OSError if the path leads nowhere."""
    links: list[tuple[str, str]] = []
    current, waiting = "/", path.split("/")[::-1]
    while waiting:
        part = waiting.pop()
        if part in ("", "."):
            continue
        if part == "..":
            current = os.path.dirname(current)
            continue
        following = os.path.join(current, part)
        if not stat.S_ISLNK(os.lstat(following).st_mode):
            current = following
            continue
        target = os.readlink(following)
        links.append((following, target))
        if len(links) > MAX_LINKS:
            raise OSError(f"{path}: too many symbolic links")
        waiting += target.split("/")[::-1]
        current = "/" if target.startswith("/") else current
    return PathTrail(tuple(links), current)


def grants(found: os.stat_result, owner: Owner, right: int) -> bool:
    """Return whether a file's mode gives this user, who is in no other group, a right (READ, EXECUTE)."""
    if owner.uid == 0:
        return True
    shift = 6 if found.st_uid == owner.uid else 3 if found.st_gid == owner.gid else 0
    return bool(found.st_mode >> shift & right)


def barrier(path: str, owner: Owner) -> str | None:
    """Return the topmost directory above this place that is closed to the user, or None."""
    folders = _with_parents(os.path.dirname(path))
    return next((folder for folder in folders if not grants(os.stat(folder), owner, EXECUTE)), None)


@lru_cache
def _with_parents(folder: str) -> tuple[str, ...]:
    """Return a directory and those above it, topmost first; the same few are asked for every second."""
    return (*map(str, reversed(Path(folder).parents)), folder)


def denies_access(pid: int, needs: Collection[Mount], owner: Owner) -> bool:
    """Return whether a directory closed after this process started keeps it from what it needs.

    Its view of the file system has no cover there.
    """
    try:
        folders = dict.fromkeys(folder for path, _, _ in needs for folder in _with_parents(os.path.dirname(path)))
        return not all(grants(os.stat(f"/proc/{pid}/root{folder}"), owner, EXECUTE) for folder in folders)
    except OSError:
        return False  # The process has ended, or what it needs was removed.


def obstacle(path: str, owner: Owner, right: int) -> str | None:
    """Return the directory or file that keeps the user from an existing path, or None.

    It is either a directory on the way to the path or the path's target.
    """
    walked = trail(path)
    for place in walked.places:
        closed = barrier(place, owner)
        if closed is not None:
            return closed
    return None if grants(os.stat(walked.end), owner, right) else walked.end


# View


def _enter(needs: Collection[Mount], owner: Owner) -> None:
    """Make what is needed reachable for this thread and its children.

    What is open to the user anyway stays as it is.
    """
    for path, _, _ in needs:
        end = trail(path).end
        found = os.stat(end)
        if not grants(found, owner, READ) or (stat.S_ISDIR(found.st_mode) and not grants(found, owner, EXECUTE)):
            raise UserError(
                f"{end}: uid {owner.uid}, as which workers run, may not read it (change its mode or its owner)"
            )
    for round in range(MAX_LINKS):
        covers: dict[str, list[Entry]] = {}
        for path, _, read_only in needs:
            walked = trail(path)
            entries: list[Entry] = [*walked.links, (walked.end, read_only)]
            for entry in entries:
                cover = barrier(entry[0], owner)
                if cover is not None:
                    covers.setdefault(cover, []).append(entry)
        if not covers:
            return
        if round == 0:
            _own_view()
        for cover, within in covers.items():
            _cover(cover, within)  # A mount may hold another closed directory, which the next round covers.


def _own_view() -> None:
    try:
        _checked("unshare", _libc.unshare(CLONE_NEWNS))
        # An unmount on the host takes effect here too, but mounts made here never appear on the host.
        _mount("none", "/", None, MS_REC | MS_SLAVE)
    except OSError as error:
        raise UserError(
            "workers as processes of another user need a mount namespace, which this system refuses "
            f"({error.strerror}): "
            "give Comet CAP_SYS_ADMIN (docker run --privileged), or do not run it as root"
        ) from None
    os.umask(0o022)  # This thread has its own umask from here on (unshare(2), CLONE_FS).


def _cover(cover: str, entries: Iterable[Entry]) -> None:
    """Cover a closed directory with an empty one and create the entries in it."""
    held: dict[str, tuple[int, bool]] = {}
    links: dict[str, str] = {}
    try:
        for place, entry in entries:
            if isinstance(entry, str):
                links[place] = entry
            elif place not in held:
                held[place] = (os.open(place, os.O_PATH | os.O_CLOEXEC), entry)
        _mount("tmpfs", cover, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=64k")
        for place, (descriptor, read_only) in sorted(held.items()):
            above = [held[folder][1] for folder in map(str, Path(place).parents) if folder in held]
            if not above or (above[0] and not read_only):
                _show(place, descriptor, read_only)
        for place, target in links.items():
            if not os.path.lexists(place):
                os.makedirs(os.path.dirname(place), exist_ok=True)
                os.symlink(target, place)
        _limit(cover, MS_RDONLY)
    finally:
        for descriptor, _ in held.values():
            os.close(descriptor)


def _show(place: str, descriptor: int, read_only: bool) -> None:
    """Mount the file or directory of a descriptor at its own path."""
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        os.makedirs(place, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(place), exist_ok=True)
        os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    _mount(f"/proc/thread-self/fd/{descriptor}", place, None, MS_BIND)
    _limit(place, MS_RDONLY if read_only else 0)


def _limit(place: str, flags: int) -> None:
    """Remount a place without devices and set-user-ID programs.

    Existing restrictions are kept, because a user namespace requires that.
    """
    # In statvfs(3) these flags have the same values as in mount(2).
    kept = os.statvfs(place).f_flag & (MS_RDONLY | MS_NOEXEC)
    _mount("none", place, None, MS_REMOUNT | MS_BIND | MS_NOSUID | MS_NODEV | kept | flags)


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    words = [None if word is None else os.fsencode(word) for word in (source, target, kind)]
    result = _libc.mount(*words, ctypes.c_ulong(flags), None if data is None else data.encode())
    _checked(f"mount at {target}", result)


def _checked(what: str, result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
