"""Provides a SQLite database to the commands and to the start of a worker, and reads the rows of all workers."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Callable
from typing import TYPE_CHECKING

from worker_app.common.errors import NotCommitted, WorkerError
from worker_app.common.place import Place
from worker_app.stats import sqlite
from worker_app.stats.rows import StatsRow, rows_from

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from worker_app.stats.sqlite_store import SqliteStore


# One row with everything: the driver releases the interpreter lock for every row that it fetches, and under load it
# waits each time to get it back. (SQLite keeps the order of a subquery for aggregates that depend on it.)
_ROWS = """SELECT json_group_array(json_array(name, successful, failed, duration_us)) FROM
 (SELECT name, successful, failed, duration_us FROM workers ORDER BY first_started, id)"""


class SqliteReader:
    """Reads for `/worker/stats` over its own connection, by one thread at a time; WAL readers wait for no writer.

    The connection stays open as long as the same file is at the same path.
    """

    def __init__(self, path: str) -> None:
        self._place = Place(path)
        self._connection: sqlite3.Connection | None = None
        self._file: sqlite.Identity | None = None

    def rows(self) -> list[StatsRow]:
        try:
            file = sqlite.identity(self._place.path)
            if (file is None or file != self._file) and self._place.follow():
                file = sqlite.identity(self._place.path)
            if self._connection is None or file != self._file:
                self.close()
                self._connection = sqlite.connect(self._place.path, timeout=1.0)
                self._place.hold()
                self._file = file
            (text,) = self._connection.execute(_ROWS).fetchone()
            return rows_from(json.loads(text))
        except ValueError as error:
            raise NotCommitted(str(error)) from None
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise NotCommitted(str(error)) from None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class SqliteDatabase:
    """The `Database` at a SQLite URL or the path of a file; see `address.Database`."""

    READING: tuple[str, ...] = ("BEGIN",)
    CHANGING: tuple[str, ...] = ("BEGIN IMMEDIATE",)
    EXCLUDING: tuple[str, ...] = ()
    HAS_REQUESTS = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'counted_requests'"

    errors: tuple[type[Exception], ...] = (sqlite3.Error, OSError)

    def __init__(self, where: str) -> None:
        self.name = os.path.abspath(where) if where.startswith("/") or "://" not in where else sqlite.path_of(where)

    def create(self) -> None:
        sqlite.prepare(self.name)
        try:
            with contextlib.closing(sqlite.connect(self.name)) as connection:
                (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.Error as error:
            raise WorkerError(f"{self.name}: {self.explain(error)}") from None
        if verdict != "ok":
            raise WorkerError(f"{self.name}: damaged ({verdict}); move it away to start with empty statistics")

    def require(self) -> None:
        if sqlite.identity(self.name) is None:
            raise WorkerError(f"{self.name}: no such database")
        try:
            with contextlib.closing(sqlite.connect(self.name)) as connection:
                ready = sqlite.is_current(connection)
            if not ready:
                from worker_app.stats import schema

                ready = schema.check(self.engine())
        except WorkerError as error:
            raise WorkerError(f"{self.name}: {error}") from None
        except (sqlite3.Error, OSError) as error:
            raise WorkerError(f"{self.name}: {self.explain(error)}") from None
        if not ready:
            raise WorkerError(f"{self.name}: not a Comet statistics database yet (`create` makes it one)")

    def store(self, choose_name: Callable[[set[str]], str]) -> SqliteStore:
        from worker_app.stats.sqlite_store import SqliteStore  # The commands on the host write no row.

        return SqliteStore(self.name, choose_name)

    def reader(self) -> SqliteReader:
        return SqliteReader(self.name)

    def session(self) -> sqlite3.Connection:
        return sqlite.connect(self.name)

    def forget(self, session: sqlite3.Connection, page: int, seconds: float) -> int | None:
        return None  # A single statement deletes all rows of a table by dropping its pages.

    def engine(self) -> Engine:
        from worker_app.stats import schema

        return schema.sqlite_engine(lambda: sqlite.connect(self.name))

    def explain(self, error: BaseException) -> str:
        return sqlite.explain(error, self.name)
