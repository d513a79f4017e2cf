"""Where the statistics lie, as the worker is told: one URL, and what each dialect makes of it.

The URL of a database server may hold a password: it comes in a file that COMET_DATABASE_FILE names (`-`: standard input), which shows in no
process listing and no `docker inspect`. A SQLite file is nobody's secret: COMET_DATABASE names it. The dialects are imported when they
are used, so that a start pays for one of them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from worker_app.errors import WorkerError
from worker_app.store import StatsReader, Store

if TYPE_CHECKING:
    from sqlalchemy import Engine

EXAMPLES = "sqlite:////directory/file.db or postgresql://user:password@host/database"

ChooseName = Callable[[set[str]], str]
"""Picks the name of a worker's row, given those there are."""


class Database(Protocol):
    """One database. `name` is how messages call it, without a password; `errors` are the driver's."""

    name: str
    errors: tuple[type[Exception], ...]

    def create(self) -> None:
        """Make, migrate or take over the tables, and try whether they can be written. WorkerError: not usable, and left as it was."""

    def require(self) -> None:
        """WorkerError where there are no statistics to read; makes nothing."""

    def store(self, choose_name: ChooseName) -> Store: ...

    def reader(self) -> StatsReader: ...

    def engine(self) -> Engine:
        """For the commands; it keeps no connection."""

    def explain(self, error: BaseException) -> str:
        """The driver's error as one line for a person, without the name."""


def given() -> str:
    """The URL that the environment tells of. WorkerError: there is none."""
    path = os.environ.get("COMET_DATABASE_FILE", "")
    if not path:
        return os.environ.get("COMET_DATABASE", "")
    try:
        if path == "-":
            return sys.stdin.read().strip()
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise WorkerError(f"COMET_DATABASE_FILE: {path}: {getattr(error, 'strerror', None) or 'not text'}") from None


def at(where: str) -> Database:
    """The database at a URL; a text that is none names a SQLite file. WorkerError: nothing that can be used."""
    dialect, separator, _ = where.partition("://")
    # What may be a secret is not repeated.
    if not where or (not separator and "/" not in where):
        raise WorkerError(f"COMET_DATABASE: not a database URL (allowed: {EXAMPLES})")
    if not separator or dialect.partition("+")[0] == "sqlite":
        from worker_app.sqlite_store import SqliteDatabase

        return SqliteDatabase(where)
    if dialect in ("postgresql", "postgres"):
        from worker_app.postgres_database import PostgresDatabase

        return PostgresDatabase(where)
    raise WorkerError(f"COMET_DATABASE: {dialect} is not supported (allowed: {EXAMPLES})")


def main() -> int:
    """`python -m worker_app.address`: whether the database can be used from here; one line on stderr and 1 where it cannot."""
    try:
        at(given()).create()
    except WorkerError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
