"""The database's tables, in SQLAlchemy Core for both dialects, and how an older file becomes a present one.

A file is recognised by its tables, never by its name: empty -> ours to make; with `comet_schema` -> ours, of a version; exactly
the one table of the original Go program -> taken over; anything else is somebody's and is not touched.
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

from worker_app import layout, sqlite
from worker_app.errors import WorkerError

metadata = MetaData()
_ID = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by itself only in an INTEGER key

version_table = Table("comet_schema", metadata, Column("version", Integer, nullable=False))

workers = Table(
    "workers",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("name", String(255), nullable=False, unique=True),
    Column("first_started", Float(53), nullable=False),  # Unix seconds, made strictly increasing: the order of `/worker/stats`
    Column("updated", Float(53), nullable=False),  # Unix seconds of the last write of the living worker
    Column("successful", BigInteger, nullable=False, default=0),
    Column("failed", BigInteger, nullable=False, default=0),
    Column("unplanned", BigInteger, nullable=False, default=0),  # those of `failed` that nobody injected
    Column("disconnected", BigInteger, nullable=False, default=0),  # clients gone before they had their answer
    Column("duration_us", BigInteger, nullable=False, default=0),  # an integer: adding never rounds
    Column("last_batch", BigInteger, nullable=False, default=0),  # tells after a broken commit whether it took
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

# A row per counted request, where workers are asked to keep them: committed together with its count.
counted_requests = Table(
    "counted_requests",
    metadata,
    Column("worker", String(255), nullable=False),
    Column("id", String(layout.ID_LENGTH), nullable=False),  # its X-Request-Id; empty where it had none
    Column("failed", Boolean, nullable=False),
)

# version -> what turns a database of that version into one of the next
MIGRATIONS: Mapping[int, Callable[[Connection], None]] = {}

ORIGINAL_TABLE = "worker_stats"
ORIGINAL_COLUMNS = {"worker_id", "timestamp", "successful_requests", "failed_requests", "total_requests", "average_response_time"}
ORIGINAL_KEPT_AS = "original_worker_stats"


def engine_for(path: str, timeout: float = sqlite.PATIENCE) -> Engine:
    """An engine over a SQLite file, without a pool: a connection that stays open would hold locks."""
    return create_engine("sqlite://", creator=lambda: sqlite.connect(path, timeout), poolclass=NullPool)


def postgres_engine(known: dict[str, Any], patience: float = 10.0) -> Engine:
    """An engine over a PostgreSQL database, known by libpq's parameters; its connections wait at most `patience` seconds at a time."""
    from worker_app import postgres

    return create_engine(
        "postgresql+psycopg://",
        creator=lambda: postgres.connect(known, patience, autocommit=False),
        poolclass=NullPool,
        use_native_hstore=False,
        isolation_level="REPEATABLE READ",
    )


def check(engine: Engine) -> bool:
    """Whether the database is ours and of this version. Writes nothing. WorkerError: somebody else's, or of a later version."""
    with _connected(engine) as connection:
        return _state(connection) == layout.VERSION


def build(engine: Engine) -> None:
    """Make, migrate or take over the tables in one transaction. WorkerError: not ours to touch."""
    with _connected(engine) as connection:
        lock(connection)
        _prepare(connection)
        connection.commit()


def lock(connection: Connection) -> None:
    """Begin a transaction beside which no other changes the tables' definition or registers a worker."""
    if connection.dialect.name == "postgresql":
        # Before the transaction's snapshot: what others did until the lock was ours has to be seen.
        connection.execution_options(isolation_level="READ COMMITTED")
        connection.execute(select(func.pg_advisory_xact_lock(layout.LOCK)))
        return
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    driver.execute("BEGIN IMMEDIATE")


@contextlib.contextmanager
def _connected(engine: Engine) -> Iterator[Connection]:
    """A connection whose errors are the driver's own."""
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
            _take_over(connection)
        return
    while state < layout.VERSION:
        MIGRATIONS[state](connection)
        state += 1
        connection.execute(update(version_table).values(version=state))
    metadata.create_all(connection)  # what somebody has dropped


def _state(connection: Connection) -> int:
    """The schema version; 0 for a database that is empty or the original program's."""
    inspector = inspect(connection)
    tables = set(inspector.get_table_names())
    if version_table.name in tables:
        version = connection.execute(select(version_table.c.version)).scalar()
        if not isinstance(version, int):
            raise WorkerError("its table comet_schema names no version")
        if version > layout.VERSION:
            raise WorkerError(f"made by a newer Comet (schema {version}, this one knows {layout.VERSION})")
        return version
    if not tables:
        return 0
    sqlite_file = connection.dialect.name == "sqlite"
    if sqlite_file and tables == {ORIGINAL_TABLE} and {item["name"] for item in inspector.get_columns(ORIGINAL_TABLE)} == ORIGINAL_COLUMNS:
        return 0
    raise WorkerError(f"not a Comet statistics database (it has the tables {', '.join(sorted(tables)[:5])})")


def _take_over(connection: Connection) -> None:
    """Copy the rows of the original program; its table is kept under another name.

    Its AverageResponseTime is the time of the last request: it stands for the mean, which was never stored. TotalRequests is not copied,
    it is the sum of the other two.
    """
    rows = connection.execute(
        text(
            f"SELECT worker_id, successful_requests, failed_requests, average_response_time FROM {ORIGINAL_TABLE} ORDER BY timestamp, rowid"
        )
    ).all()
    for number, (name, successful, failed, average) in enumerate(rows):
        good, bad = max(0, int(successful or 0)), max(0, int(failed or 0))
        connection.execute(
            insert(workers).values(
                name=str(name),
                first_started=number * 1e-3,
                updated=0.0,
                successful=good,
                failed=bad,
                duration_us=max(0, round(float(average or 0) * 1000)) * (good + bad),
            )
        )
    connection.execute(text(f"ALTER TABLE {ORIGINAL_TABLE} RENAME TO {ORIGINAL_KEPT_AS}"))
