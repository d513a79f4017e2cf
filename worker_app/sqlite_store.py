"""One worker's row in a SQLite database: registered at the start, added to in group commits, noticed when it vanishes.

SQLite would write the WAL back into the file in the middle of some commit, with two fsyncs while an answer waits; here that is
upkeep, done after answers were released.

The hot write uses the driver's connection: a few statements with fixed texts, whatever the size of the batch. It adds to the row
and never sets it (a reset from outside must not be undone), and makes it anew when a reset took it away.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import sqlite3
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from worker_app import sqlite
from worker_app.errors import NotCommitted, Undecided, WorkerError
from worker_app.layout import FORMER_AFTER, FORMER_ROWS, HEARTBEAT, RETIRED
from worker_app.stats import StatsRow
from worker_app.tally import Tally

if TYPE_CHECKING:
    from sqlalchemy import Engine

log = logging.getLogger("worker_app")

BUSY_SLICE = 0.2  # seconds one attempt waits for other writers; the ledger looks at its deadlines in between
REOPEN_PATIENCE = 1.0  # seconds for connecting anew while answers wait
CHECKPOINT_EVERY = 500  # commits of two to three pages: about SQLite's own thousand pages

NO_ROOM = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)  # primary codes; a quota or limit of the file's size is an I/O error

_ADD = """INSERT INTO workers
 (name, first_started, updated, successful, failed, unplanned, disconnected, duration_us, last_batch) VALUES (?,?,?,?,?,?,?,?,?)
 ON CONFLICT (name) DO UPDATE SET updated = excluded.updated, successful = successful + excluded.successful,
 failed = failed + excluded.failed, unplanned = unplanned + excluded.unplanned, disconnected = disconnected + excluded.disconnected,
 duration_us = duration_us + excluded.duration_us, last_batch = excluded.last_batch"""
_BUCKET = """INSERT INTO latency (worker, bucket, count) VALUES (?,?,?)
 ON CONFLICT (worker, bucket) DO UPDATE SET count = count + excluded.count"""
_INJECTION = """INSERT INTO injections (worker, kind, count) VALUES (?,?,?)
 ON CONFLICT (worker, kind) DO UPDATE SET count = count + excluded.count"""
_REQUEST = "INSERT INTO counted_requests (worker, id, failed) VALUES (?,?,?)"
# One row with everything: the driver gives the interpreter lock away for every row that it fetches, and under load each time it
# waits to have it back. (SQLite keeps a subquery's order for aggregates that depend on it.)
_ROWS = """SELECT json_group_array(json_array(name, successful, failed, duration_us)) FROM
 (SELECT name, successful, failed, duration_us FROM workers ORDER BY first_started, id)"""


class SqliteStore:
    """The `Store` of a SQLite file. `choose_name` picks the row's name from the names already taken."""

    def __init__(self, path: str, choose_name: Callable[[set[str]], str]) -> None:
        self.path = path
        self.name = ""
        self._choose_name = choose_name
        self._first_started = 0.0
        self._batch = random.getrandbits(40) << 20  # no two runs of one row share batch numbers
        self._connection: sqlite3.Connection | None = None
        self._file: sqlite.Identity | None = None
        self._sides: tuple[sqlite.Identity, ...] = ()
        self._header = -1  # descriptor of the file; closed with it, never before: that would drop SQLite's locks
        self._cookies: set[bytes] = set()  # what the file may say of its schema
        self._touched = (0, 0)  # when the file was written last, and its size then
        self._overwritten = False
        self._unfit = False  # to be opened anew, although it is the same file
        self._updated = 0.0
        self._patient = True
        self._unwritten = 0  # commits since the WAL was last written back

    def open(self, patience: float = sqlite.PATIENCE) -> None:
        """Prepare the database and register the worker. WorkerError: one line that says why not within `patience` seconds."""
        gone = self._overwritten or sqlite.identity(self.path) != self._file
        sqlite.prepare(self.path, self._sides if gone else (), patience, self._file if self._overwritten else None)
        connection = None
        try:
            connection = sqlite.connect(self.path, patience)
            self._register(connection)
            self._look_closely(connection)
            connection.execute("PRAGMA wal_autocheckpoint=0")
            _set_patience(connection, True)
        except (sqlite3.Error, OSError) as error:
            if connection is not None:
                connection.close()
            raise WorkerError(f"{self.path}: {sqlite.explain(error, self.path)}") from None
        self._connection, self._unfit, self._overwritten = connection, False, False
        self._patient = True
        self._note_side_files()

    def commit(self, tally: Tally) -> None:
        if self._connection is None or self._unfit:
            self.reopen()
        assert self._connection is not None
        self._transact(self._connection, tally, patient=True)

    def commit_at_once(self, tally: Tally) -> bool:
        if self._connection is None or self._unfit:
            return False
        try:
            self._transact(self._connection, tally, patient=False)
        except NotCommitted:
            return False
        return True

    def upkeep_due(self) -> bool:
        return self._unwritten >= CHECKPOINT_EVERY

    def _transact(self, connection: sqlite3.Connection, tally: Tally, patient: bool) -> None:
        self._batch += 1
        now = time.time()
        try:
            self._be_patient(connection, patient)
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            self._judge(error)
            raise NotCommitted(str(error)) from None
        try:
            values = (tally.successful, tally.failed, tally.unplanned, tally.disconnected, tally.duration_us, self._batch)
            connection.execute(_ADD, (self.name, self._first_started, now, *values))
            if tally.buckets:
                connection.executemany(_BUCKET, [(self.name, bucket, count) for bucket, count in tally.buckets.items()])
            if tally.injections:
                connection.executemany(_INJECTION, [(self.name, kind, count) for kind, count in tally.injections.items()])
            if tally.requests:
                connection.executemany(_REQUEST, [(self.name, *request) for request in tally.requests])
        except sqlite3.Error as error:
            self._roll_back(connection)
            self._judge(error)
            self._make_room(connection, error)
            raise NotCommitted(str(error)) from None
        try:
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back(connection)
            if self.verify():
                return
            self._make_room(connection, error)
            raise NotCommitted(str(error)) from None
        self._updated = now
        self._unwritten += 1

    def _judge(self, error: sqlite3.Error) -> None:
        """Whether there is more to an error than bad luck: a table that somebody has dropped, a file that became another one."""
        words = str(error)
        if "locked" not in words:
            self._unfit = "no such table" in words or self.replaced()

    def _make_room(self, connection: sqlite3.Connection, error: sqlite3.Error) -> None:
        """Where a file could not grow, write the WAL back: the next commit begins it anew. On a small disk it may be what fills it."""
        if (getattr(error, "sqlite_errorcode", 0) & 0xFF) not in NO_ROOM:
            return
        try:
            self._be_patient(connection, True)
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.Error as trouble:
            log.warning("writing the WAL back: %s", trouble)

    def _be_patient(self, connection: sqlite3.Connection, patient: bool) -> None:
        if patient != self._patient:
            _set_patience(connection, patient)
            self._patient = patient

    def verify(self) -> bool:
        connection = self._connection
        if connection is None:
            raise Undecided("no connection")
        try:
            found = connection.execute("SELECT last_batch FROM workers WHERE name = ?", (self.name,)).fetchone()
        except sqlite3.Error as error:
            raise Undecided(str(error)) from None
        return found is not None and found[0] == self._batch

    def replaced(self) -> bool:
        try:
            status = os.stat(self.path)
        except OSError:
            return True
        if (status.st_dev, status.st_ino) != self._file:
            return True
        touched = (status.st_mtime_ns, status.st_size)
        if touched != self._touched:
            self._overwritten = self._overwritten or self._is_foreign()
            self._touched = touched
        return self._overwritten

    def reopen(self) -> None:
        # The old connection stays until the new one is there: while it is open, the inode numbers of its files cannot be given to new
        # ones, and `stale` can only mean the old.
        old = self._connection
        try:
            self.open(REOPEN_PATIENCE)
        except WorkerError as error:
            raise NotCommitted(str(error)) from None
        if old is not None:
            old.close()

    def tick(self, now: float) -> None:
        if self.replaced():
            log.warning("the database %s was deleted or replaced; beginning anew", self.path)
            self.reopen()
        connection = self._connection
        if connection is None or self._unfit:
            self.reopen()
            return
        try:
            self._be_patient(connection, True)
            if self.upkeep_due():
                self._unwritten = 0
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            missing = connection.execute("SELECT 1 FROM workers WHERE name = ?", (self.name,)).fetchone() is None
        except sqlite3.Error as error:
            self._judge(error)
            raise NotCommitted(str(error)) from None
        if missing or now - self._updated >= HEARTBEAT:
            self.commit(Tally())

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._header >= 0:
            os.close(self._header)
            self._header = -1

    def _look_closely(self, connection: sqlite3.Connection) -> None:
        """Note by what this file will be known again: it may be emptied, or another one be copied over it (cp), while we have it open."""
        found = sqlite.identity(self.path)
        if found != self._file or self._header < 0:
            if self._header >= 0:
                os.close(self._header)
            self._header = os.open(os.path.realpath(self.path), os.O_RDONLY | os.O_CLOEXEC)
        self._file = found
        # Until the WAL is written back the file itself has the schema of before.
        self._cookies = {os.pread(self._header, 100, 0)[sqlite.COOKIE], _schema_of(connection)}

    def _is_foreign(self) -> bool:
        """Whether the file's own words are no longer those of the database that the connection sees."""
        try:
            header = os.pread(self._header, 100, 0)
        except OSError:
            return False  # A disk in trouble is no other file.
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
                self.name = self._choose_name({name for (name,) in connection.execute("SELECT name FROM workers")})
            (latest,) = connection.execute("SELECT coalesce(max(first_started), 0) FROM workers").fetchone()
            # The wall clock may have been set back; the order of first start must hold all the same.
            self._first_started = self._first_started or max(now, latest + 1e-3)
            connection.execute(_ADD, (self.name, self._first_started, now, 0, 0, 0, 0, 0, self._batch))
            _fold(connection, now)
            connection.execute("COMMIT")
        except BaseException:
            self._roll_back(connection)
            raise
        self._updated = now

    def _note_side_files(self) -> None:
        real = os.path.realpath(self.path)
        self._sides = tuple(found for suffix in sqlite.SIDE_FILES if (found := sqlite.identity(real + suffix)) is not None)

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


