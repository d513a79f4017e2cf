"""Writes one worker's row to a SQLite database: registers it, adds group commits, and restores it when it disappears.

By default SQLite writes the WAL back into the file during some commit, with two fsyncs while responses wait. Here that
is maintenance, done after the responses are released. On a full disk it comes before each commit: what room there is
must serve to write the WAL back, which makes the WAL reusable, and not to append to it.

A commit uses the driver's connection: a few statements with fixed texts, whatever the size of the batch. It adds to the
row and never sets it, so that it does not undo a reset from outside, and it inserts the row again after a reset has
deleted it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import sqlite3
import time
from collections.abc import Callable

from worker_app.common.errors import NotCommitted, Undecided, WorkerError
from worker_app.common.place import Place
from worker_app.stats import sqlite
from worker_app.stats.batch import Batch
from worker_app.stats.layout import FORMER_AFTER, HEARTBEAT_INTERVAL, MAX_FORMER_ROWS, RETIRED

log = logging.getLogger("worker_app")

LOCK_TIMEOUT = 0.2
"""Seconds one attempt waits for other writers; the commit queue checks its deadlines between attempts."""

REOPEN_TIMEOUT = 1.0
"""Seconds for reconnecting while responses wait."""

CHECKPOINT_EVERY = 500
"""Commits of two to three pages each: about SQLite's own default of 1000 pages."""

DISK_FULL_CODES = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
"""Primary result codes; a quota or a limit of the file size is an I/O error."""

_ADD = """INSERT INTO workers
 (name, first_started, updated, successful, failed, unplanned, disconnected, duration_us, last_batch)
 VALUES (?,?,?,?,?,?,?,?,?)
 ON CONFLICT (name) DO UPDATE SET updated = excluded.updated, successful = successful + excluded.successful,
 failed = failed + excluded.failed, unplanned = unplanned + excluded.unplanned,
 disconnected = disconnected + excluded.disconnected,
 duration_us = duration_us + excluded.duration_us, last_batch = excluded.last_batch"""
_BUCKET = """INSERT INTO latency (worker, bucket, count) VALUES (?,?,?)
 ON CONFLICT (worker, bucket) DO UPDATE SET count = count + excluded.count"""
_INJECTION = """INSERT INTO injections (worker, kind, count) VALUES (?,?,?)
 ON CONFLICT (worker, kind) DO UPDATE SET count = count + excluded.count"""
_REQUEST = "INSERT INTO counted_requests (worker, id, failed) VALUES (?,?,?)"
# Ignores values that are not a plausible time: SQLite stores any value in any column.
_LATEST = """SELECT coalesce(max(first_started), 0) FROM workers
 WHERE typeof(first_started) IN ('integer', 'real') AND first_started < 1e12"""


