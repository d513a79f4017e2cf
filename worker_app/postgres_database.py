"""A PostgreSQL database as the commands and the worker's start see it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import psycopg

from worker_app import postgres
from worker_app.address import ChooseName
from worker_app.errors import WorkerError
from worker_app.postgres_store import PostgresReader, PostgresStore

if TYPE_CHECKING:
    from sqlalchemy import Engine

# Each fails where a later commit, registration, fold or reset would; none of them changes anything.
REHEARSAL = (
    "INSERT INTO workers (name, first_started, updated, successful, failed, unplanned, disconnected, duration_us, last_batch)"
    " VALUES ('the rehearsal of a start', 0, 0, 0, 0, 0, 0, 0, 0)",
    "UPDATE workers SET updated = 0 WHERE false",
    "DELETE FROM workers WHERE false",
    "INSERT INTO latency (worker, bucket, count) SELECT 'x', 0, 0 WHERE false ON CONFLICT (worker, bucket) DO UPDATE SET count = 0",
    "DELETE FROM latency WHERE false",
    "INSERT INTO injections (worker, kind, count) SELECT 'x', 'x', 0 WHERE false ON CONFLICT (worker, kind) DO UPDATE SET count = 0",
    "DELETE FROM injections WHERE false",
    "INSERT INTO counted_requests (worker, id, failed) SELECT 'x', 'x', false WHERE false",
)


class PostgresDatabase:
    """The `Database` that a PostgreSQL URL names; see `address.Database`."""

    errors: tuple[type[Exception], ...] = (psycopg.Error,)

    def __init__(self, url: str) -> None:
        self._known = postgres.parameters(url)
        self.name = postgres.shown(self._known)

    def create(self) -> None:
        try:
            with contextlib.closing(postgres.connect(self._known, postgres.PATIENCE)) as session:
                if not postgres.in_place(session):
                    from worker_app import schema

                    schema.build(schema.postgres_engine(self._known))
                with session.transaction(force_rollback=True):
                    for statement in REHEARSAL:
                        session.execute(statement)
        except WorkerError as error:
            raise WorkerError(f"{self.name}: {error}") from None
        except psycopg.Error as error:
            raise WorkerError(f"{self.name}: {self.explain(error)}") from None

    def require(self) -> None:
        from worker_app import schema

        try:
            ready = schema.check(schema.postgres_engine(self._known))
        except WorkerError as error:
            raise WorkerError(f"{self.name}: {error}") from None
        except psycopg.Error as error:
            raise WorkerError(f"{self.name}: {self.explain(error)}") from None
        if not ready:
            raise WorkerError(f"{self.name}: not yet a Comet statistics database (create makes it one)")

    def store(self, choose_name: ChooseName) -> PostgresStore:
        return PostgresStore(self._known, choose_name)

    def reader(self) -> PostgresReader:
        return PostgresReader(self._known)

    def engine(self) -> Engine:
        from worker_app import schema

        return schema.postgres_engine(self._known)

    def explain(self, error: BaseException) -> str:
        return postgres.explain(error)
