"""Opening a SQLite file: found out before touched, made if missing, refused in one line if it is not ours.

WAL needs its side files `-wal` and `-shm` in the file's directory, and every process must see the same three: so the directory
is what is shared. Side files that belong to a file that is no longer there would spoil the next one of that name; whoever makes
the database anew removes them first, under a lock on the directory, so that two workers never do it at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator

from worker_app import layout
from worker_app.errors import WorkerError

PATIENCE = 10.0  # seconds a start or a command waits for other writers (SQLite's busy wait is unfair: seconds are possible)
EXAMPLE = "sqlite:////directory/file.db"
SIDE_FILES = ("-wal", "-shm")
MAGIC = b"SQLite format 3\0"  # the file format's first bytes (https://www.sqlite.org/fileformat2.html#the_database_header)
COOKIE = slice(40, 44)  # the schema's number in the file, big-endian: PRAGMA schema_version

Identity = tuple[int, int]  # device and inode


def path_of(url: str) -> str:
    """The file that a `sqlite:///relative` or `sqlite:////absolute` URL names. WorkerError: another dialect, or no file."""
    dialect, separator, rest = url.partition("://")
    if not separator:
        raise WorkerError(f"COMET_DATABASE: not a database URL ({EXAMPLE})")
    if dialect.partition("+")[0] != "sqlite":
        raise WorkerError(f"COMET_DATABASE: {dialect} is not supported ({EXAMPLE})")
    file = rest.partition("?")[0].removeprefix("/")
    if not rest.startswith("/") or file in ("", ":memory:"):
        raise WorkerError(f"COMET_DATABASE: names no file ({EXAMPLE})")
    return os.path.abspath(file)


def identity(path: str) -> Identity | None:
    """Which file is at the path now; None when there is none. Never opens it: closing a descriptor would drop SQLite's locks."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def connect(path: str, timeout: float = PATIENCE) -> sqlite3.Connection:
    """A driver connection to an existing file, in autocommit mode: transactions are begun by name. `timeout` in seconds."""
    target = os.path.realpath(path).replace("?", "%3f").replace("#", "%23")
    connection = sqlite3.connect(f"file:{target}?mode=rw", uri=True, timeout=timeout, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection


def prepare(path: str, stale: tuple[Identity, ...] = (), patience: float = PATIENCE, overwritten: Identity | None = None) -> None:
    """Make sure that a database of ours is at the path, in WAL mode. `stale`: side files known to belong to a former file.
    `overwritten`: the file that was ours until something else was written over it.

    Waits at most about `patience` seconds for others.

    WorkerError: no directory, not writable, damaged, somebody else's; such a file is left as it was.
    """
    deadline = time.monotonic() + patience
    with _directory_lock(path, deadline):
        try:
            if overwritten is not None and identity(path) == overwritten:
                _set_apart(path)
            _clear_side_files(path, stale)
            if identity(path) is None:
                os.close(os.open(os.path.realpath(path), os.O_CREAT | os.O_WRONLY, 0o664))
            with contextlib.closing(connect(path, patience)) as connection:
                if not _in_place(connection):
                    _build(path, connection, patience, deadline)
                # A transaction that changes nothing; it fails where a later commit would.
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")
        except WorkerError as error:
            raise WorkerError(f"{path}: {error}") from None
        except (sqlite3.Error, OSError) as error:
            raise WorkerError(f"{path}: {explain(error, path)}") from None


def explain(error: BaseException, path: str) -> str:
    """One line for a person: what is wrong with the file."""
    original = getattr(error, "orig", None) or error
    words = (original.strerror or str(original)) if isinstance(original, OSError) else str(original)
    if "not a database" in words or "malformed" in words:
        return f"damaged, or no SQLite database ({words}); move it away to begin anew"
    if "readonly" in words or isinstance(original, PermissionError) or "unable to open" in words:
        return f"cannot be written by uid {os.geteuid()} ({words}); SQLite needs to write the file and its directory"
    if "locked" in words:
        return "locked by another program for too long"
    return words


def _in_place(connection: sqlite3.Connection) -> bool:
    """Whether the tables are there, of the present version, in WAL mode: the case of almost every start."""
    try:
        version = connection.execute("SELECT version FROM comet_schema").fetchone()
        known = f"name IN ({','.join('?' * len(layout.TABLES))})"
        (present,) = connection.execute(f"SELECT count(*) FROM sqlite_master WHERE type = 'table' AND {known}", layout.TABLES).fetchone()
    except sqlite3.OperationalError as error:
        if "no such table" not in str(error):
            raise
        return False
    complete = version == (layout.VERSION,) and present == len(layout.TABLES)
    return bool(complete and connection.execute("PRAGMA journal_mode").fetchone() == ("wal",))


def _build(path: str, connection: sqlite3.Connection, patience: float, deadline: float) -> None:
    # SQLAlchemy takes half of a worker's start; only a database that must be made or changed needs it.
    from worker_app import schema

    engine = schema.engine_for(path, patience)
    schema.check(engine)
    while True:
        try:
            # The switch to WAL does not wait by the busy timeout.
            connection.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() >= deadline:
                raise
            time.sleep(0.02)
    schema.build(engine)


def _set_apart(path: str) -> None:
    """Make what is at the path a file of its own: all that have the former one open see that it went, and write to it no more."""
    real = os.path.realpath(path)
    draft = f"{real}.draft"
    try:
        shutil.copyfile(real, draft)
        shutil.copymode(real, draft)
        os.replace(draft, real)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise


def _clear_side_files(path: str, stale: tuple[Identity, ...]) -> None:
    alone = identity(path) is None
    for suffix in SIDE_FILES:
        side = os.path.realpath(path) + suffix
        found = identity(side)
        if found is not None and (alone or found in stale):
            os.unlink(side)


@contextlib.contextmanager
def _directory_lock(path: str, deadline: float) -> Iterator[None]:
    directory = os.path.dirname(os.path.realpath(path))
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
