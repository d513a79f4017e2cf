"""A cluster is a folder: the config file's. All state that is not the database lies in `.comet/` (mode 0700) within it.

Two folders are two clusters. The id in `.comet/id` labels containers and marks processes (COMET_CLUSTER in their environment); it is
bound to the inode of `.comet/`, so that a moved folder keeps its id and a copied one gets an id of its own. Without its id a cluster would
not know its own replicas any more: a second file, `.comet/id.spare`, says the same.

UNIX socket addresses end at 107 bytes (unix(7)), far short of the longest path. Sockets in `.comet/` are therefore named through an
open descriptor of the directory: /proc/self/fd/<n>/<name>.
"""

import fcntl
import os
import re
import secrets
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from comet.errors import UserError

WORKER_UID = 10001
"""User and group of the workers where the invoking user is root, who must not lend them his rights."""

ID_FILES = ("id", "id.spare")
_ID = re.compile(r"([0-9a-f]{12}) (\d+)\s*")


@dataclass(frozen=True)
class Owner:
    """Who the workers run as."""

    uid: int
    gid: int


def worker_owner() -> Owner:
    """The invoking user; 10001:10001 when that is root."""
    if os.getuid() == 0:
        return Owner(WORKER_UID, WORKER_UID)
    return Owner(os.getuid(), os.getgid())


class Cluster:
    """The cluster in `folder`. Making this object touches nothing; `create` makes what is missing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / ".comet"
        self._directory: int | None = None

    def path(self, *parts: str) -> Path:
        return self.state.joinpath(*parts)

    def create(self) -> None:
        """Make `.comet/` and its id; raises UserError where that cannot be written."""
        try:
            self.state.mkdir(mode=0o700, exist_ok=True)
            self.state.chmod(0o700)
            for name in ("logs", "run"):
                self.path(name).mkdir(mode=0o700, exist_ok=True)
            if self.id is None:
                self._write_id(secrets.token_hex(6), ID_FILES)
        except OSError as error:
            raise UserError(f"{self.state}: cannot be written: {error.strerror}; free some space or mend its permissions") from None

    @property
    def id(self) -> str | None:
        """The cluster's id, 12 hex digits; None where there is none, or where `.comet/` is a copy of another cluster's."""
        written = next((each for each in map(self._read_id, ID_FILES) if each is not None), None)
        return written[0] if written is not None and written[1] == self._inode() else None

    def mend_id(self) -> tuple[str, ...]:
        """Write anew those files of the id that are missing or cannot be understood; returns the names of the latter. OSError: they
        cannot be written."""
        identity = self.id
        if identity is None:
            return ()
        unusable = tuple(name for name in ID_FILES if self._read_id(name) is None)
        broken = tuple(name for name in unusable if self.path(name).exists())
        self._write_id(identity, unusable)
        return broken

    def _read_id(self, name: str) -> tuple[str, str] | None:
        """Id and inode as one of the files has them."""
        try:
            found = _ID.fullmatch(self.path(name).read_text())
        except (OSError, ValueError):
            return None
        return (found[1], found[2]) if found is not None else None

    def _write_id(self, identity: str, names: tuple[str, ...]) -> None:
        for name in names:
            write_atomically(self.path(name), f"{identity} {self._inode()}\n")

    def _inode(self) -> str:
        return str(os.stat(self.state).st_ino)

    @property
    def run_address(self) -> str:
        """A name of `.comet/run/` that is short however deep the folder lies. Valid in this process only."""
        if self._directory is None:
            self._directory = os.open(self.path("run"), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._directory}"

    def socket_address(self, name: str) -> str:
        """The address of a UNIX socket in `.comet/run/`. Valid in this process only."""
        return f"{self.run_address}/{name}"

    def clear_run(self) -> None:
        """Remove what only matters while replicas live: control sockets, counters."""
        for leftover in self.path("run").glob("*"):
            leftover.unlink(missing_ok=True)

    def listen(self, name: str) -> socket.socket:
        """A listening UNIX socket in `.comet/run/`; one that a dead process left under this name is replaced."""
        self.path("run", name).unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(self.socket_address(name))
            listener.listen(64)
            listener.setblocking(False)
        except OSError:
            listener.close()
            raise
        return listener

    def connect(self, name: str, timeout: float = 2.0) -> socket.socket:
        """Connect to a UNIX socket in `.comet/run/`; OSError where nobody listens."""
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        peer.settimeout(timeout)
        try:
            peer.connect(self.socket_address(name))
        except OSError:
            peer.close()
            raise
        return peer


class Lock:
    """The right to supervise a cluster: an flock(2) on `.comet/lock`, which the kernel takes back however its holder dies."""

    def __init__(self, cluster: Cluster) -> None:
        self._path = cluster.path("lock")
        self._file: int | None = None
        self.former: int | None = None
        """PID of a supervisor that had the lock before us and died without giving it back; known once it is acquired."""

    def acquire(self, patience: float = 0.3) -> bool:
        """Whether the lock is ours now; it holds our PID for others to read. Somebody who only looks (`holder`) has it for a moment:
        within `patience` seconds it is tried again."""
        deadline = time.monotonic() + patience
        while not self._try():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def _try(self) -> bool:
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return False
        self.former = _pid(os.pread(file, 32, 0))
        os.truncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        self._file = file
        return True

    def holder(self) -> int | None:
        """PID of the supervisor that holds the lock; None where none does."""
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _pid(os.pread(file, 32, 0))
        finally:
            os.close(file)
        return None

    def release(self) -> None:
        if self._file is not None:
            os.truncate(self._file, 0)
            os.close(self._file)
            self._file = None


def _pid(content: bytes) -> int | None:
    """What a lock holds; None for nothing, and for what is no PID."""
    word = content.strip()
    return int(word) if word.isdigit() else None


def write_atomically(path: Path, content: str, mode: int = 0o600) -> None:
    """Replace a file by rename(2), so that a reader or a crash sees the old content or the new, never a part."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(file, "w") as stream:
            stream.write(content)
            os.fchmod(stream.fileno(), mode)
        os.replace(draft, path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
