"""Reads the rows of all workers from a SQLite database.

The connection stays open as long as the same file is at the same path.
"""

from __future__ import annotations

import json
import sqlite3

from worker_app.common.errors import NotCommitted
from worker_app.common.place import Place
from worker_app.stats import sqlite
from worker_app.stats.rows import StatsRow, rows_from

# One row with everything: the driver releases the interpreter lock for every row that it fetches, and under load it
# waits each time to get it back. (SQLite keeps the order of a subquery for aggregates that depend on it.)
_ROWS = """SELECT json_group_array(json_array(name, successful, failed, duration_us)) FROM
 (SELECT name, successful, failed, duration_us FROM workers ORDER BY first_started, id)"""


class SqliteReader:
    """Reads for `/worker/stats` over its own connection, by one thread at a time; WAL readers wait for no writer."""

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
