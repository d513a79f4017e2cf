"""Ensures that only one supervisor at a time runs a cluster.

The lock is a flock(2), which the kernel releases however its holder dies.

Two locks are taken: first that of the cluster's folder, then that of `.comet/lock`. The file may be removed while its
holder lives; the folder holds the config and stays. Removing the file therefore does not let a second supervisor start.
The folder's lock alone is not enough, because every user who can read the folder can lock it, which must not prevent a
start. A start goes on without the folder's lock if several polls in a row find the same strangers holding it. This
process then has only the file's lock. In that case, processes that hold a removed lock file are searched for as well,
and the holder locks the folder as soon as it can.

The kernel reports which process holds a lock (/proc/locks and /proc/PID/fdinfo). The PID written in the file is not
used for that; it is for people, and for a successor's message. A lock outlives its taker in processes that inherited
the descriptor. They are no supervisors, and the file is then replaced.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakSet

from comet.common.errors import UserError
from comet.host import file_locks, files, process_identity
from comet.host.process_identity import Handle
from comet.state.lock_holders import Holder, holder_of, holds_file, strangers, supervisor

if TYPE_CHECKING:
    from comet.state.directory import Cluster

RETRY_DURATION = 2.0
"""Seconds for which a lock that no supervisor holds is tried after the caller's timeout."""

DEATH_TIMEOUT = 10.0
"""Seconds that a supervisor which was killed may take to end: on a busy machine, or with much memory to give back."""

MIN_POLLS = 45
"""Polls before a lock is given up, however long they take: a process that does not get to run has tried nothing.

They suffice to find the strangers of both locks.
"""

RETRY_PAUSE = 0.01

MAX_STRANGER_POLLS = 8
"""Polls in a row that find the same strangers holding a lock, after which they count as its holders.

Then the lock is not held by a supervisor.
"""


class _StrangerStreak:
    """The number of polls in a row that found the same strangers, as (inode, PID)."""

    def __init__(self) -> None:
        self._strangers: frozenset[tuple[int, int]] = frozenset()
        self._count = 0

    def add(self, strangers: frozenset[tuple[int, int]]) -> None:
        same = self._strangers & strangers
        self._count = self._count + 1 if same else min(len(strangers), 1)
        self._strangers = same or strangers

    @property
    def is_long(self) -> bool:
        return self._count > MAX_STRANGER_POLLS

    def __bool__(self) -> bool:
        return self._count > 0


_LOCKS: "WeakSet[Lock]" = WeakSet()
"""The locks of this process."""


