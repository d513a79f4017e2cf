"""Connects to PostgreSQL with a timeout for every wait, and reports its errors in one line.

A server that is stopped, frozen or unreachable must not hold the writer thread longer than a response may wait. libpq
has no timeout for a query, so the waiting is done here, on psycopg's own generators. A session that timed out is
closed, because its state is unknown.
"""

from __future__ import annotations

import re
import select
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

import psycopg
from psycopg import conninfo, errors, pq
from psycopg.abc import PQGen
from psycopg.pq.abc import PGconn, PGresult

from worker_app.common.errors import WorkerError
from worker_app.stats import layout

TIMEOUT = 10.0
"""Seconds a start or a command waits for the connection, for each response, and for locks."""

DEFAULT_PORT = "5432"
EXAMPLE = "postgresql://user:password@host:5432/database"
DEFAULTS = {"application_name": "comet"}
FIXED = {"client_encoding": "UTF8"}
"""What no URL and no server changes: with SQL_ASCII, psycopg returns bytes in place of text."""

_CODECS = {b"UTF8": "utf-8", b"LATIN1": "latin-1"}
"""Python's codecs that have exactly the characters of a server's encoding."""

_PLACE = ("host", "hostaddr", "port")
"""Parameters that are lists in a URL with several servers."""

_READ, _WRITE = 1, 2
"""Values of psycopg's Wait and Ready."""

_INTEREST = {_READ: select.POLLIN, _WRITE: select.POLLOUT, _READ | _WRITE: select.POLLIN | select.POLLOUT}
_T = TypeVar("_T")


class ServerTimeout(psycopg.OperationalError):
    """The server did not respond in time; the session is closed."""


@dataclass(frozen=True)
class Prepared:
    """A statement that is prepared once per session; its parameters are $1, $2, ..."""

    name: bytes
    text: bytes


class Session(psycopg.Connection[tuple[Any, ...]]):
    """A connection that waits at most `timeout` seconds for each response of the server."""

    timeout = TIMEOUT

    def __init__(self, pgconn: PGconn) -> None:
        super().__init__(pgconn)
        self._statements: set[bytes] = set()
        self._codec = _CODECS.get(pgconn.parameter_status(b"server_encoding") or b"", "ascii")

    def storable(self, text: str) -> str:
        r"""Return the text with escapes (`\xe9`) for what the encoding of the database may not have.

        One such character would fail the whole statement.
        """
        return text.encode(self._codec, "backslashreplace").decode(self._codec)

    def wait(self, gen: PQGen[_T], *_: Any, **__: Any) -> _T:
        poll, watched = select.poll(), -1
        deadline = time.monotonic() + self.timeout
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
                    raise ServerTimeout(f"the server did not answer a statement within {self.timeout:g} s")
                mask = events[0][1]
                ready = (_READ if mask & ~select.POLLOUT else 0) | (_WRITE if mask & select.POLLOUT else 0)
                wanted = gen.send(ready & wanted or wanted)
        except StopIteration as end:
            answer: _T = end.value
            return answer

    def prepared(self, statement: Prepared, values: Sequence[bytes]) -> PGresult:
        """Execute a statement by libpq's own calls; all values are text. Raise psycopg.Error like `execute`.

        A cursor would double the time of a commit.
        """
        if statement.name not in self._statements:
            self.pgconn.send_prepare(statement.name, statement.text)
            self._result()
            self._statements.add(statement.name)
        self.pgconn.send_query_prepared(statement.name, values)
        return self._result()

    def _result(self) -> PGresult:
        """Return the single result; it is final only when the server is ready for the next statement."""
        pgconn, deadline = self.pgconn, time.monotonic() + self.timeout
        while pgconn.flush():
            self._poll(select.POLLIN | select.POLLOUT, deadline)
            pgconn.consume_input()
        found: list[PGresult] = []
        while True:
            while pgconn.is_busy():
                self._poll(select.POLLIN, deadline)
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

    def _poll(self, events: int, deadline: float) -> None:
        poll = select.poll()
        poll.register(self.pgconn.socket, events)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            self.pgconn.finish()
            raise ServerTimeout(f"the server did not answer a statement within {self.timeout:g} s")

    def lost(self) -> bool:
        """Return whether the server has closed the session; send nothing."""
        poll = select.poll()
        # A server that shuts down first sends a message; the end of the stream is seen only after that is read.
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
    """Return libpq's parameters of a URL.

    WorkerError: it is not usable; the message does not repeat the URL, which may contain a password.
    """
    try:
        params = DEFAULTS | conninfo.conninfo_to_dict(url) | FIXED
        _servers(params)
    except psycopg.Error:
        raise WorkerError(
            f"not a usable PostgreSQL URL (allowed: {EXAMPLE}, special characters percent-encoded)"
        ) from None
    except ValueError:
        raise WorkerError("not a usable PostgreSQL URL (allowed: one port, or one for each host)") from None
    if not re.fullmatch(r"\s*[+-]?\d{1,6}\s*", str(params.get("connect_timeout", 0)), re.ASCII):
        raise WorkerError(
            "the connect_timeout is not a whole number of seconds (allowed: up to 999999; 0 is as if not given)"
        )
    return params


