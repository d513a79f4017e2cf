"""Reads the URL of the statistics database from the environment and opens the right dialect.

The URL of a database server may contain a password, so it is read from the file that COMET_DATABASE_FILE names (`-`:
standard input): it then appears in no process listing and no `docker inspect`. The path of a SQLite file is no secret,
so COMET_DATABASE contains it. A dialect is imported when it is used, so that a start pays for one of them.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Protocol

from worker_app.common.errors import WorkerError

if TYPE_CHECKING:
    from worker_app.stats.store import ChooseName, StatsReader, Store

EXAMPLES = "sqlite:////directory/file.db or postgresql://user:password@host/database"

MAX_URL_LENGTH = 64 << 10
"""Characters."""


class Session(Protocol):
    """A connection of either driver; what is not committed is undone when it is closed."""

    def execute(self, query: str, /) -> Any: ...

    def close(self) -> None: ...


class Database(Protocol):
    """One database; `name` is its name in messages, without a password, and `errors` are the driver's exceptions.

    `READING` begins a transaction that reads one state of all tables, `CHANGING` one that writes; from `EXCLUDING` on,
    no worker writes or registers next to it. `HAS_REQUESTS` counts the tables of counted requests, which an older
    database lacks.
    """

    READING: tuple[str, ...]
    CHANGING: tuple[str, ...]
    EXCLUDING: tuple[str, ...]
    HAS_REQUESTS: str

    name: str
    errors: tuple[type[Exception], ...]

    def create(self) -> None:
        """Create, migrate or convert the tables and check that they are writable.

        WorkerError: the database is not usable; it is left unchanged.
        """

    def require(self) -> None:
        """Raise WorkerError if there are no statistics to read; create nothing."""

    def store(self, choose_name: ChooseName) -> Store: ...

    def reader(self) -> StatsReader: ...

    def session(self) -> Session:
        """Connect; every statement is a transaction of its own until one of them is BEGIN."""

    def forget(self, session: Any, page: int, seconds: float) -> int | None:
        """Delete request ids from this page of their table on, in transactions of their own, while workers commit.

        Return the page to go on with where that takes longer, or None at the end. Where one statement deletes all of
        them in a moment, it does nothing.
        """

    def explain(self, error: BaseException) -> str:
        """Return the driver's error as one line for the user, without the database's name."""


def configured_url() -> str:
    """Return the URL from the environment, or an empty text; raise WorkerError if its file is not readable."""
    path = os.environ.get("COMET_DATABASE_FILE", "")
    if not path:
        return os.environ.get("COMET_DATABASE", "")
    try:
        if path == "-":
            return sys.stdin.read(MAX_URL_LENGTH).strip()
        # The path may name anything: O_NONBLOCK avoids waiting for the writer of a pipe.
        with open(path, encoding="utf-8", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            return file.read(MAX_URL_LENGTH).strip()
    except (OSError, ValueError) as error:
        raise WorkerError(f"COMET_DATABASE_FILE: {path}: {getattr(error, 'strerror', None) or 'not text'}") from None


def database_at(where: str) -> Database:
    """Return the database at a URL, or the SQLite file at a path; raise WorkerError if it is neither."""
    # An absolute path names a file, even if it contains "://".
    dialect, separator, _ = where.partition("://") if not where.startswith("/") else ("", "", "")
    # The message does not repeat the text, which may contain a password.
    if not where or (not separator and "/" not in where):
        raise WorkerError(f"COMET_DATABASE: not a database URL (allowed: {EXAMPLES})")
    if not separator or dialect.partition("+")[0] == "sqlite":
        from worker_app.stats.sqlite_database import SqliteDatabase

        return SqliteDatabase(where)
    if dialect in ("postgresql", "postgres"):
        from worker_app.stats.postgres_database import PostgresDatabase

        return PostgresDatabase(where)
    raise WorkerError(f"COMET_DATABASE: {dialect} is not supported (allowed: {EXAMPLES})")


def main() -> int:
    """Check that the database is usable from here; print one line on stderr and return 1 if it is not."""
    try:
        database_at(configured_url()).create()
    except WorkerError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
