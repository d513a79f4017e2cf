"""Represents a cluster by its folder, and manages its id and its sockets.

A cluster is the folder of its config file; two folders are two clusters. All state except the database lies in
`.comet/` (mode 0700) of that folder.

The id in `.comet/id` labels containers and marks processes (COMET_CLUSTER in their environment). It is bound to the
inode of `.comet/`, so that a moved folder keeps its id and a copied one gets a new id. Without its id a cluster would
not recognize its own replicas, so a second file, `.comet/id.spare`, holds the same content.

UNIX socket addresses end at 107 bytes (unix(7)), far below the longest path. Sockets in `.comet/` are therefore named
through an open descriptor of the directory: /proc/self/fd/<n>/<name>.
"""

import contextlib
import os
import re
import secrets
import socket
from pathlib import Path

from comet.common.errors import UserError, os_error_text
from comet.common.file_checks import Owner as Owner
from comet.host import files
from comet.host.files import STATE_FOLDER, Directory

WORKER_UID = 10001
"""User and group of the workers if the invoking user is root, because workers must not have root's rights."""

ID_FILES = ("id", "id.spare")
_DRAFT = re.compile(r"\..+\.[0-9a-f]{8}\.draft")
_ID = re.compile(r"([0-9a-f]{12}) (\d+)\s*")


def worker_owner() -> Owner:
    """Return the user that the workers run as: the invoking user, or 10001:10001 if that is root."""
    if os.getuid() == 0:
        return Owner(WORKER_UID, WORKER_UID)
    return Owner(os.getuid(), os.getgid())