class Lock:
    """The lock of one cluster."""

    def __init__(self, cluster: "Cluster") -> None:
        self._cluster = cluster
        self._path = cluster.path("lock")
        self._folder: int | None = None
        self._file: int | None = None
        self._has_folder = False
        self._folder_strangers, self._file_strangers = _StrangerStreak(), _StrangerStreak()
        self.former: int | None = None
        """PID of a supervisor that had the lock before this one and died without releasing it.

        It is known once the lock is acquired.
        """
        _LOCKS.add(self)

    def acquire(self, timeout: float = 0.3) -> bool:
        """Try to take the lock for `timeout` seconds and return whether this process has it.

        One attempt is not enough, because a process that only checks the lock (`holder`) has it for a moment. Raise
        UserError if the process that holds it is not visible, or if what blocks the lock cannot be removed.
        """
        deadline = time.monotonic() + timeout
        self._folder_strangers, self._file_strangers = _StrangerStreak(), _StrangerStreak()
        polls = 0
        while True:
            polls += 1
            # All take the folder first. If two processes each had one of the locks, both would wait for the other.
            if (
                (self._take_folder() or self._folder_strangers.is_long)
                and self._take_file()
                and self._find_displaced_holder() is None
            ):
                return self._on_acquired()
            overtime = time.monotonic() - deadline
            if overtime > 0:
                is_last = overtime > RETRY_DURATION and polls >= MIN_POLLS
                found = self.find_holder()
                if found is not None and process_identity.is_being_killed(found.pid):
                    found = self.lasting_holder()
                    deadline, is_last = time.monotonic(), False  # What it leaves behind is tried as long as usual.
                if found is not None or (is_last and not self._folder_strangers and not self._file_strangers):
                    self.release()
                    return False
                if is_last:
                    self.release()
                    raise UserError(f"{self._path}: cannot be locked; remove it, and try again")
                self._find_strangers()
            time.sleep(RETRY_PAUSE)

    def lasting_holder(self) -> Holder | None:
        """Return the supervisor that holds the lock; the end of one that has been killed is waited for.

        Return that too if it has not ended after DEATH_TIMEOUT seconds.
        """
        deadline = time.monotonic() + DEATH_TIMEOUT
        while (found := self.find_holder()) is not None and process_identity.is_being_killed(found.pid):
            if time.monotonic() > deadline:
                break
            time.sleep(RETRY_PAUSE)
        return found

    def holder(self) -> int | None:
        """Return the PID of the supervisor that holds the lock, or None."""
        found = self.find_holder()
        return found.pid if found is not None else None

    def find_holder(self) -> Holder | None:
        """Return the supervisor that holds the lock, or None.

        Raise UserError if it is held by a process that is not visible from here.
        """
        for path, ours in ((self._path, self._file is not None), (self._cluster.folder, self._has_folder)):
            with contextlib.suppress(OSError), self._opened(path) as descriptor:
                found = None if ours else holder_of(descriptor, str(path), path == self._path)
                if found is not None:
                    return found
        return self._find_displaced_holder()

    def handle(self) -> Handle | None:
        """Return a handle for signals to the supervisor that holds the lock, or None.

        Once its pidfd is open, the check is repeated that this process is the holder.
        """
        found = self.find_holder()
        return None if found is None else Handle.of(found.pid, found.birth, lambda pid: self.find_holder() == found)

    def repair(self) -> bool:
        """Create the lock file again if it is gone or replaced; called by the holder.

        Return False if another supervisor has locked the file that is there now.
        """
        if self._file is None:
            return False
        self._take_folder()
        if not self._is_in_place():
            with contextlib.suppress(OSError, UserError):
                file = self._open()
                if not file_locks.take(file):
                    os.close(file)
                    return False
                os.close(self._file)
                self._file = file
        self._write_pid()
        return True

    @property
    def is_ours(self) -> bool:
        """Whether this process holds the lock and no other supervisor can.

        This process may then remove what the lock protects.
        """
        return self._file is not None and (self._has_folder or self._is_in_place())

    def release(self) -> None:
        if self._file is not None:
            os.truncate(self._file, 0)
            os.close(self._file)
            self._file = None
        if self._folder is not None:
            os.close(self._folder)
            self._folder, self._has_folder = None, False

    def _take_folder(self) -> bool:
        """Try to lock the folder.

        The descriptor stays open even if another process has the lock, because it shows others which cluster this
        process belongs to (`_find_displaced_holder`).
        """
        if self._folder is None:
            try:
                self._folder = os.open(self._cluster.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError:
                # A folder that may be entered but not read cannot be locked; the file's lock alone is used.
                return True
        self._has_folder = self._has_folder or file_locks.take(self._folder)
        return self._has_folder

    def _take_file(self) -> bool:
        if self._file is None:
            file = self._open()
            if not file_locks.take(file):
                os.close(file)
                return False
            self._file = file
        if not self._is_in_place():  # The file was removed while it was being locked.
            os.close(self._file)
            self._file = None
        return self._file is not None

    def _find_strangers(self) -> None:
        """Record the strangers that hold a missing lock, and remove a lock file that is theirs."""
        if self._has_folder or self._folder_strangers.is_long:
            path, streak = self._path, self._file_strangers
        else:
            path, streak = self._cluster.folder, self._folder_strangers
        with contextlib.suppress(FileNotFoundError), self._opened(path) as descriptor:
            streak.add(strangers(descriptor))
        if self._file_strangers.is_long:
            self._replace()
            self._file_strangers = _StrangerStreak()

    def _find_displaced_holder(self) -> Holder | None:
        """Return the supervisor of this cluster that holds a lock file that is no longer in its place."""
        try:
            folder = os.stat(self._cluster.folder)
        except OSError:
            return None
        ours = os.fstat(self._file).st_ino if self._file is not None else None
        for pid in dict.fromkeys(lock.pid for lock in file_locks.all_locks() if lock.inode != ours):
            found = supervisor(pid, folder)
            if found is None:
                continue
            # This process may lock other files of that name, and has the folder open in any case.
            is_own = pid == os.getpid()
            if any(each._displaces(folder, ours) for each in _LOCKS) if is_own else holds_file(pid, folder, ours):
                return found
        return None

    def _displaces(self, folder: os.stat_result, excluded: int | None) -> bool:
        """Return whether this lock is that of the folder, on another file than the inode `excluded`."""
        if self._file is None or self._folder is None or os.fstat(self._file).st_ino == excluded:
            return False
        return os.path.samestat(os.fstat(self._folder), folder)

    @contextlib.contextmanager
    def _opened(self, path: Path) -> Iterator[int]:
        """Open the lock file or the folder to check it."""
        descriptor = (
            files.open_read(path) if path == self._path else os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        )
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _on_acquired(self) -> bool:
        assert self._file is not None
        former = os.pread(self._file, 32, 0).strip()
        self.former = int(former) if former.isdigit() and process_identity.is_possible_pid(int(former)) else None
        self._write_pid()
        return True

    def _write_pid(self) -> None:
        """Write this process's PID into the file, for people."""
        assert self._file is not None
        content = f"{os.getpid()}\n".encode()
        with contextlib.suppress(OSError):  # The disk may be full.
            if os.pread(self._file, 32, 0) != content:
                os.truncate(self._file, 0)
                os.pwrite(self._file, content, 0)

    def _is_in_place(self) -> bool:
        assert self._file is not None
        try:
            return os.path.samestat(os.fstat(self._file), os.lstat(self._path))
        except OSError:
            return False

    def _open(self) -> int:
        """Open the lock file and create it if it is missing; an entry that is no file is cleared away."""
        try:
            return files.append(self._path, flags=os.O_RDWR)
        except FileNotFoundError:
            self._cluster.create()
            return files.append(self._path, flags=os.O_RDWR)

    def _replace(self) -> None:
        """Remove the file, which is locked, but not by a supervisor."""
        try:
            files.remove(self._path)
        except OSError as error:
            raise UserError(f"{self._path}: cannot be removed: {error.strerror}; remove it by hand") from None
