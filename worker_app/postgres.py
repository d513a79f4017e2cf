"""Connections to PostgreSQL that never wait longer than they are told, and its errors in one line.

A server that is stopped, frozen or out of reach must not hold the writer longer than an answer may wait: libpq has no deadline for a
query, so the waiting is done here, on psycopg's own generators. A session that ran out of patience is closed, because nobody can
know how far it came.
"""

from __future__ import annotations

import re
import select
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg
from psycopg import conninfo, errors, pq
from psycopg.abc import PQGen
from psycopg.pq.abc import PGconn, PGresult

from worker_app import layout
from worker_app.errors import WorkerError

PATIENCE = 10.0  # seconds a start or a command waits: for the connection, for each answer, for locks
EXAMPLE = "postgresql://user:password@host:5432/database"
DEFAULTS = {"application_name": "comet"}

_READ, _WRITE = 1, 2  # psycopg's Wait and Ready
_INTEREST = {_READ: select.POLLIN, _WRITE: select.POLLOUT, _READ | _WRITE: select.POLLIN | select.POLLOUT}
_T = TypeVar("_T")


class NoAnswer(psycopg.OperationalError):
    """The server did not answer in time; the session is closed."""


@dataclass(frozen=True)
class Prepared:
    """A statement that is prepared once per session; its parameters are $1, $2…"""

    name: bytes
    text: bytes


class Session(psycopg.Connection[tuple[Any, ...]]):
    """A connection whose every exchange with the server takes `patience` seconds at most."""

    patience = PATIENCE

    def __init__(self, pgconn: PGconn) -> None:
        super().__init__(pgconn)
        self._statements: set[bytes] = set()

    def wait(self, gen: PQGen[_T], *_: Any, **__: Any) -> _T:
        poll, watched = select.poll(), -1
        deadline = time.monotonic() + self.patience
        try:
            wanted = next(gen)
            while True:
                if wanted != watched:
                    poll.register(self.pgconn.socket, _INTEREST[wanted])
                    watched = wanted
                events = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
                if not events:
                    gen.close()
                    self.pgconn.finish()
                    raise NoAnswer(f"the server does not answer within {self.patience:g} s")
                mask = events[0][1]
                ready = (_READ if mask & ~select.POLLOUT else 0) | (_WRITE if mask & select.POLLOUT else 0)
                wanted = gen.send(ready & wanted or wanted)
        except StopIteration as end:
            answer: _T = end.value
            return answer

    def prepared(self, statement: Prepared, values: Sequence[bytes]) -> PGresult:
        """Execute by libpq's own calls: a cursor would take as long again as all the rest of a commit. All values are text.

        psycopg.Error as from `execute`.
        """
        if statement.name not in self._statements:
            self.pgconn.send_prepare(statement.name, statement.text)
            self._result()
            self._statements.add(statement.name)
        self.pgconn.send_query_prepared(statement.name, values)
        return self._result()

    def _result(self) -> PGresult:
        """The one result of what was sent; only when the server is ready for more is it known to stand."""
        pgconn, deadline = self.pgconn, time.monotonic() + self.patience
        while pgconn.flush():
            self._await(select.POLLIN | select.POLLOUT, deadline)
            pgconn.consume_input()
        found: list[PGresult] = []
        while True:
            while pgconn.is_busy():
                self._await(select.POLLIN, deadline)
                pgconn.consume_input()
            result = pgconn.get_result()
            if result is None:
                break
            if result.status not in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
                found.insert(0, result)
            else:
                found.append(result)
        if not found:
            raise psycopg.OperationalError("the server ended the session")
        if found[0].status not in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
            raise errors.error_from_result(found[0])
        return found[0]

    def _await(self, events: int, deadline: float) -> None:
        poll = select.poll()
        poll.register(self.pgconn.socket, events)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            self.pgconn.finish()
            raise NoAnswer(f"the server does not answer within {self.patience:g} s")

    def lost(self) -> bool:
        """Whether the server has ended the session meanwhile; asks nobody."""
        poll = select.poll()
        # A server that goes says so first: its end is seen only behind its last words.
        while self.pgconn.status == pq.ConnStatus.OK:
            poll.register(self.pgconn.socket, select.POLLIN)
            if not poll.poll(0):
                return False
            try:
                self.pgconn.consume_input()
            except psycopg.OperationalError:
                return True
        return True


