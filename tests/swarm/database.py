"""A PostgreSQL server on one of the test machines, reachable from all of them."""

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.support.postgres import PASSWORD, QUOTED, USER
from tests.support.postgres_server import Server, program
from tests.swarm.hosts import NETWORK, Hosts

PORT = 5432
RULES = f"""
host all all {NETWORK}.0/24 scram-sha-256
host all all 172.16.0.0/12 scram-sha-256
"""
"""Tasks on the server's own machine come from their bridge, all others from their machine's address."""


class Placed(Server):
    """It listens on h1's address in its network; by its UNIX socket it is reached from here."""

    def __init__(self, folder: Path, lab: Hosts) -> None:
        super().__init__(
            folder, PORT, {"fsync": "off", "full_page_writes": "off", "listen_addresses": f"127.0.0.1,{NETWORK}.1"}
        )
        self._enter = lab.enter(1)

    def make(self) -> None:
        super().make()
        with (self.data / "pg_hba.conf").open("a") as file:
            file.write(RULES)

    def _run(self, name: str, *words: str) -> None:
        argv = [*self._enter, "setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", program(name), *words]
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(argv, cwd="/", stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False)
            output.seek(0)
            assert done.returncode == 0, output.read().decode()


@contextlib.contextmanager
def database(lab: Hosts) -> Iterator[str]:
    """The URL of a fresh database, as the machines reach it."""
    server = Placed(Path(tempfile.mkdtemp(prefix="comet-swarm-pg-", dir="/tmp")), lab)
    try:
        server.make()
        server.start()
        with server.superuser() as session:
            secret = PASSWORD.replace("'", "''")
            session.execute(f"CREATE ROLE {USER} LOGIN PASSWORD '{secret}'")
            session.execute(f"CREATE DATABASE stats OWNER {USER}")
        yield f"postgresql://{USER}:{QUOTED}@{NETWORK}.1:{PORT}/stats"
    finally:
        server.destroy()
