"""Opens the SQLite file: checks it before any change, creates a missing one, refuses another program's in one line.

WAL needs the side files `-wal` and `-shm` in the file's directory, and every process must see the same three files, so
the whole directory is shared. Side files of a deleted database would damage the next one of that name. The worker that
recreates the database removes them first, under a lock on the directory, so that two workers never do this at the same
time.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sqlite3
import stat
import struct
import time
from collections.abc import Iterator
from urllib.parse import quote, unquote_to_bytes

from worker_app.common.errors import WorkerError
from worker_app.stats import layout

TIMEOUT = 10.0
"""Seconds a start or a command waits for other writers (SQLite's busy wait is unfair: it can take seconds)."""

EXAMPLE = "sqlite:////directory/file.db"
SIDE_FILES = ("-wal", "-shm")
JOURNAL = "-journal"

MAGIC = b"SQLite format 3\0"
"""The first bytes of the file (https://www.sqlite.org/fileformat2.html#the_database_header)."""

SHARED = 0x40000002
"""The first byte that readers lock (https://www.sqlite.org/src/file/src/os.h, SHARED_FIRST)."""

COOKIE = slice(40, 44)
"""Position of the schema cookie in the file, big-endian: PRAGMA schema_version."""

TABLES = (
    "CREATE TABLE comet_schema (version INTEGER NOT NULL)",
    "CREATE TABLE workers (id INTEGER NOT NULL, name VARCHAR(255) NOT NULL, first_started FLOAT NOT NULL, "
    "updated FLOAT NOT NULL, successful BIGINT NOT NULL, failed BIGINT NOT NULL, unplanned BIGINT NOT NULL, "
    "disconnected BIGINT NOT NULL, duration_us BIGINT NOT NULL, last_batch BIGINT NOT NULL, "
    "PRIMARY KEY (id), UNIQUE (name))",
    "CREATE TABLE latency (worker VARCHAR(255) NOT NULL, bucket INTEGER NOT NULL, count BIGINT NOT NULL, "
    "PRIMARY KEY (worker, bucket))",
    "CREATE TABLE injections (worker VARCHAR(255) NOT NULL, kind VARCHAR(32) NOT NULL, count BIGINT NOT NULL, "
    "PRIMARY KEY (worker, kind))",
    "CREATE TABLE counted_requests (worker VARCHAR(255) NOT NULL, id VARCHAR(255) NOT NULL, failed BOOLEAN NOT NULL)",
)
"""The tables of `worker_app.stats.schema` as SQLAlchemy would create them; a test keeps both the same.

To import SQLAlchemy takes longer than all else of a first start.
"""

Identity = tuple[int, int]
"""Device and inode."""

follow_links = True
"""Whether the database's path may be a symbolic link.

False for a command on the host: workers, also those in containers, can write to the folder. A link that one of them
puts there would lead the command, with all rights of its user, to any other file.
"""


def path_of(url: str) -> str:
    """Return the path in a `sqlite:///relative` or `sqlite:////absolute` URL after percent-decoding.

    WorkerError: another dialect, or no path.
    """
    dialect, separator, rest = url.partition("://")
    if not separator:
        raise WorkerError(f"COMET_DATABASE: not a database URL ({EXAMPLE})")
    if dialect.partition("+")[0] != "sqlite":
        raise WorkerError(f"COMET_DATABASE: {dialect} is not supported ({EXAMPLE})")
    file = os.fsdecode(unquote_to_bytes(rest.partition("?")[0].removeprefix("/")))
    if not rest.startswith("/") or "\0" in file or file in ("", ":memory:"):
        raise WorkerError(f"COMET_DATABASE: the URL contains no path ({EXAMPLE})")
    return os.path.abspath(file)


def identity(path: str) -> Identity | None:
    """Return the identity of the file at the path, or None if there is none."""
    found = status(path)
    return None if found is None else (found.st_dev, found.st_ino)


def status(path: str) -> os.stat_result | None:
    """Return the status of the file at the path, or None; never open it, since a close would drop SQLite's locks."""
    try:
        return os.stat(path, follow_symlinks=follow_links)
    except OSError:
        return None


def connect(path: str, timeout: float = TIMEOUT) -> sqlite3.Connection:
    """Connect to an existing file in autocommit mode (transactions use BEGIN); `timeout` is in seconds."""
    real = real_path(path)
    _require_regular(real)
    # A path may contain any byte, and SQLite decodes %HH. The empty host keeps a path with two slashes from naming one.
    target = quote(os.fsencode(real))
    connection = sqlite3.connect(
        f"file://{target}?mode=rw", uri=True, timeout=timeout, isolation_level=None, check_same_thread=False
    )
    try:
        if not follow_links and _opened_path(connection) != os.fsencode(real):
            raise sqlite3.OperationalError("a symbolic link, not the database itself")
        connection.execute("PRAGMA synchronous=NORMAL")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _opened_path(connection: sqlite3.Connection) -> bytes:
    """Return the path of the opened file, after SQLite has followed links; it has written nothing yet."""
    connection.text_factory = bytes
    path: bytes = connection.execute("PRAGMA database_list").fetchone()[2]
    connection.text_factory = str
    return path


def keep_side_files(file: int, on: bool) -> None:
    """Keep all connections of this process from removing side files, while this descriptor of the database is open.

    The last connection removes them when it is closed, if it can lock the whole file: a lock on one byte of the
    readers' range prevents that. The lock belongs to the descriptor, not to the process, so it also works against the
    process's own connections (fcntl_locking(2), F_OFD_SETLK).
    """
    lock = fcntl.F_RDLCK if on else fcntl.F_UNLCK
    fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", lock, os.SEEK_SET, SHARED, 1, 0))


def real_path(path: str) -> str:
    """Return the path with links resolved: always in the directory, in the last component only if `follow_links`."""
    if follow_links:
        return os.path.realpath(path)
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def _require_regular(real: str) -> None:
    """Raise sqlite3.OperationalError unless the path is a regular file, and one with one name unless links are allowed.

    The same goes for the side files, which are never links. SQLite would wait without end to open a FIFO that it may
    only read.
    """
    with contextlib.suppress(FileNotFoundError):
        status = os.stat(real) if follow_links else os.lstat(real)
        if not stat.S_ISREG(status.st_mode) or (status.st_nlink > 1 and not follow_links):
            raise sqlite3.OperationalError("a link or a special file, not the database itself")
    for side in _special_side_files(real):
        raise sqlite3.OperationalError(f"{os.path.basename(side)} is a link or a special file; remove it")


def _special_side_files(real: str) -> Iterator[str]:
    """Yield what is no file in the place of a side file: only another program can have put it there."""
    for side in (real + suffix for suffix in (*SIDE_FILES, JOURNAL)):
        with contextlib.suppress(OSError):
            if not stat.S_ISREG(os.lstat(side).st_mode):
                yield side


def prepare(
    path: str,
    stale: tuple[Identity, ...] = (),
    timeout: float = TIMEOUT,
    spoiled: Identity | None = None,
    holder: sqlite3.Connection | None = None,
) -> None:
    """Make sure that Comet's database is at the path, in WAL mode; wait at most about `timeout` seconds for others.

    `stale` are side files of a previous file at the path. `spoiled` is the file whose content was replaced while it was
    open, or whose side files were removed: in that case `holder` is a connection that still has them, and keeps others
    that have them from writing until it is closed.

    WorkerError: no directory, not writable, damaged, or another program's file, which is left unchanged.
    """
    deadline = time.monotonic() + timeout
    with _directory_lock(path, deadline):
        try:
            if spoiled is not None and identity(path) == spoiled:
                if holder is not None:
                    _write_back(holder, deadline)
                    _unlink_side_files(path)
                _replace_with_copy(path)
            _clear_side_files(path, stale)
            for side in _special_side_files(real_path(path)):
                with contextlib.suppress(IsADirectoryError):  # It may hold data, and the supervisor moves it aside.
                    os.unlink(side)
            if identity(path) is None:
                flags = os.O_CREAT | os.O_WRONLY | (0 if follow_links else os.O_NOFOLLOW | os.O_NONBLOCK)
                os.close(os.open(real_path(path), flags, 0o664))
            with contextlib.closing(connect(path, timeout)) as connection:
                if not is_current(connection):
                    _build(path, connection, timeout, deadline)
                # An empty transaction fails for the same reasons as a later commit.
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")
        except WorkerError as error:
            raise WorkerError(f"{path}: {error}") from None
        except (sqlite3.Error, OSError) as error:
            raise WorkerError(f"{path}: {explain(error, path)}") from None


MIN_FREE_BYTES = 256 << 10
"""Free bytes that SQLite needs to open a database."""


def explain(error: BaseException, path: str) -> str:
    """Return one line for the user that says what is wrong with the file."""
    original = getattr(error, "orig", None) or error
    reason = (original.strerror or str(original)) if isinstance(original, OSError) else str(original)
    if "not a database" in reason or "malformed" in reason:
        return f"damaged, or not a SQLite database ({reason}); move it away to start with empty statistics"
    if "readonly" in reason or isinstance(original, PermissionError) or "unable to open" in reason:
        return f"cannot be written by uid {os.geteuid()} ({reason}); SQLite needs to write the file and its directory"
    if "disk is full" in reason or ("disk I/O error" in reason and is_full(os.path.dirname(path) or ".")):
        return f"the disk is full ({reason}); free some space"
    if "locked" in reason:
        return "locked by another program for too long"
    return reason


def is_full(place: str | int) -> bool:
    """Return whether the file system of this path or descriptor is full.

    SQLite maps the WAL index, so a full disk may be an I/O error.
    """
    try:
        found = os.statvfs(place)
    except OSError:
        return False
    return found.f_blocks > 0 and found.f_bavail * found.f_frsize < MIN_FREE_BYTES


def is_current(connection: sqlite3.Connection) -> bool:
    """Return whether the tables exist, of the current version, in WAL mode: the case at almost every start."""
    try:
        version = connection.execute("SELECT version FROM comet_schema").fetchone()
        known = f"name IN ({','.join('?' * len(layout.TABLES))})"
        query = f"SELECT count(*) FROM sqlite_master WHERE type = 'table' AND {known}"  # nosec B608
        (present,) = connection.execute(query, layout.TABLES).fetchone()
    except sqlite3.OperationalError as error:
        if "no such table" not in str(error):
            raise
        return False
    complete = version == (layout.VERSION,) and present == len(layout.TABLES)
    return bool(complete and connection.execute("PRAGMA journal_mode").fetchone() == ("wal",))


def _build(path: str, connection: sqlite3.Connection, timeout: float, deadline: float) -> None:
    if _is_empty(connection):
        _use_wal(connection, deadline)
        connection.execute("BEGIN IMMEDIATE")
        if _is_empty(connection):
            for statement in TABLES:
                connection.execute(statement)
            connection.execute("INSERT INTO comet_schema (version) VALUES (?)", (layout.VERSION,))
        connection.execute("COMMIT")
        return
    # Importing SQLAlchemy takes half of a worker's start; only changing a database needs it.
    from worker_app.stats import schema

    engine = schema.sqlite_engine(lambda: connect(path, timeout))
    schema.check(engine)
    _use_wal(connection, deadline)
    schema.build(engine)


def _is_empty(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,))


