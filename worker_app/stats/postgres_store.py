"""Writes one worker's row to a PostgreSQL database: registers it, adds group commits, and verifies them after failures.

A commit is one statement, so it is one round trip and its own transaction. It adds to the row only if `last_batch` is
still the number of the previous batch, and sets `last_batch` to its own number. So it takes effect once or never,
however late it reaches the server. When a session fails during a commit, `verify` reads `last_batch` over a new
session. If the commit has not taken effect, `verify` first writes a new number there, so that a late statement of the
old session finds no row.

A missing row (after a reset) is registered again before the batch is added. Waits for locks end within `LOCK_TIMEOUT`,
waits for the server within `SERVER_TIMEOUT`.
"""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Callable, Iterable
from typing import Any

import psycopg
from psycopg import errors

from worker_app.common.errors import NotCommitted, Undecided, WorkerError
from worker_app.stats import layout, postgres
from worker_app.stats.batch import Batch
from worker_app.stats.layout import FORMER_AFTER, HEARTBEAT_INTERVAL, MAX_FORMER_ROWS, RETIRED
from worker_app.stats.rows import StatsRow

log = logging.getLogger("worker_app")

LOCK_TIMEOUT = 0.2
"""Seconds one attempt waits for locks; the commit queue checks its deadlines between attempts."""

SERVER_TIMEOUT = 1.0
"""Seconds for a response of the server, or for a connection, while requests wait."""

RECONNECT_INTERVAL = 0.25
"""Seconds between two attempts to connect, so that fifty workers do not overload a server that is starting."""

_COMMIT = postgres.Prepared(
    b"comet_commit",
    b"""WITH mine AS (
 UPDATE workers SET updated = $1::float8, successful = successful + $2::int8, failed = failed + $3::int8,
 unplanned = unplanned + $4::int8, disconnected = disconnected + $5::int8, duration_us = duration_us + $6::int8,
 last_batch = $7::int8
 WHERE name = $8 AND last_batch = $9::int8 RETURNING name),
 timed AS (INSERT INTO latency (worker, bucket, count) SELECT mine.name, met.bucket, met.count
 FROM mine, unnest($10::int4[], $11::int8[]) AS met (bucket, count)
 ON CONFLICT (worker, bucket) DO UPDATE SET count = latency.count + excluded.count),
 harmed AS (INSERT INTO injections (worker, kind, count) SELECT mine.name, met.kind, met.count
 FROM mine, unnest($12::text[], $13::int8[]) AS met (kind, count)
 ON CONFLICT (worker, kind) DO UPDATE SET count = injections.count + excluded.count),
 kept AS (INSERT INTO counted_requests (worker, id, failed) SELECT mine.name, met.id, met.failed
 FROM mine, unnest($14::text[], $15::bool[]) AS met (id, failed))
 SELECT count(*) FROM mine""",
)
_REGISTER = """INSERT INTO workers
 (name, first_started, updated, successful, failed, unplanned, disconnected, duration_us, last_batch)
 VALUES (%s, %s, %s, 0, 0, 0, 0, 0, %s)
 ON CONFLICT (name) DO UPDATE SET updated = excluded.updated, last_batch = excluded.last_batch"""
_FENCE = "UPDATE workers SET last_batch = %s WHERE name = %s AND last_batch = %s"
_ROWS = "SELECT name, successful, failed, duration_us FROM workers ORDER BY first_started, id"


_RECOVERABLE = (
    errors.LockNotAvailable,
    errors.DeadlockDetected,
    errors.SerializationFailure,
    errors.QueryCanceled,
    errors.DiskFull,
)
"""After these errors the session is still usable; after any other it is replaced by a new one."""