def _servers(params: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return (host, hostaddr, port) of each server, with '' for what is not given; ValueError: their numbers differ."""
    lists = [(params.get(key) or "").split(",") for key in _PLACE]
    count = max(map(len, lists[:2]))
    return list(zip(*(values * count if len(values) == 1 else values for values in lists), strict=True))


def display_url(params: dict[str, Any]) -> str:
    """Return the URL for messages, without the password."""
    user, dbname = (quote(params.get(key) or "", safe="") for key in ("user", "dbname"))
    path = f"/{dbname}" if dbname else ""
    servers = [(host or address, port) for host, address, port in _servers(params)]
    if len(servers) == 1 and servers[0][0].startswith("/"):
        path, servers = f"{path}?host={servers[0][0]}", [("", servers[0][1])]
    return f"postgresql://{f'{user}@' if user else ''}{','.join(_address(*server) for server in servers)}{path}"


def _address(host: str, port: str) -> str:
    shown = f"[{quote(host, safe=':')}]" if ":" in host else quote(host, safe="")
    return f"{shown}:{port}" if port else shown


def connect(
    params: dict[str, Any], timeout: float, lock_timeout: float | None = None, autocommit: bool = True
) -> Session:
    """Open a session with the first server that accepts one; raise psycopg.OperationalError if none does.

    `timeout` (seconds) limits each later wait of the session; see `_seconds_per_server` for the connection.
    `lock_timeout` limits its waits for locks (default: a little less, so that the server's message about the lock
    arrives in time).
    """
    pgconn = _connection(params, timeout)
    pgconn.nonblocking = 1
    session = Session(pgconn)
    session.timeout = timeout
    session.autocommit = True
    wait = round((0.8 * timeout if lock_timeout is None else lock_timeout) * 1000)
    try:
        # Without synchronous_commit a crash of the server could lose commits whose responses have already been sent.
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


def _connection(params: dict[str, Any], timeout: float) -> PGconn:
    """Connect; libpq itself goes on from a server that refuses, and here it begins again without one that is silent."""
    servers, others = _servers(params), {key: value for key, value in params.items() if key not in _PLACE}
    seconds = _seconds_per_server(params, timeout, len(servers))
    while True:
        lists = {key: ",".join(values) for key, values in zip(_PLACE, zip(*servers, strict=True), strict=True)}
        given = {key: values for key, values in lists.items() if values.strip(",")}
        pgconn = pq.PGconn.connect_start(conninfo.make_conninfo("", **others, **given).encode())
        silent = _silent_server(pgconn, seconds)
        if silent is None:
            return pgconn
        pgconn.finish()
        shown = [(host or address, port or DEFAULT_PORT) for host, address, port in servers]
        del servers[shown.index(silent) if silent in shown else 0]
        if not servers:
            raise ServerTimeout(f"the server does not respond within {round(seconds, 1):g} s")


def _seconds_per_server(params: dict[str, Any], timeout: float, servers: int) -> float:
    """Return the seconds each server has: connect_timeout, as libpq has it, or its share of a start's or command's.

    While requests wait, each has the whole `timeout`, which is short, and connect_timeout does not count.
    """
    if timeout < TIMEOUT:
        return timeout
    given = int(params.get("connect_timeout", 0))
    return float(given) if given > 0 else timeout / servers


def _silent_server(pgconn: PGconn, seconds: float) -> tuple[str, str] | None:
    """Return None once connected, or the host and port of a server that does not respond within `seconds`."""
    server, deadline = (b"", b""), 0.0
    while True:
        state = pq.PollingStatus.FAILED if pgconn.status == pq.ConnStatus.BAD else pgconn.connect_poll()
        if state == pq.PollingStatus.OK:
            return None
        if state == pq.PollingStatus.FAILED:
            raise psycopg.OperationalError(_error_message(pgconn))
        if (pgconn.host, pgconn.port) != server:
            server, deadline = (pgconn.host, pgconn.port), time.monotonic() + seconds
        poll = select.poll()
        poll.register(pgconn.socket, select.POLLIN if state == pq.PollingStatus.READING else select.POLLOUT)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            return server[0].decode(), server[1].decode()


def _error_message(pgconn: PGconn) -> str:
    message = pgconn.get_error_message()
    pgconn.finish()
    return message


def is_current(session: Session) -> bool:
    """Return whether the tables exist, of the current version: the case at almost every start."""
    try:
        tables = ", ".join(f"to_regclass('{name}')" for name in layout.TABLES)
        found = session.execute(f"SELECT version, num_nulls({tables}) FROM comet_schema").fetchone()  # nosec B608
    except errors.UndefinedTable:
        return False
    return found == (layout.VERSION, 0)


HINTS = (
    ("does not respond within", "is it stopped, or does a firewall drop the packets?"),
    ("did not answer a statement within", "is it stopped, or is the connection to it cut?"),
    ("statement timeout", "the server is slow or busy; run the command again: a reset goes on with what is left"),
    ("no password supplied", "give the password in the URL, or correct the server's pg_hba.conf"),
    (
        "permission denied for schema",
        "grant CREATE on the schema to this user, or make the user the owner of the database",
    ),
    ("permission denied", "grant this user all rights on Comet's tables"),
    ("Peer authentication failed", "over a socket the server checks the uid; name a host, or correct its pg_hba.conf"),
    ("read-only transaction", "a standby server cannot store statistics; name the primary server"),
    ("no schema has been selected", "the schema of its search_path does not exist, or this user may not use it"),
    ("lock timeout", "another session has held the lock for too long"),
)
"""Pairs of a text in the server's message and what helps."""

ATTEMPT = re.compile(r"(connection failed: )?(connection to server |could not translate host name )")
"""The begin of libpq's line for each address tried; what follows it are details."""


def explain(error: BaseException) -> str:
    """Return one line for the user: the server's message without repetitions, and what helps."""
    original = getattr(error, "orig", None) or error
    primary = original.diag.message_primary if isinstance(original, psycopg.Error) else None
    message = primary or _decisive_reason(str(original))
    hint = next((hint for sign, hint in HINTS if sign in message), None)
    return f"{message} ({hint})" if hint else message


def _decisive_reason(text: str) -> str:
    """Return the reason in a message of libpq: of several addresses tried, that of the last one, where it gave up."""
    lines = text.splitlines()
    attempts = [number for number, line in enumerate(lines) if ATTEMPT.match(line)]
    decisive = lines[attempts[-1] if attempts else 0 :]
    reason = re.sub(r"^.*failed: (?=FATAL)", "", decisive[0].strip()) if decisive else ""
    reason = re.sub(r"^(connection failed: |FATAL: +)+", "", reason) or "unknown error"
    return f"{reason} (is the server running there?)" if "\tIs the server running" in "\n".join(decisive) else reason