class SqliteStore:
    """The `Store` of a SQLite file; `choose_name` returns the row's name, given the existing names."""

    def __init__(self, path: str, choose_name: Callable[[set[str]], str]) -> None:
        self._place = Place(path)
        self.name = ""
        self._choose_name = choose_name
        self._first_started = 0.0
        self._batch_number = random.getrandbits(40) << 20  # so that two runs of one row share no batch numbers
        self._connection: sqlite3.Connection | None = None
        self._file: sqlite.Identity | None = None
        self._side_files: tuple[sqlite.Identity | None, ...] = ()
        self._header = -1  # descriptor of the file; an earlier close than the connection's would drop SQLite's locks
        self._cookies: set[bytes] = set()  # schema cookies that the file may contain
        self._last_write = (0, 0)  # the file's modification time (ns) and size
        self._overwritten = False
        self._must_reopen = False  # although it is the same file
        self._updated = 0.0
        self._waits = True
        self._commits_since_checkpoint = 0
        self._was_full = False  # and since then not all of the WAL was written back

    @property
    def path(self) -> str:
        return self._place.path

    def open(self, timeout: float = sqlite.TIMEOUT) -> None:
        """Prepare the database and register the worker within `timeout` seconds; WorkerError: a one-line reason."""
        gone = self._overwritten or sqlite.identity(self.path) != self._file
        holder = None if gone or not self._lost_side_files() else self._connection
        try:
            self._prepare(gone, holder, timeout)
            self._connect(timeout)
        except WorkerError:
            if holder is not None:
                self._roll_back(holder)
            raise

    def _prepare(self, gone: bool, holder: sqlite3.Connection | None, timeout: float) -> None:
        stale = tuple(each for each in self._side_files if each is not None) if gone else ()
        spoiled = self._file if self._overwritten or holder is not None else None
        sqlite.prepare(self.path, stale, timeout, spoiled, holder)

    def _connect(self, timeout: float) -> None:
        connection = None
        try:
            connection = sqlite.connect(self.path, timeout)
            self._register(connection)
            self._remember_file(connection)
            self._place.hold()
            connection.execute("PRAGMA wal_autocheckpoint=0")
            _set_lock_timeout(connection, True)
        except (sqlite3.Error, OSError) as error:
            if connection is not None:
                connection.close()
            raise WorkerError(f"{self.path}: {sqlite.explain(error, self.path)}") from None
        self._connection, self._must_reopen, self._overwritten = connection, False, False
        self._waits = True
        self._side_files = self._side_files_now()
        if self._needs_room():
            with contextlib.suppress(NotCommitted):
                self._write_back(connection)  # There may be a WAL that was left on a full disk.

    def commit(self, batch: Batch) -> None:
        needs_room = self._needs_room()
        # What is written back must not reach a file that was put in the database's place.
        gone = needs_room and (self.replaced() or self._lost_side_files())
        if self._connection is None or self._must_reopen or gone:
            self.reopen()
        assert self._connection is not None
        if needs_room and not self._write_back(self._connection):
            raise NotCommitted("another worker is writing the WAL back")
        self._transact(self._connection, batch, wait=True)

    def try_commit(self, batch: Batch) -> bool:
        if self._connection is None or self._must_reopen or self._needs_room():
            return False
        try:
            self._transact(self._connection, batch, wait=False)
        except NotCommitted:
            return False
        return True

    def maintenance_due(self) -> bool:
        return self._commits_since_checkpoint >= CHECKPOINT_EVERY

    def _needs_room(self) -> bool:
        """Return whether the WAL is to be written back before anything is appended to it.

        Free space is asked for, too: another worker may have met the full disk, and a WAL that takes the last of it
        could not be written back.
        """
        return self._was_full or sqlite.is_full(self._header)

    def _transact(self, connection: sqlite3.Connection, batch: Batch, wait: bool) -> None:
        self._batch_number += 1
        now = time.time()
        try:
            self._use_lock_timeout(connection, wait)
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            self._check_file(error)
            raise NotCommitted(str(error)) from None
        try:
            values = (
                batch.successful,
                batch.failed,
                batch.unplanned,
                batch.disconnected,
                batch.duration_us,
                self._batch_number,
            )
            connection.execute(_ADD, (self.name, self._first_started, now, *values))
            if batch.buckets:
                connection.executemany(_BUCKET, [(self.name, bucket, count) for bucket, count in batch.buckets.items()])
            if batch.injections:
                connection.executemany(
                    _INJECTION, [(self.name, kind, count) for kind, count in batch.injections.items()]
                )
            if batch.requests:
                connection.executemany(_REQUEST, [(self.name, *request) for request in batch.requests])
        except sqlite3.Error as error:
            self._roll_back(connection)
            self._check_file(error)
            raise NotCommitted(str(error)) from None
        try:
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back(connection)
            if self.verify():
                return
            self._check_file(error)
            raise NotCommitted(str(error)) from None
        self._updated = now
        self._commits_since_checkpoint += 1

    def _check_file(self, error: sqlite3.Error) -> None:
        """Set `_must_reopen` if the error has a lasting cause: a dropped table, or other files at the path.

        Set `_was_full` if a file could not grow.
        """
        self._was_full = self._was_full or (getattr(error, "sqlite_errorcode", 0) & 0xFF) in DISK_FULL_CODES
        reason = str(error)
        if "locked" not in reason and ("no such table" in reason or self.replaced() or self._lost_side_files()):
            self._must_reopen = True

    def _write_back(self, connection: sqlite3.Connection) -> bool:
        """Write the WAL back as far as readers allow; return False if another worker is about it.

        NotCommitted: there is no room.
        """
        try:
            ((busy, frames, written),) = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.Error as error:
            self._check_file(error)
            raise NotCommitted(f"writing the WAL back: {error}") from None
        self._commits_since_checkpoint = 0
        self._was_full = self._was_full and bool(busy or written < frames)
        return not busy

    def _use_lock_timeout(self, connection: sqlite3.Connection, wait: bool) -> None:
        if wait != self._waits:
            _set_lock_timeout(connection, wait)
            self._waits = wait

    def verify(self) -> bool:
        connection = self._connection
        if connection is None:
            raise Undecided("no connection")
        try:
            found = connection.execute("SELECT last_batch FROM workers WHERE name = ?", (self.name,)).fetchone()
        except sqlite3.Error as error:
            raise Undecided(str(error)) from None
        return found is not None and found[0] == self._batch_number

    def replaced(self) -> bool:
        status = sqlite.status(self.path)
        if status is None or (status.st_dev, status.st_ino) != self._file:
            if not self._place.follow():
                return True
            # SQLite removes the side files at the path that it opened: by now they may belong to another cluster.
            sqlite.keep_side_files(self._header, self._place.moved)
            return self.replaced()
        last_write = (status.st_mtime_ns, status.st_size)
        if last_write != self._last_write:
            self._overwritten = self._overwritten or self._is_overwritten()
            self._last_write = last_write
        return self._overwritten

    def _lost_side_files(self) -> bool:
        """Return whether the connection's side files are no longer at the path: later connections open other ones."""
        return self._connection is not None and (None in self._side_files or self._side_files_now() != self._side_files)

    def reopen(self) -> None:
        # The old connection stays open until the new one exists: until then the inode numbers of its files are not
        # reused, so `stale` can only mean the old files.
        old = self._connection
        try:
            self.open(REOPEN_TIMEOUT)
        except WorkerError as error:
            raise NotCommitted(str(error)) from None
        if old is not None:
            old.close()

    def tick(self, now: float) -> None:
        if self.replaced():
            log.warning("the database %s was deleted or replaced; a new one is used", self.path)
            self.reopen()
        elif self._lost_side_files():
            log.warning("the files -wal and -shm of %s were removed; a copy with all counts is used", self.path)
            self.reopen()
        connection = self._connection
        if connection is None or self._must_reopen:
            self.reopen()
            return
        try:
            self._use_lock_timeout(connection, True)
            if self.maintenance_due() or self._needs_room():
                self._write_back(connection)
            missing = connection.execute("SELECT 1 FROM workers WHERE name = ?", (self.name,)).fetchone() is None
        except sqlite3.Error as error:
            self._check_file(error)
            raise NotCommitted(str(error)) from None
        if missing or now - self._updated >= HEARTBEAT_INTERVAL:
            self.commit(Batch())

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._header >= 0 and not self._place.moved:
            os.close(self._header)
            self._header = -1

    def _remember_file(self, connection: sqlite3.Connection) -> None:
        """Remember how to recognize this file: it may be emptied, or overwritten by `cp`, while it is open here."""
        found = sqlite.identity(self.path)
        if found != self._file or self._header < 0:
            if self._header >= 0:
                os.close(self._header)
            self._header = os.open(os.path.realpath(self.path), os.O_RDONLY | os.O_CLOEXEC)
        self._file = found
        # Until the WAL is written back the file itself still contains the previous cookie.
        self._cookies = {os.pread(self._header, 100, 0)[sqlite.COOKIE], _schema_of(connection)}

    def _is_overwritten(self) -> bool:
        """Return whether the file's header is no longer that of the database that the connection sees."""
        try:
            header = os.pread(self._header, 100, 0)
        except OSError:
            return False  # A failing disk does not mean another file.
        if not header.startswith(sqlite.MAGIC):
            return True
        cookie = header[sqlite.COOKIE]
        if cookie not in self._cookies and self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._cookies.add(_schema_of(self._connection))
        return cookie not in self._cookies

    def _register(self, connection: sqlite3.Connection) -> None:
        now = time.time()
        connection.execute("BEGIN IMMEDIATE")
        try:
            if not self.name:
                # SQLite stores any value in any column, also bytes that are not text.
                names = connection.execute("SELECT CAST(name AS BLOB) FROM workers WHERE name IS NOT NULL")
                self.name = self._choose_name({name.decode(errors="replace") for (name,) in names})
            (latest,) = connection.execute(_LATEST).fetchone()
            # The wall clock may have been set back; the order of first start must stay.
            self._first_started = self._first_started or max(now, latest + 1e-3)
            connection.execute(_ADD, (self.name, self._first_started, now, 0, 0, 0, 0, 0, self._batch_number))
            _fold(connection, now)
            connection.execute("COMMIT")
        except BaseException:
            self._roll_back(connection)
            raise
        self._updated = now

    def _side_files_now(self) -> tuple[sqlite.Identity | None, ...]:
        real = os.path.realpath(self.path)
        return tuple(sqlite.identity(real + suffix) for suffix in sqlite.SIDE_FILES)

    @staticmethod
    def _roll_back(connection: sqlite3.Connection) -> None:
        if connection.in_transaction:
            try:
                connection.execute("ROLLBACK")
            except sqlite3.Error as error:
                log.warning("rollback: %s", error)


