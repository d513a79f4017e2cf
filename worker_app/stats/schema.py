"""Defines the database's tables for both dialects (SQLAlchemy Core) and migrates older databases.

A database is identified by its tables, never by its name. An empty one gets the tables. One with `comet_schema` is
Comet's, of the version in there. One with exactly the single table of the original Go program is converted. Anything
else belongs to another program and stays unchanged.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Engine,
    Float,
    Integer,
    MetaData,
    NullPool,
    String,
    Table,
    create_engine,
    func,
    insert,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.exc import DBAPIError

from worker_app.common.errors import WorkerError
from worker_app.stats import layout

metadata = MetaData()

_ID = BigInteger().with_variant(Integer, "sqlite")
"""SQLite assigns row numbers only to an INTEGER key."""

version_table = Table("comet_schema", metadata, Column("version", Integer, nullable=False))

workers = Table(
    "workers",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("name", String(255), nullable=False, unique=True),
    Column("first_started", Float(53), nullable=False),  # Unix seconds, strictly increasing
    Column("updated", Float(53), nullable=False),  # Unix seconds of the worker's last write
    Column("successful", BigInteger, nullable=False, default=0),
    Column("failed", BigInteger, nullable=False, default=0),
    Column("unplanned", BigInteger, nullable=False, default=0),  # the part of `failed` that was not injected
    Column("disconnected", BigInteger, nullable=False, default=0),  # clients that disconnected before their response
    Column("duration_us", BigInteger, nullable=False, default=0),  # an integer: additions never round
    Column("last_batch", BigInteger, nullable=False, default=0),  # see the stores' `verify`
)

latency = Table(
    "latency",
    metadata,
    Column("worker", String(255), primary_key=True),
    Column("bucket", Integer, primary_key=True),
    Column("count", BigInteger, nullable=False),
)

injections = Table(
    "injections",
    metadata,
    Column("worker", String(255), primary_key=True),
    Column("kind", String(32), primary_key=True),
    Column("count", BigInteger, nullable=False),
)

# One row per counted request if the workers run with `--request-ledger`; committed together with its count.
Table(
    "counted_requests",
    metadata,
    Column("worker", String(255), nullable=False),
    Column("id", String(layout.ID_LENGTH), nullable=False),  # X-Request-Id; empty if the request had none
    Column("failed", Boolean, nullable=False),
)

MIGRATIONS: Mapping[int, Callable[[Connection], None]] = {}
"""Maps a version to the function that migrates a database of that version to the next."""

ORIGINAL_TABLE = "worker_stats"
ORIGINAL_COLUMNS = {
    "worker_id",
    "timestamp",
    "successful_requests",
    "failed_requests",
    "total_requests",
    "average_response_time",
}
ORIGINAL_KEPT_AS = "original_worker_stats"


def sqlite_engine(connect: Callable[[], sqlite3.Connection]) -> Engine:
    """Return an engine for a SQLite file, without a pool: a connection that stays open would hold locks."""
    return create_engine("sqlite://", creator=connect, poolclass=NullPool)


def postgres_engine(params: dict[str, Any], timeout: float = 10.0) -> Engine:
    """Return an engine for a PostgreSQL database (libpq parameters); each wait takes at most `timeout` seconds."""
    from worker_app.stats import postgres

    return create_engine(
        "postgresql+psycopg://",
        creator=lambda: postgres.connect(params, timeout, autocommit=False),
        poolclass=NullPool,
        use_native_hstore=False,
        isolation_level="REPEATABLE READ",
    )


def check(engine: Engine) -> bool:
    """Return whether the database is Comet's and of this version; write nothing.

    WorkerError: it belongs to another program, or a newer Comet made it.
    """
    with _connected(engine) as connection:
        return _state(connection) == layout.VERSION


def build(engine: Engine) -> None:
    """Create, migrate or convert the tables in one transaction; raise WorkerError if they belong to another program."""
    with _connected(engine) as connection:
        lock(connection)
        _prepare(connection)
        connection.commit()


def lock(connection: Connection) -> None:
    """Begin a transaction during which no other one changes the tables' definition or registers a worker."""
    if connection.dialect.name == "postgresql":
        # READ COMMITTED, so that this transaction sees what others committed before it got the lock.
        connection.execution_options(isolation_level="READ COMMITTED")
        connection.execute(select(func.pg_advisory_xact_lock(layout.LOCK)))
        return
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    driver.execute("BEGIN IMMEDIATE")


@contextlib.contextmanager
def _connected(engine: Engine) -> Iterator[Connection]:
    """Connect; errors are raised as the driver's own exceptions."""
    try:
        with engine.connect() as connection:
            yield connection
    except DBAPIError as error:
        raise (error.orig or error) from None


def _prepare(connection: Connection) -> None:
    state = _state(connection)
    if state == 0:
        original = ORIGINAL_TABLE in inspect(connection).get_table_names()
        metadata.create_all(connection)
        connection.execute(insert(version_table).values(version=layout.VERSION))
        if original:
            _convert_original(connection)
        return
    while state < layout.VERSION:
        MIGRATIONS[state](connection)
        state += 1
        connection.execute(update(version_table).values(version=state))
    metadata.create_all(connection)  # restores tables that were dropped


def _state(connection: Connection) -> int:
    """Return the schema version; 0 for a database that is empty or the original program's."""
    inspector = inspect(connection)
    tables = set(inspector.get_table_names())
    if version_table.name in tables:
        version = connection.execute(select(version_table.c.version)).scalar()
        if not isinstance(version, int) or version < 1:
            raise WorkerError("its table comet_schema contains no version")
        if version > layout.VERSION:
            raise WorkerError(f"made by a newer Comet (schema {version}; this one supports {layout.VERSION})")
        return version
    if not tables:
        return 0
    sqlite_file = connection.dialect.name == "sqlite"
    if (
        sqlite_file
        and tables == {ORIGINAL_TABLE}
        and {item["name"] for item in inspector.get_columns(ORIGINAL_TABLE)} == ORIGINAL_COLUMNS
    ):
        return 0
    raise WorkerError(f"not a Comet statistics database (it has the tables {', '.join(sorted(tables)[:5])})")


def _convert_original(connection: Connection) -> None:
    """Copy the rows of the original program and rename its table.

    Its AverageResponseTime is the time of the last request. It is taken as the mean, which the program did not store.
    TotalRequests is not copied: it is the sum of the other two.
    """
    columns = "worker_id, successful_requests, failed_requests, average_response_time"
    rows = connection.execute(text(f"SELECT {columns} FROM {ORIGINAL_TABLE} ORDER BY timestamp, rowid")).all()  # nosec B608
    for number, (name, successful, failed, average) in enumerate(rows):
        try:
            good, bad = max(0, int(successful or 0)), max(0, int(failed or 0))
            taken = max(0, round(float(average or 0) * 1000)) * (good + bad)
        except (TypeError, ValueError, OverflowError):
            raise WorkerError(
                f"its row of {str(name)[:60]!r} does not contain numbers; repair it, or move the file away to start "
                "with empty statistics"
            ) from None
        if max(good, bad, taken) >= 2**63:
            raise WorkerError(
                f"its row of {str(name)[:60]!r} contains numbers that are too large; "
                "repair it, or move the file away to start with empty statistics"
            )
        connection.execute(
            insert(workers).values(
                name=str(name), first_started=number * 1e-3, updated=0.0, successful=good, failed=bad, duration_us=taken
            )
        )
    connection.execute(text(f"ALTER TABLE {ORIGINAL_TABLE} RENAME TO {ORIGINAL_KEPT_AS}"))