def _use_wal(connection: sqlite3.Connection, deadline: float) -> None:
    while True:
        try:
            # The busy timeout does not apply to the switch to WAL.
            connection.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() >= deadline:
                raise
            time.sleep(0.02)


def _write_back(holder: sqlite3.Connection, deadline: float) -> None:
    """Write what the connection's WAL holds into the file, and keep all connections to that WAL from adding to it."""
    while True:
        (before,) = holder.execute("PRAGMA data_version").fetchone()
        _, frames, written = holder.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        holder.execute("BEGIN IMMEDIATE")
        # The version changes with each commit of another connection: there was none since the WAL was written back.
        if frames == written and holder.execute("PRAGMA data_version").fetchone() == (before,):
            return
        holder.execute("ROLLBACK")
        if time.monotonic() >= deadline:
            raise WorkerError("its WAL cannot be written back: locked by another program for too long")
        time.sleep(0.01)


def _unlink_side_files(path: str) -> None:
    for suffix in SIDE_FILES:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(real_path(path) + suffix)


def _replace_with_copy(path: str) -> None:
    """Replace the file with a copy of it: processes that have the old one open notice that, and stop writing to it."""
    real = real_path(path)
    copy = f"{real}.draft"
    try:
        shutil.copyfile(real, copy)
        shutil.copymode(real, copy)
        os.replace(copy, real)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(copy)
        raise


def _clear_side_files(path: str, stale: tuple[Identity, ...]) -> None:
    orphaned = identity(path) is None
    for suffix in SIDE_FILES:
        side = real_path(path) + suffix
        found = identity(side)
        if found is not None and (orphaned or found in stale):
            os.unlink(side)


@contextlib.contextmanager
def _directory_lock(path: str, deadline: float) -> Iterator[None]:
    directory = os.path.dirname(real_path(path))
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise WorkerError(f"{directory}: {error.strerror}") from None
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise WorkerError(f"{directory}: locked by another worker for too long") from None
                time.sleep(0.01)
        yield
    finally:
        os.close(descriptor)