def parameters(url: str) -> dict[str, Any]:
    """libpq's view of a URL. WorkerError: it has none; the error does not repeat the URL, which may hold a password."""
    try:
        return DEFAULTS | conninfo.conninfo_to_dict(url)
    except psycopg.Error:
        raise WorkerError(f"not a usable PostgreSQL URL (allowed: {EXAMPLE}, special characters percent-encoded)") from None


def shown(known: dict[str, Any]) -> str:
    """The address in messages, without the password."""
    user, host, port = (known.get(key) for key in ("user", "host", "port"))
    path = f"/{known['dbname']}" if known.get("dbname") else ""
    if host and host.startswith("/"):
        path, host = f"{path}?host={host}", ""
    return f"postgresql://{f'{user}@' if user else ''}{host or ''}{f':{port}' if port else ''}{path}"


def connect(known: dict[str, Any], patience: float, lock_patience: float | None = None, autocommit: bool = True) -> Session:
    """A session within `patience` seconds; afterwards that is its patience. It waits for locks `lock_patience` seconds (default: as long).

    psycopg.OperationalError: no such session.
    """
    deadline = time.monotonic() + patience
    pgconn = pq.PGconn.connect_start(conninfo.make_conninfo("", **known).encode())
    while True:
        if pgconn.status == pq.ConnStatus.BAD:
            raise psycopg.OperationalError(_words(pgconn))
        state = pgconn.connect_poll()
        if state == pq.PollingStatus.OK:
            break
        if state == pq.PollingStatus.FAILED:
            raise psycopg.OperationalError(_words(pgconn))
        poll = select.poll()
        poll.register(pgconn.socket, select.POLLIN if state == pq.PollingStatus.READING else select.POLLOUT)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            pgconn.finish()
            raise NoAnswer(f"the server does not answer within {patience:g} s")
    pgconn.nonblocking = 1
    session = Session(pgconn)
    session.patience = patience
    session.autocommit = True
    wait = round((patience if lock_patience is None else lock_patience) * 1000)
    try:
        # A commit that the server has only promised would be lost with it, and an answer was sent on its strength.
        session.execute(
            "SELECT set_config('lock_timeout', %s, false),"
            " set_config('synchronous_commit', replace(current_setting('synchronous_commit'), 'off', 'on'), false)",
            (str(wait),),
        )
    except psycopg.Error:
        session.close()
        raise
    session.autocommit = autocommit
    return session


def _words(pgconn: PGconn) -> str:
    words = pgconn.get_error_message()
    pgconn.finish()
    return words


def in_place(session: Session) -> bool:
    """Whether the tables are there, of the present version: the case of almost every start."""
    try:
        tables = ", ".join(f"to_regclass('{name}')" for name in layout.TABLES)
        found = session.execute(f"SELECT version, num_nulls({tables}) FROM comet_schema").fetchone()
    except errors.UndefinedTable:
        return False
    return found == (layout.VERSION, 0)


HINTS = (
    ("does not answer within", "is it stopped, or a firewall in between?"),
    ("no password supplied", "give the password in the URL, or mend the server's pg_hba.conf"),
    ("permission denied for schema", "grant CREATE on the schema to this user, or make the user the owner of the database"),
    ("permission denied", "grant this user all rights on Comet's tables"),
    ("Peer authentication failed", "over a socket the server looks at the uid; name a host, or mend its pg_hba.conf"),
    ("read-only transaction", "a standby cannot keep statistics; name the primary server"),
    ("no schema has been selected", "the schema of its search_path does not exist, or this user may not use it"),
    ("lock timeout", "locked by another session for too long"),
)


def explain(error: BaseException) -> str:
    """One line for a person: the server's words without repetition, and what helps."""
    original = getattr(error, "orig", None) or error
    primary = original.diag.message_primary if isinstance(original, psycopg.Error) else None
    words = primary or _first_reason(str(original))
    hint = next((hint for sign, hint in HINTS if sign in words), None)
    return f"{words} ({hint})" if hint else words


def _first_reason(text: str) -> str:
    """libpq tells of every address that it tried, a line each; what is asked below one is advice."""
    reasons = []
    for line in text.splitlines():
        reason = re.sub(r"^.*failed: (?=FATAL)", "", line.strip())
        reason = re.sub(r"^(connection failed: |FATAL: +)+", "", reason)
        if reason and reason not in reasons:
            reasons.append(reason)
    if len(reasons) > 1 and reasons[1].startswith("Is the server running"):
        return f"{reasons[0]} (is the server running there?)"
    return reasons[0] if reasons else "unknown error"