class Cluster:
    """The cluster in `folder`; creating this object changes nothing, and `create` makes what is missing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / STATE_FOLDER
        self._directory: Directory | None = None
        self._base: Directory | None = None
        self._identity: str | None = None

    def path(self, *parts: str) -> Path:
        return self.state.joinpath(*parts)

    def create(self) -> None:
        """Create `.comet/` and its id; raise UserError if they cannot be written."""
        try:
            with self.hold().child(STATE_FOLDER, make=True) as state:
                state.chmod(0o700)
                for name in ("logs", "run"):
                    with state.child(name, make=True) as made:
                        made.chmod(0o700)
                        made.sweep(sockets=".sock")
                for name in filter(_DRAFT.fullmatch, state.names()):
                    state.remove(name)  # A killed process left this unfinished write.
            if self._read_any() is None:
                if self._identity is None:
                    self._disown()
                self._write_id(self._identity or secrets.token_hex(6), ID_FILES)
        except UserError:
            raise
        except OSError as error:
            raise UserError(f"{self.state}: cannot be written: {os_error_text(error)}") from None

    def hold(self) -> Directory:
        """Keep using the folder that is there now, even if it is renamed and another cluster takes its place."""
        if self._base is None:
            self._base = files.hold(self.folder)
        return self._base

    @property
    def present(self) -> Path:
        """The present path of the folder."""
        return self.folder if self._base is None else Path(os.readlink(self._base.address))

    def displaced(self) -> str | None:
        """Return one line that says that the folder is not where it was at first; None while it is.

        Open files and sockets keep working, but nothing can be reached by the folder's path, which also holds for
        workers.
        """
        if self._base is None:
            return None
        try:
            found = os.stat(self.folder)
        except OSError:
            found = None
        held = self._base.status
        if found is not None and (found.st_dev, found.st_ino) == (held.st_dev, held.st_ino):
            return None
        now = str(self.present)
        if now.endswith(" (deleted)"):
            return f"the cluster's folder {self.folder} was removed: stop the cluster"
        return (
            f"the cluster's folder was renamed from {self.folder} to {now}: rename it back, or stop the "
            "cluster and start it there"
        )

    def require_in_place(self) -> None:
        """Raise UserError if the folder was renamed or removed."""
        displaced = self.displaced()
        if displaced is not None:
            raise UserError(displaced)

    def follow(self) -> None:
        """Use the present path of the folder from now on."""
        if self._base is not None and self.displaced() is not None:
            self.folder = self.present
            self.state = self.folder / STATE_FOLDER

    def _disown(self) -> None:
        """Remove the saved state of another cluster's replicas.

        It does not apply to a new cluster whose folder is a copy of the other one's.
        """
        for name in ("state.json", "state.json.spare"):
            files.remove(self.path(name))

    @property
    def id(self) -> str | None:
        """The cluster's id, 12 hex digits.

        It is None where there is none, or where `.comet/` is a copy of another cluster's.
        """
        return self._identity or self._read_any()

    @property
    def mark(self) -> str:
        """The folder's inode and path, by which its processes and containers are known if `.comet/` is lost.

        If the folder was moved, the inode identifies it. On another machine the inode means nothing, and the path
        identifies it.
        """
        return f"{self._status().st_ino}:{os.path.realpath(self.folder)}"

    def _status(self) -> os.stat_result:
        return os.stat(self.folder) if self._base is None else self._base.status

    def is_marked(self, mark: str) -> bool:
        """Return whether this mark is that of this cluster; a folder that does not exist has none."""
        inode, _, path = mark.partition(":")
        try:
            own = self._status().st_ino
        except OSError:
            return False
        if inode != str(own):
            return False
        try:
            return path == os.path.realpath(self.folder) or os.stat(path).st_ino != own
        except (OSError, ValueError):
            return True  # Nothing exists at the mark's path, so the folder was moved.

    def keep_id(self, identity: str) -> None:
        """Use this id whatever happens to its files, because living replicas are marked with it."""
        self._identity = identity

    def _read_any(self) -> str | None:
        written = next((each for each in map(self._read_id, ID_FILES) if each is not None), None)
        return written[0] if written is not None and written[1] == self._inode() else None

    def repair_id(self) -> tuple[str, ...]:
        """Rewrite those id files that are missing or invalid, and return the names of the invalid ones.

        Raise OSError if they cannot be written.
        """
        identity = self.id
        if identity is None:
            return ()
        unusable = tuple(name for name in ID_FILES if self._read_id(name) is None)
        broken = tuple(name for name in unusable if files.lstat(self.path(name)) is not None)
        self._write_id(identity, unusable)
        return broken

    def _read_id(self, name: str) -> tuple[str, str] | None:
        """Return the id and the inode that one of the files holds, or None."""
        try:
            found = _ID.fullmatch(files.read_text(self.path(name), limit=1000))
        except (OSError, ValueError):
            return None
        return (found[1], found[2]) if found is not None else None

    def _write_id(self, identity: str, names: tuple[str, ...]) -> None:
        for name in names:
            files.write(self.path(name), f"{identity} {self._inode()}\n")

    def _inode(self) -> str:
        return str(os.lstat(self.state if self._base is None else f"{self._base.address}/{STATE_FOLDER}").st_ino)

    @property
    def run_address(self) -> str:
        """A short name of `.comet/run/`, however deep the folder lies; valid in this process only."""
        if self._directory is not None and not self._is_run(self._directory):
            self._directory.close()  # The directory was removed and created again.
            self._directory = None
        if self._directory is None:
            self._directory = Directory.of(self.path("run"))
        return self._directory.address

    def _is_run(self, directory: Directory) -> bool:
        try:
            found = files.lstat(self.path("run"))
        except OSError:
            return False
        return found is not None and os.path.samestat(directory.status, found)

    def socket_address(self, name: str) -> str:
        """Return the address of a UNIX socket in `.comet/run/`; it is valid in this process only."""
        return f"{self.run_address}/{name}"

    def clear_run(self) -> None:
        """Remove what only matters while replicas live: control sockets and counters."""
        with contextlib.suppress(FileNotFoundError), Directory.of(self.path("run")) as run:
            for leftover in run.names():
                run.remove(leftover)

    def listen(self, name: str) -> socket.socket:
        """Return a listening UNIX socket in `.comet/run/` that replaces one left by a dead process."""
        files.remove(self.path("run", name))
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
        """Connect to a UNIX socket in `.comet/run/`; raise OSError if no process listens."""
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        peer.settimeout(timeout)
        try:
            peer.connect(self.socket_address(name))
        except OSError:
            peer.close()
            raise
        return peer