def _set_patience(connection: sqlite3.Connection, patient: bool) -> None:
    """How long this connection waits for other writers: a slice, or not at all."""
    connection.execute(f"PRAGMA busy_timeout={round(BUSY_SLICE * 1000) if patient else 0}")


def _fold(connection: sqlite3.Connection, now: float) -> None:
    """Put the oldest rows of former workers past the limit into the row `retired`, sums and histograms included."""
    former = connection.execute(
        "SELECT name FROM workers WHERE name <> ? AND updated < ? ORDER BY first_started DESC, id DESC LIMIT -1 OFFSET ?",
        (RETIRED, now - FORMER_AFTER, FORMER_ROWS),
    ).fetchall()
    for (name,) in former:
        connection.execute(
            "INSERT INTO workers (name, first_started, updated, successful, failed, unplanned, disconnected, duration_us, last_batch)"
            " SELECT ?, 0, updated, successful, failed, unplanned, disconnected, duration_us, 0 FROM workers WHERE name = ?"
            " ON CONFLICT (name) DO UPDATE SET updated = max(updated, excluded.updated), successful = successful + excluded.successful,"
            " failed = failed + excluded.failed, unplanned = unplanned + excluded.unplanned,"
            " disconnected = disconnected + excluded.disconnected, duration_us = duration_us + excluded.duration_us",
            (RETIRED, name),
        )
        for table, key in (("latency", "bucket"), ("injections", "kind")):
            connection.execute(
                f"INSERT INTO {table} (worker, {key}, count) SELECT ?, {key}, count FROM {table} WHERE worker = ?"
                f" ON CONFLICT (worker, {key}) DO UPDATE SET count = count + excluded.count",
                (RETIRED, name),
            )
            connection.execute(f"DELETE FROM {table} WHERE worker = ?", (name,))
        connection.execute("DELETE FROM workers WHERE name = ?", (name,))


