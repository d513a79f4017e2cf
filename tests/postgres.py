"""PostgreSQL servers of the tests' own: a fresh cluster on a free port, set up as Debian does it, and gone at the end.

A password is asked for over TCP, over the socket the uid counts (`peer`); it listens on localhost only. Nothing is synced to disk: what
is tried are deaths of processes, and those lose no written page.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg

from tests.integration.clusters import free_ports

USER, PASSWORD = "comet", "it's a s3cret/#"
QUOTED = "it%27s%20a%20s3cret%2F%23"
SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "16MB",
    "max_connections": "150",
    "listen_addresses": "127.0.0.1",
}
RULES = """
local all postgres peer
local all all peer
host all all 127.0.0.1/32 scram-sha-256
"""


def program(name: str) -> str:
    """The path of a server's program: the newest version's."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: float(path.parts[-3]))
    return str(found[-1]) if found else shutil.which(name) or name


class Server:
    """One server; `port` and `sockets` are where it listens."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.data, self.sockets = folder / "data", folder / "sockets"
        self._made = 0

    def make(self) -> None:
        self.folder.chmod(0o755)
        self.sockets.mkdir(mode=0o755)
        if os.getuid() == 0:
            account = pwd.getpwnam("postgres")
            for path in (self.folder, self.sockets):
                os.chown(path, account.pw_uid, account.pw_gid)
        self._run("initdb", "--no-sync", "--no-instructions", "-A", "peer", "-U", "postgres", "--locale=C", "-E", "UTF8", str(self.data))
        settings = SETTINGS | {"port": str(self.port), "unix_socket_directories": str(self.sockets)}
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(f"{key} = '{value}'\n" for key, value in settings.items())
        me = pwd.getpwuid(os.getuid()).pw_name
        (self.data / "pg_hba.conf").write_text(f"local all postgres peer map=tests\n{RULES}")
        (self.data / "pg_ident.conf").write_text(f"tests {me} postgres\ntests postgres postgres\n")

    def _run(self, name: str, *words: str) -> None:
        argv = [program(name), *words]
        if os.getuid() == 0:
            argv = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", *argv]
        # Not a pipe: the server would inherit it, and the reading of it would wait for the server's end.
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(argv, cwd="/", stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False)
            output.seek(0)
            assert done.returncode == 0, output.read().decode()

    def start(self) -> None:
        self._run("pg_ctl", "-D", str(self.data), "-l", str(self.folder / "log"), "-w", "-t", "60", "start")

    def stop(self, mode: str = "fast") -> None:
        self._run("pg_ctl", "-D", str(self.data), "-m", mode, "-w", "-t", "60", "stop")

    @property
    def pid(self) -> int:
        return int((self.data / "postmaster.pid").read_text().split()[0])

    def processes(self) -> list[psutil.Process]:
        with contextlib.suppress(OSError, ValueError, psutil.Error):
            first = psutil.Process(self.pid)
            return [first, *first.children()]
        return []

    def kill(self) -> None:
        """SIGKILL to all of it, as the out-of-memory killer may do it."""
        every = self.processes()
        for process in every:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(every, timeout=10)

    @contextlib.contextmanager
    def frozen(self, seconds: float) -> Iterator[None]:
        """It stands still for so long from now; the block runs meanwhile."""
        ends = time.monotonic() + seconds
        every = self.processes()
        for process in every:
            process.send_signal(signal.SIGSTOP)
        try:
            yield
            time.sleep(max(0.0, ends - time.monotonic()))
        finally:
            for process in every:
                with contextlib.suppress(psutil.Error):
                    process.send_signal(signal.SIGCONT)

    def database(self) -> Database:
        """A fresh database of this server, owned by the user `comet`."""
        self._made += 1
        made = Database(self, f"stats_{self._made}")
        with self.superuser() as session:
            session.execute(f"CREATE DATABASE {made.name} OWNER {USER}")
        return made

    def schema(self) -> Database:
        """The same in little: a fresh schema in a database that others use too; made in a moment."""
        self._made += 1
        made = Database(self, "postgres", f"stats_{self._made}")
        with self.superuser() as session:
            session.execute(f"CREATE SCHEMA {made.schema} AUTHORIZATION {USER}")
        return made

    def superuser(self, database: str = "postgres") -> psycopg.Connection:
        return psycopg.connect(host=str(self.sockets), port=self.port, user="postgres", dbname=database, autocommit=True)

    @contextlib.contextmanager
    def also_at(self, address: str, rule: str) -> Iterator[None]:
        """A stopped server is started to listen at one more address, under one more rule; afterwards it runs as before."""
        files = {path: path.read_text() for path in (self.data / "postgresql.conf", self.data / "pg_hba.conf")}
        settings, rules = files
        try:
            settings.write_text(f"{files[settings]}listen_addresses = '127.0.0.1,{address}'\n")
            rules.write_text(f"{files[rules]}{rule}\n")
            self.start()
            yield
            self.stop()
        finally:
            for path, content in files.items():
                path.write_text(content)
            self.start()

    def destroy(self) -> None:
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGCONT)
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


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

    @contextlib.contextmanager
    def locked(self, seconds: float) -> Iterator[None]:
        """Somebody holds the table of the workers for so long, from now on."""
        session = self.superuser()
        session.execute("BEGIN")
        session.execute("LOCK TABLE workers IN ACCESS EXCLUSIVE MODE")
        release = threading.Timer(seconds, session.close)
        release.start()
        try:
            yield
        finally:
            release.join()


@contextlib.contextmanager
def server() -> Iterator[Server]:
    """A running server with the user `comet`."""
    made = Server(Path(tempfile.mkdtemp(prefix="comet-pg-")), free_ports(1))
    try:
        made.make()
        made.start()
        with made.superuser() as session:
            # A utility statement takes no parameters.
            secret = PASSWORD.replace("'", "''")
            session.execute(f"CREATE ROLE {USER} LOGIN PASSWORD '{secret}'")
        yield made
    finally:
        made.destroy()
