"""PostgreSQL servers of the tests' own: places for tables on them, and what can go wrong with them.

Nothing is synced to disk: what is tried are deaths of processes, and those lose no written page.
"""

from __future__ import annotations

import contextlib
import itertools
import signal
import threading
import time
from collections.abc import Iterator

import psutil
import psycopg

from tests.support.cluster import free_ports
from tests.support.postgres_server import Server, running
from tests.support.waiting import wait_until

USER, PASSWORD = "comet", "it's a s3cret/#"
QUOTED = "it%27s%20a%20s3cret%2F%23"

_numbers = itertools.count(1)


class Database:
    """A place for tables on a server."""

    def __init__(self, server: Server, name: str, schema: str = "public") -> None:
        self.server, self.name, self.schema = server, name, schema

    @property
    def url(self) -> str:
        """A user's, with the password."""
        path = "" if self.schema == "public" else f"?options=-csearch_path%3D{self.schema}"
        return f"postgresql://{USER}:{QUOTED}@127.0.0.1:{self.server.port}/{self.name}{path}"

    def superuser(self) -> psycopg.Connection:
        session = self.server.superuser(self.name)
        session.execute(f"SET search_path TO {self.schema}")
        return session

    def sql(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        """As the superuser."""
        with self.superuser() as session:
            cursor = session.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def reload(self) -> None:
        """Have the server read its configuration again: sessions that begin from now on meet it."""
        ((before,),) = self.sql("SELECT pg_conf_load_time()")
        self.sql("SELECT pg_reload_conf()")
        # It only sends a signal. A session has the time of the server that it was forked from.
        wait_until(lambda: self.sql("SELECT pg_conf_load_time()") != [(before,)], what="the configuration read again")

    @contextlib.contextmanager
    def locked(self, seconds: float | None = None) -> Iterator[None]:
        """Somebody holds the table of the workers for so long from now on, or while the block runs."""
        session = self.superuser()
        session.execute("BEGIN")
        session.execute("LOCK TABLE workers IN ACCESS EXCLUSIVE MODE")
        # A session that is only closed holds its locks until the server has noticed.
        release = threading.Timer(seconds or 0.0, session.execute, ("ROLLBACK",))
        if seconds is not None:
            release.start()
        try:
            yield
        finally:
            if seconds is None:
                session.execute("ROLLBACK")
            else:
                release.join()
            session.close()


def database(server: Server, encoding: str = "UTF8") -> Database:
    """A fresh database of this server, owned by the user `comet`."""
    made = Database(server, f"stats_{next(_numbers)}")
    with server.superuser() as session:
        session.execute(f"CREATE DATABASE {made.name} OWNER {USER} ENCODING '{encoding}' TEMPLATE template0")
    return made


def schema(server: Server) -> Database:
    """The same in little: a fresh schema in a database that others use too; made in a moment."""
    made = Database(server, "postgres", f"stats_{next(_numbers)}")
    with server.superuser() as session:
        session.execute(f"CREATE SCHEMA {made.schema} AUTHORIZATION {USER}")
    return made


@contextlib.contextmanager
def frozen(server: Server, seconds: float) -> Iterator[None]:
    """It stands still for so long from now; the block runs meanwhile."""
    ends = time.monotonic() + seconds
    every = server.freeze()
    try:
        yield
        time.sleep(max(0.0, ends - time.monotonic()))
    finally:
        for process in every:
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def also_at(server: Server, address: str, rule: str) -> Iterator[None]:
    """A stopped server is started to listen at one more address, under one more rule; afterwards it runs as before."""
    files = {path: path.read_text() for path in (server.data / "postgresql.conf", server.data / "pg_hba.conf")}
    settings, rules = files
    try:
        settings.write_text(f"{files[settings]}listen_addresses = '127.0.0.1,{address}'\n")
        rules.write_text(f"{files[rules]}{rule}\n")
        server.start()
        yield
    finally:
        server.kill()
        for path, content in files.items():
            path.write_text(content)
        server.start()


@contextlib.contextmanager
def server() -> Iterator[Server]:
    """A running server with the user `comet`."""
    with running(free_ports(1, keep=True), USER, PASSWORD, {"fsync": "off", "full_page_writes": "off"}) as made:
        yield made