class PostgresStore:
    """The `Store` of a PostgreSQL database; `choose_name` returns the row's name, given the existing names."""

    def __init__(self, params: dict[str, Any], choose_name: Callable[[set[str]], str]) -> None:
        self.name = ""
        self._params = params
        self._choose_name = choose_name
        self._first_started = 0.0
        self._batch_number = random.getrandbits(40) << 20  # so that two runs of one row share no batch numbers
        self._attempted_number = self._batch_number
        self._session: postgres.Session | None = None
        self._updated = 0.0
        self._last_attempt = 0.0

    def open(self) -> None:
        """Prepare the database and register the worker; raise WorkerError with a one-line reason."""
        try:
            self._open(postgres.TIMEOUT)
        except (psycopg.Error, WorkerError) as error:
            self._close_session()
            raise WorkerError(f"{postgres.display_url(self._params)}: {postgres.explain(error)}") from None

    def commit(self, batch: Batch) -> None:
        if self._session is None or self._session.lost():
            self.reopen()
        for _ in range(2):
            if self._try_transaction(batch):
                return
            # The row is missing, or another process has changed it.
            self._run(self._register)
        raise NotCommitted(f"another worker writes the row {self.name}")

    def try_commit(self, batch: Batch) -> bool:
        return False

    def maintenance_due(self) -> bool:
        return False

    def verify(self) -> bool:
        fence = self._attempted_number + 1
        try:
            if self._session is None:
                self._session = self._connect()
            if self._session.execute(_FENCE, (fence, self.name, self._batch_number)).rowcount == 1:
                self._batch_number = fence
                return False
            found = self._session.execute("SELECT last_batch FROM workers WHERE name = %s", (self.name,)).fetchone()
        except errors.UndefinedTable:
            self._close_session()
            return False
        except psycopg.Error as error:
            self._close_session(unless=error)
            raise Undecided(postgres.explain(error)) from None
        # Any other number is that of an earlier `verify` that failed after its update; the next commit registers again.
        took_effect = found is not None and found[0] == self._attempted_number
        self._batch_number = self._attempted_number if took_effect else fence
        return took_effect

    def replaced(self) -> bool:
        return False

    def reopen(self) -> None:
        self._close_session()
        try:
            self._open(SERVER_TIMEOUT)
        except (psycopg.Error, WorkerError) as error:
            self._close_session()
            raise NotCommitted(postgres.explain(error)) from None

    def tick(self, now: float) -> None:
        if self._session is None or self._session.lost():
            self.reopen()
        present = self._run(
            lambda session: session.execute("SELECT 1 FROM workers WHERE name = %s", (self.name,)).fetchone()
        )
        if present is None or now - self._updated >= HEARTBEAT_INTERVAL:
            self.commit(Batch())

    def close(self) -> None:
        self._close_session()

    def _try_transaction(self, batch: Batch) -> bool:
        """Commit in one transaction; return False if no row has the number of the previous batch."""
        session = self._session
        if session is None:
            raise NotCommitted("no connection")
        now, self._attempted_number = time.time(), max(self._batch_number, self._attempted_number) + 1
        sums = (
            now,
            batch.successful,
            batch.failed,
            batch.unplanned,
            batch.disconnected,
            batch.duration_us,
            self._attempted_number,
        )
        requests = [(session.storable(id)[: layout.ID_LENGTH], failed) for id, failed in batch.requests]
        arrays = (*_arrays(batch.buckets.items()), *_arrays(batch.injections.items()), *_arrays(requests))
        values = (*sums, self.name, self._batch_number, *arrays)
        try:
            met = session.prepared(_COMMIT, [str(value).encode() for value in values]).get_value(0, 0)
        except psycopg.Error as error:
            in_doubt = session.closed
            self._close_session(unless=error)
            raise (Undecided if in_doubt else NotCommitted)(postgres.explain(error)) from None
        if met != b"1":
            return False
        self._batch_number, self._updated = self._attempted_number, now
        return True

    def _run(self, work: Callable[[postgres.Session], Any]) -> Any:
        """Run work that adds nothing to the row; raise NotCommitted if it fails in any way."""
        if self._session is None:
            raise NotCommitted("no connection")
        try:
            return work(self._session)
        except psycopg.Error as error:
            self._close_session(unless=error)
            raise NotCommitted(postgres.explain(error)) from None

    def _open(self, timeout: float) -> None:
        if timeout < postgres.TIMEOUT:
            self._session = self._connect()
        else:
            self._session = postgres.connect(self._params, timeout)
        if not postgres.is_current(self._session):
            # SQLAlchemy takes long to import; only creating or changing a database needs it.
            from worker_app.stats import schema

            schema.build(schema.postgres_engine(self._params, timeout))
        self._register(self._session)
        self._session.timeout = SERVER_TIMEOUT
        self._session.execute("SELECT set_config('lock_timeout', %s, false)", (str(round(LOCK_TIMEOUT * 1000)),))

    def _connect(self) -> postgres.Session:
        """Connect while requests wait; raise psycopg.OperationalError if that is not possible now."""
        now = time.monotonic()
        if now - self._last_attempt < RECONNECT_INTERVAL:
            raise psycopg.OperationalError("the connection to the server is lost")
        self._last_attempt = now
        return postgres.connect(self._params, SERVER_TIMEOUT, LOCK_TIMEOUT)

    def _close_session(self, unless: psycopg.Error | None = None) -> None:
        """Close the session, unless the error left it usable."""
        session = self._session
        if session is None or (isinstance(unless, _RECOVERABLE) and not session.closed):
            return
        self._session = None
        with contextlib.suppress(psycopg.Error):
            session.close()

    def _register(self, session: postgres.Session) -> None:
        now = time.time()
        with session.transaction():
            session.execute("SELECT pg_advisory_xact_lock(%s)", (layout.LOCK,))
            if not self.name:
                self.name = self._choose_name({name for (name,) in session.execute("SELECT name FROM workers")})
            (latest,) = session.execute("SELECT coalesce(max(first_started), 0) FROM workers").fetchone() or (0.0,)
            # The wall clock may have been set back; the order of first start must stay.
            self._first_started = self._first_started or max(now, latest + 1e-3)
            self._batch_number = self._attempted_number = max(self._batch_number, self._attempted_number) + 1
            session.execute(_REGISTER, (self.name, self._first_started, now, self._batch_number))
            _fold(session, now)
        self._updated = now


