"""Provides a PostgreSQL database to the commands and to the start of a worker."""

from __future__ import annotations

import contextlib
import time

import psycopg

from worker_app.common.errors import WorkerError
from worker_app.stats import layout, postgres
from worker_app.stats.postgres_store import PostgresReader, PostgresStore
from worker_app.stats.store import ChooseName

LOCK_TIMEOUT = 2.0
"""Seconds a reset waits for a lock: while it does, workers wait behind it, and their responses wait at most 5 s."""

STATEMENT_TIMEOUT = 50.0
"""Seconds a command waits for one statement; the caller waits 60. The server ends it a little earlier by itself, since
a statement whose client is gone runs on."""

PIECE = 1000
"""Pages of the request ids that one transaction deletes: 8 MB, about a hundred thousand ids."""

_PAGES = """SELECT CASE WHEN has_table_privilege('counted_requests', 'SELECT')
 THEN pg_relation_size('counted_requests') / current_setting('block_size')::int ELSE 0 END"""
"""To delete some rows takes the right to read them; without it, all are deleted by one statement."""

WRITE_CHECKS = (
    "INSERT INTO workers"
    " (name, first_started, updated, successful, failed, unplanned, disconnected, duration_us, last_batch)"
    " VALUES ('check of a start', 0, 0, 0, 0, 0, 0, 0, 0)",
    "UPDATE workers SET updated = 0 WHERE false",
    "DELETE FROM workers WHERE false",
    (
        "INSERT INTO latency (worker, bucket, count) SELECT 'x', 0, 0 WHERE false ON CONFLICT (worker, bucket) "
        "DO UPDATE SET count = 0"
    ),
    "DELETE FROM latency WHERE false",
    (
        "INSERT INTO injections (worker, kind, count) SELECT 'x', 'x', 0 WHERE false ON CONFLICT (worker, kind) "
        "DO UPDATE SET count = 0"
    ),
    "DELETE FROM injections WHERE false",
    "INSERT INTO counted_requests (worker, id, failed) SELECT 'x', 'x', false WHERE false",
    "DELETE FROM counted_requests WHERE false",
    "SELECT FROM workers, latency, injections WHERE false",
)
"""Each fails for the same reasons as a later commit, registration, merge, reset or reading; none changes anything."""


class PostgresDatabase:
    """The `Database` at a PostgreSQL URL; see `address.Database`."""

    READING: tuple[str, ...] = ("BEGIN ISOLATION LEVEL REPEATABLE READ",)
    CHANGING: tuple[str, ...] = (
        # READ COMMITTED, so that this transaction sees what others committed before it got the lock.
        "BEGIN ISOLATION LEVEL READ COMMITTED",
        f"SET LOCAL lock_timeout = {round(LOCK_TIMEOUT * 1000)}",
    )
    EXCLUDING: tuple[str, ...] = (
        f"SELECT pg_advisory_xact_lock({layout.LOCK})",
        "LOCK TABLE workers IN EXCLUSIVE MODE",  # Writers wait for this lock, readers do not.
    )
    HAS_REQUESTS = "SELECT num_nonnulls(to_regclass('counted_requests'))"

    errors: tuple[type[Exception], ...] = (psycopg.Error,)

    def __init__(self, url: str) -> None:
        self._params = postgres.parameters(url)
        self.name = postgres.display_url(self._params)

    def create(self) -> None:
        try:
            with contextlib.closing(postgres.connect(self._params, postgres.TIMEOUT)) as session:
                if not postgres.is_current(session):
                    from worker_app.stats import schema

                    schema.build(schema.postgres_engine(self._params))
                with session.transaction(force_rollback=True):
                    for statement in WRITE_CHECKS:
                        session.execute(statement)
        except WorkerError as error:
            raise WorkerError(f"{self.name}: {error}") from None
        except psycopg.Error as error:
            raise WorkerError(f"{self.name}: {self.explain(error)}") from None

    def require(self) -> None:
        try:
            with contextlib.closing(self.session()) as session:
                ready = postgres.is_current(session)
            if not ready:
                from worker_app.stats import schema

                ready = schema.check(schema.postgres_engine(self._params))
        except WorkerError as error:
            raise WorkerError(f"{self.name}: {error}") from None
        except psycopg.Error as error:
            raise WorkerError(f"{self.name}: {self.explain(error)}") from None
        if not ready:
            raise WorkerError(f"{self.name}: not a Comet statistics database yet (`create` makes it one)")

    def store(self, choose_name: ChooseName) -> PostgresStore:
        return PostgresStore(self._params, choose_name)

    def reader(self) -> PostgresReader:
        return PostgresReader(self._params)

    def session(self) -> postgres.Session:
        session = postgres.connect(self._params, postgres.TIMEOUT)
        session.timeout = STATEMENT_TIMEOUT
        session.execute(f"SET statement_timeout = {round(0.9 * STATEMENT_TIMEOUT * 1000)}")
        return session

    def forget(self, session: postgres.Session, page: int, seconds: float) -> int | None:
        ends = time.monotonic() + seconds
        ((pages,),) = session.execute(_PAGES).fetchall()
        if page == 0 < pages:
            # A reset that cannot have its locks ends before it has deleted anything.
            for statement in (*self.CHANGING, *self.EXCLUDING, "ROLLBACK"):
                session.execute(statement)
        session.execute(f"SET lock_timeout = {round(LOCK_TIMEOUT * 1000)}")
        while page < pages:
            piece = f"FROM counted_requests WHERE ctid >= '({page},0)' AND ctid < '({page + PIECE},0)'"
            session.execute(f"DELETE {piece}")
            # The first that reads deleted rows makes the server drop them: here no worker waits for it.
            session.execute(f"SELECT count(*) {piece}")
            page += PIECE
            if time.monotonic() >= ends:
                return page
        return None

    def explain(self, error: BaseException) -> str:
        return postgres.explain(error)
