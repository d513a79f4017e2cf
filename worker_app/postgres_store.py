"""One worker's row in a PostgreSQL database: registered at the start, added to in group commits, found again after every break.

A commit is one statement, so one round trip and a transaction of its own. It adds to the row only where `last_batch` is still the batch
before, and sets it to its own number: so it takes once or never, however late it reaches the server. When a session breaks in the
midst of a commit, `verify` asks over a new one: the row's `last_batch` tells whether the commit took; if it did not, a fresh
number is put there first, and whatever the old session may yet bring finds nothing to add to.

A row that is missing (a reset) is registered anew, then added to. All waiting for locks ends within `BUSY_SLICE`, all waiting
for the server within `ANSWER`.
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

from worker_app import layout, postgres
from worker_app.errors import NotCommitted, Undecided, WorkerError
from worker_app.layout import FORMER_AFTER, FORMER_ROWS, HEARTBEAT, RETIRED
from worker_app.stats import StatsRow
from worker_app.tally import Tally

log = logging.getLogger("worker_app")

BUSY_SLICE = 0.2  # seconds one attempt waits for locks; the ledger looks at its deadlines in between
ANSWER = 1.0  # seconds for an answer of the server, or for a connection, while requests wait
RECONNECT_PAUSE = 0.25  # seconds between two attempts to connect: fifty workers must not storm a server that is just coming up

_COMMIT = postgres.Prepared(
    b"comet_commit",
    b"""WITH mine AS (
 UPDATE workers SET updated = $1::float8, successful = successful + $2::int8, failed = failed + $3::int8, unplanned = unplanned + $4::int8,
 disconnected = disconnected + $5::int8, duration_us = duration_us + $6::int8, last_batch = $7::int8
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

# After these the session is as good as before; after others it is made anew, with everything that it presumes.
_PASSING = (errors.LockNotAvailable, errors.DeadlockDetected, errors.SerializationFailure, errors.QueryCanceled, errors.DiskFull)


class PostgresStore:
    """The `Store` of a PostgreSQL database. `choose_name` picks the row's name from the names already taken."""

    def __init__(self, known: dict[str, Any], choose_name: Callable[[set[str]], str]) -> None:
        self.name = ""
        self._known = known
        self._choose_name = choose_name
        self._first_started = 0.0
        self._batch = random.getrandbits(40) << 20  # no two runs of one row share batch numbers
        self._tried = self._batch
        self._session: postgres.Session | None = None
        self._updated = 0.0
        self._attempted = 0.0

    def open(self) -> None:
        """Prepare the database and register the worker. WorkerError: one line that says why not."""
        try:
            self._open(postgres.PATIENCE)
        except (psycopg.Error, WorkerError) as error:
            self._drop()
            raise WorkerError(f"{postgres.shown(self._known)}: {postgres.explain(error)}") from None

    def commit(self, tally: Tally) -> None:
        if self._session is None or self._session.lost():
            self.reopen()
        for _ in range(2):
            if self._add(tally):
                return
            # The row is gone, or somebody else has written it.
            self._quietly(self._register)
        raise NotCommitted(f"another worker writes the row {self.name}")

    def commit_at_once(self, tally: Tally) -> bool:
        return False

    def upkeep_due(self) -> bool:
        return False

    def verify(self) -> bool:
        fence = self._tried + 1
        try:
            if self._session is None:
                self._session = self._connect()
            if self._session.execute(_FENCE, (fence, self.name, self._batch)).rowcount == 1:
                self._batch = fence
                return False
            found = self._session.execute("SELECT last_batch FROM workers WHERE name = %s", (self.name,)).fetchone()
        except errors.UndefinedTable:
            self._drop()
            return False
        except psycopg.Error as error:
            self._drop(unless=error)
            raise Undecided(postgres.explain(error)) from None
        # Found under another number it was fenced off by an attempt that broke, too, and the next commit registers anew.
        took = found is not None and found[0] == self._tried
        self._batch = self._tried if took else fence
        return took

    def replaced(self) -> bool:
        return False

    def reopen(self) -> None:
        self._drop()
        try:
            self._open(ANSWER)
        except (psycopg.Error, WorkerError) as error:
            self._drop()
            raise NotCommitted(postgres.explain(error)) from None

    def tick(self, now: float) -> None:
        if self._session is None or self._session.lost():
            self.reopen()
        present = self._quietly(lambda session: session.execute("SELECT 1 FROM workers WHERE name = %s", (self.name,)).fetchone())
        if present is None or now - self._updated >= HEARTBEAT:
            self.commit(Tally())

    def close(self) -> None:
        self._drop()

    def _add(self, tally: Tally) -> bool:
        """One transaction; False: there is no row that goes on from our last batch."""
        session = self._session
        if session is None:
            raise NotCommitted("no connection")
        now, self._tried = time.time(), max(self._batch, self._tried) + 1
        sums = (now, tally.successful, tally.failed, tally.unplanned, tally.disconnected, tally.duration_us, self._tried)
        arrays = (*_arrays(tally.buckets.items()), *_arrays(tally.injections.items()), *_arrays(tally.requests))
        values = (*sums, self.name, self._batch, *arrays)
        try:
            met = session.prepared(_COMMIT, [str(value).encode() for value in values]).get_value(0, 0)
        except psycopg.Error as error:
            in_doubt = session.closed
            self._drop(unless=error)
            raise (Undecided if in_doubt else NotCommitted)(postgres.explain(error)) from None
        if met != b"1":
            return False
        self._batch, self._updated = self._tried, now
        return True

    def _quietly(self, work: Callable[[postgres.Session], Any]) -> Any:
        """Do what adds nothing to the row; NotCommitted where it fails, however it does."""
        if self._session is None:
            raise NotCommitted("no connection")
        try:
            return work(self._session)
        except psycopg.Error as error:
            self._drop(unless=error)
            raise NotCommitted(postgres.explain(error)) from None

    def _open(self, patience: float) -> None:
        if patience < postgres.PATIENCE:
            self._session = self._connect()
        else:
            self._session = postgres.connect(self._known, patience)
        if not postgres.in_place(self._session):
            # SQLAlchemy takes long to import; only a database that must be made or changed needs it.
            from worker_app import schema

            schema.build(schema.postgres_engine(self._known, patience))
        self._register(self._session)
        self._session.patience = ANSWER
        self._session.execute("SELECT set_config('lock_timeout', %s, false)", (str(round(BUSY_SLICE * 1000)),))

    def _connect(self) -> postgres.Session:
        """Connect while requests wait. psycopg.OperationalError: not now."""
        now = time.monotonic()
        if now - self._attempted < RECONNECT_PAUSE:
            raise psycopg.OperationalError("the connection to the server is lost")
        self._attempted = now
        return postgres.connect(self._known, ANSWER, BUSY_SLICE)

    def _drop(self, unless: psycopg.Error | None = None) -> None:
        """Close the session, unless the error left it usable."""
        session = self._session
        if session is None or (isinstance(unless, _PASSING) and not session.closed):
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
            # The wall clock may have been set back; the order of first start must hold all the same.
            self._first_started = self._first_started or max(now, latest + 1e-3)
            self._batch = self._tried = max(self._batch, self._tried) + 1
            session.execute(_REGISTER, (self.name, self._first_started, now, self._batch))
            _fold(session, now)
        self._updated = now


def _arrays(pairs: Iterable[tuple[Any, int]]) -> tuple[str, str]:
    """Keys and values as PostgreSQL writes arrays."""
    found = list(pairs)
    keys = ",".join('"' + str(key).replace("\\", "\\\\").replace('"', '\\"') + '"' for key, _ in found)
    return f"{{{keys}}}", f"{{{','.join(str(int(value)) for _, value in found)}}}"


_SUMS = ("successful", "failed", "unplanned", "disconnected", "duration_us")
_RETIRE = f"""INSERT INTO workers (name, first_started, updated, {", ".join(_SUMS)}, last_batch) VALUES (%s, 0, %s, %s, %s, %s, %s, %s, 0)
 ON CONFLICT (name) DO UPDATE SET updated = greatest(workers.updated, excluded.updated),
 {", ".join(f"{name} = workers.{name} + excluded.{name}" for name in _SUMS)}"""


def _fold(session: postgres.Session, now: float) -> None:
    """Put the oldest rows of former workers past the limit into the row `retired`, sums and histograms included."""
    past = (RETIRED, now - FORMER_AFTER)
    former = session.execute(
        "SELECT name FROM workers WHERE name <> %s AND updated < %s ORDER BY first_started DESC, id DESC OFFSET %s", (*past, FORMER_ROWS)
    ).fetchall()
    if not former:
        return
    # One that has given a sign of life meanwhile stays.
    gone = session.execute(
        f"DELETE FROM workers WHERE name = ANY(%s) AND updated < %s RETURNING name, updated, {', '.join(_SUMS)}",
        ([name for (name,) in former], now - FORMER_AFTER),
    ).fetchall()
    if not gone:
        return
    names, updated, *sums = zip(*gone, strict=True)
    session.execute(_RETIRE, (RETIRED, max(updated), *map(sum, sums)))
    for table, key in (("latency", "bucket"), ("injections", "kind")):
        session.execute(
            f"WITH gone AS (DELETE FROM {table} WHERE worker = ANY(%s) RETURNING {key}, count)"
            f" INSERT INTO {table} (worker, {key}, count) SELECT %s, {key}, sum(count)::int8 FROM gone GROUP BY {key}"
            f" ON CONFLICT (worker, {key}) DO UPDATE SET count = {table}.count + excluded.count",
            (list(names), RETIRED),
        )


class PostgresReader:
    """Reads for `/worker/stats` over a session of its own; used by one thread at a time. Readers wait for no writer."""

    def __init__(self, known: dict[str, Any]) -> None:
        self._known = known
        self._session: postgres.Session | None = None

    def rows(self) -> list[StatsRow]:
        try:
            if self._session is None or self._session.lost():
                self.close()
                self._session = postgres.connect(self._known, ANSWER)
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