def _arrays(pairs: Iterable[tuple[Any, int]]) -> tuple[str, str]:
    """Return keys and values in PostgreSQL's array syntax."""
    found = list(pairs)
    keys = ",".join('"' + str(key).replace("\\", "\\\\").replace('"', '\\"') + '"' for key, _ in found)
    return f"{{{keys}}}", f"{{{','.join(str(int(value)) for _, value in found)}}}"


_SUMS = ("successful", "failed", "unplanned", "disconnected", "duration_us")
# The inserted names are constants of this module, as in every statement built here; values are bound parameters.
_RETIRE = f"""INSERT INTO workers (name, first_started, updated, {", ".join(_SUMS)}, last_batch)
 VALUES (%s, 0, %s, %s, %s, %s, %s, %s, 0)
 ON CONFLICT (name) DO UPDATE SET updated = greatest(workers.updated, excluded.updated),
 {", ".join(f"{name} = workers.{name} + excluded.{name}" for name in _SUMS)}"""  # nosec B608


def _fold(session: postgres.Session, now: float) -> None:
    """Merge the oldest rows of former workers above the limit into the row `retired`, with sums and histograms."""
    former = session.execute(
        "SELECT name FROM workers WHERE name <> %s AND updated < %s ORDER BY first_started DESC, id DESC OFFSET %s",
        (RETIRED, now - FORMER_AFTER, MAX_FORMER_ROWS),
    ).fetchall()
    if not former:
        return
    # A row that was updated in the meantime stays.
    gone = session.execute(
        f"DELETE FROM workers WHERE name = ANY(%s) AND updated < %s RETURNING name, updated, {', '.join(_SUMS)}",  # nosec B608
        ([name for (name,) in former], now - FORMER_AFTER),
    ).fetchall()
    if not gone:
        return
    names, updated, *sums = zip(*gone, strict=True)
    session.execute(_RETIRE, (RETIRED, max(updated), *map(sum, sums)))
    for table, key in (("latency", "bucket"), ("injections", "kind")):
        session.execute(
            f"WITH gone AS (DELETE FROM {table} WHERE worker = ANY(%s) RETURNING {key}, count)"  # nosec B608
            f" INSERT INTO {table} (worker, {key}, count) SELECT %s, {key}, sum(count)::int8 FROM gone GROUP BY {key}"
            f" ON CONFLICT (worker, {key}) DO UPDATE SET count = {table}.count + excluded.count",
            (list(names), RETIRED),
        )


class PostgresReader:
    """Reads for `/worker/stats` over its own session; used by one thread at a time. Readers wait for no writer."""

    def __init__(self, params: dict[str, Any]) -> None:
        self._params = params
        self._session: postgres.Session | None = None

    def rows(self) -> list[StatsRow]:
        try:
            if self._session is None or self._session.lost():
                self.close()
                self._session = postgres.connect(self._params, SERVER_TIMEOUT)
            found = self._session.execute(_ROWS, prepare=True, binary=True).fetchall()
            return [StatsRow(*row) for row in found]
        except psycopg.Error as error:
            self.close()
            raise NotCommitted(postgres.explain(error)) from None

    def close(self) -> None:
        if self._session is not None:
            with contextlib.suppress(psycopg.Error):
                self._session.close()
            self._session = None