class SqliteReader:
    """Reads for `/worker/stats` over a connection of its own; used by one thread at a time. WAL readers wait for no writer."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._file: sqlite.Identity | None = None

    def rows(self) -> list[StatsRow]:
        try:
            file = sqlite.identity(self._path)
            if self._connection is None or file != self._file:
                self.close()
                self._connection = sqlite.connect(self._path, timeout=1.0)
                self._file = file
            (text,) = self._connection.execute(_ROWS).fetchone()
            return [StatsRow(*row) for row in json.loads(text)]
        except sqlite3.Error as error:
            self.close()
            raise NotCommitted(str(error)) from None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class SqliteDatabase:
    """The `Database` that a SQLite URL or the path of a file names; see `address.Database`."""

    errors: tuple[type[Exception], ...] = (sqlite3.Error, OSError)

    def __init__(self, where: str) -> None:
        self.name = sqlite.path_of(where) if "://" in where else os.path.abspath(where)

    def create(self) -> None:
        sqlite.prepare(self.name)
        with self.engine().connect() as connection:
            verdict = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
        if verdict != "ok":
            raise WorkerError(f"{self.name}: damaged ({verdict}); move it away to begin anew")

    def require(self) -> None:
        from worker_app import schema

        if sqlite.identity(self.name) is None:
            raise WorkerError(f"{self.name}: no such database")
        try:
            ready = schema.check(self.engine())
        except WorkerError as error:
            raise WorkerError(f"{self.name}: {error}") from None
        except (sqlite3.Error, OSError) as error:
            raise WorkerError(f"{self.name}: {self.explain(error)}") from None
        if not ready:
            raise WorkerError(f"{self.name}: not yet a Comet statistics database (create makes it one)")

    def store(self, choose_name: Callable[[set[str]], str]) -> SqliteStore:
        return SqliteStore(self.name, choose_name)

    def reader(self) -> SqliteReader:
        return SqliteReader(self.name)

    def engine(self) -> Engine:
        from worker_app import schema

        return schema.engine_for(self.name)

    def explain(self, error: BaseException) -> str:
        return sqlite.explain(error, self.name)
