"""Runs PostgreSQL servers for tests: a fresh cluster on a free port, set up as Debian does it, removed at
the end.

A password is required over TCP; over the socket the uid counts (`peer`). The server listens on localhost only, and runs
as the user postgres if the caller is root.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import psycopg

from tests.support.waiting import PATIENCE, wait_until

SETTINGS = {"shared_buffers": "16MB", "max_connections": "150", "listen_addresses": "127.0.0.1"}
RULES = """
local all postgres peer
local all all peer
host all all 127.0.0.1/32 scram-sha-256
"""


def program(name: str) -> str:
    """Return the path of a server's program, of the newest version."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: float(path.parts[-3]))
    return str(found[-1]) if found else shutil.which(name) or name


class Server:
    """One server; `port` and `sockets` are where it listens."""

    def __init__(self, folder: Path, port: int, settings: Mapping[str, str]) -> None:
        self.folder, self.port = folder, port
        self.data, self.sockets = folder / "data", folder / "sockets"
        self._settings = SETTINGS | dict(settings)

    def make(self) -> None:
        self.folder.chmod(0o755)
        self.sockets.mkdir(mode=0o755)
        if os.getuid() == 0:
            account = pwd.getpwnam("postgres")
            for path in (self.folder, self.sockets):
                os.chown(path, account.pw_uid, account.pw_gid)
        self._run(
            "initdb",
            "--no-sync",
            "--no-instructions",
            "-A",
            "peer",
            "-U",
            "postgres",
            "--locale=C",
            "-E",
            "UTF8",
            str(self.data),
        )
        settings = self._settings | {"port": str(self.port), "unix_socket_directories": str(self.sockets)}
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

    def freeze(self) -> list[psutil.Process]:
        """Stop all of its processes (SIGSTOP), and return them. The first one stands still before the others are
        looked for: it would fork one more for whoever connects meanwhile.
        """
        with contextlib.suppress(OSError, ValueError, psutil.Error):
            first = psutil.Process(self.pid)
            first.suspend()
            still = (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
            wait_until(lambda: first.status() in still, what="a server that stands still")
        every = self.processes()
        for process in every[1:]:
            with contextlib.suppress(psutil.Error):
                process.suspend()
        return every

    def kill(self) -> None:
        """Kill the whole server with SIGKILL, as the out-of-memory killer may."""
        every = self.freeze()  # None may be forked meanwhile: what outlives the others keeps the server from a start.
        for process in every:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(every, timeout=10 * PATIENCE)

    def superuser(self, database: str = "postgres") -> psycopg.Connection:
        return psycopg.connect(
            host=str(self.sockets), port=self.port, user="postgres", dbname=database, autocommit=True
        )

    def destroy(self) -> None:
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGCONT)
        with contextlib.suppress(AssertionError):  # It does not run.
            self.stop("immediate")  # What SIGKILL ends leaves its shared memory behind.
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def running(port: int, user: str, password: str, settings: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Run a server with a user that has a password and owns the database `stats`."""
    made = Server(Path(tempfile.mkdtemp(prefix="comet-pg-")), port, settings or {})
    try:
        made.make()
        made.start()
        with made.superuser() as session:
            # A utility statement takes no parameters.
            secret = password.replace("'", "''")
            session.execute(f"CREATE ROLE {user} LOGIN PASSWORD '{secret}'")
            session.execute(f"CREATE DATABASE stats OWNER {user}")
        yield made
    finally:
        made.destroy()