def _schema_of(connection: sqlite3.Connection) -> bytes:
    (number,) = connection.execute("PRAGMA schema_version").fetchone()
    return int(number).to_bytes(4, "big")


def _set_lock_timeout(connection: sqlite3.Connection, wait: bool) -> None:
    """Set how long this connection waits for other writers: `LOCK_TIMEOUT`, or not at all."""
    connection.execute(f"PRAGMA busy_timeout={round(LOCK_TIMEOUT * 1000) if wait else 0}")


def _fold(connection: sqlite3.Connection, now: float) -> None:
    """Merge the oldest rows of former workers above the limit into the row `retired`, with sums and histograms."""
    former = connection.execute(
        "SELECT name FROM workers WHERE name <> ? AND updated < ? ORDER BY first_started DESC, id DESC LIMIT -1 "
        "OFFSET ?",
        (RETIRED, now - FORMER_AFTER, MAX_FORMER_ROWS),
    ).fetchall()
    for (name,) in former:
        connection.execute(
            "INSERT INTO workers (name, first_started, updated, successful, failed, unplanned, disconnected, "
            "duration_us, last_batch)"
            " SELECT ?, 0, updated, successful, failed, unplanned, disconnected, duration_us, 0 FROM workers WHERE "
            "name = ?"
            " ON CONFLICT (name) DO UPDATE SET updated = max(updated, excluded.updated), successful = successful + "
            "excluded.successful,"
            " failed = failed + excluded.failed, unplanned = unplanned + excluded.unplanned,"
            " disconnected = disconnected + excluded.disconnected, duration_us = duration_us + excluded.duration_us",
            (RETIRED, name),
        )
        for table, key in (("latency", "bucket"), ("injections", "kind")):
            connection.execute(
                f"INSERT INTO {table} (worker, {key}, count) SELECT ?, {key}, count FROM {table} WHERE worker = "
                "?"  # nosec B608
                f" ON CONFLICT (worker, {key}) DO UPDATE SET count = count + excluded.count",
                (RETIRED, name),
            )
            connection.execute(f"DELETE FROM {table} WHERE worker = ?", (name,))  # nosec B608
        connection.execute("DELETE FROM workers WHERE name = ?", (name,))
