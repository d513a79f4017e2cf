"""A cluster for comparing: in a folder of its own, on free ports, quiet in all that is not asked about, and gone afterwards.

It is used as anybody uses one: started by the command line, asked through the control socket, read through its events.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

from comet import database
from comet.cluster import Cluster
from comet.compare.findings import Kind
from comet.control import Silent, call
from comet.errors import UserError
from comet.listeners import find_free
from comet.wallclock import parse

T = TypeVar("T")

STABLE = 1.0
"""Seconds after which a bed forgets a crash, so that every kill is answered at once and never by a backoff."""

MOST_REPLICAS = 20
SETTINGS: dict[str, Any] = {
    "worker": 1,
    "pool": 1,
    "avg-delay": 0,
    "failure": 0,
    "load-balancer-host": "127.0.0.1",
    "admin-port": 0,
    "health-interval": 1,
    "health-timeout": 1,
    "health-restart": 0,
    "restart-stable": STABLE,
    "shutdown-grace": 5,
}
"""What both beds share; they differ in `runtime` and ports."""


class Bed:
    """One cluster of workers of one kind."""

    def __init__(self, kind: Kind, folder: Path, taken: Collection[int] = ()) -> None:
        self.kind = kind
        self.folder = folder
        self.cluster = Cluster(folder)
        first = find_free("127.0.0.1", MOST_REPLICAS + 5, taken)
        self.ports = range(first, first + MOST_REPLICAS + 5)
        self.lb_port, self._worker_port = first, first + 5
        runtime = "docker" if kind == "container" else "process"
        ports = {"load-balancer-port": self.lb_port, "worker-port": self._worker_port}
        config = SETTINGS | ports | {"runtime": runtime}
        folder.mkdir(mode=0o755)
        (folder / "config.yaml").write_text("".join(f"{key}: {value}\n" for key, value in config.items()))

    def start(self) -> None:
        """Bring it up; UserError with the supervisor's own words where it cannot come up."""
        done = self._command("run", "--detach")
        if done.returncode:
            raise UserError(f"the {self.kind} side of the comparison does not start: {(done.stderr or done.stdout).strip()}")

    def stop(self) -> None:
        """Take it down, whatever state it is in."""
        if self.cluster.id is not None:
            done = self._command("stop")
            if done.returncode not in (0, 3):
                print(f"compare: {done.stderr.strip()}", file=sys.stderr)

    def ask(self, command: str, **fields: Any) -> Any:
        """Have the supervisor carry out a command. UserError: it refuses or is gone."""
        try:
            return call(self.cluster, command, timeout=120, **fields)
        except (ConnectionError, Silent) as error:
            raise UserError(f"the supervisor of the {self.kind} side does not answer ({error})") from None

    def replica(self, name: str) -> dict[str, Any]:
        """Its row of `ps --json`."""
        row: dict[str, Any] = next(row for row in self.ask("ps")["replicas"] if row["name"] == name)
        return row

    def pid(self, name: str) -> int:
        """Of a worker that lives; UserError where it does not."""
        pid = self.replica(name)["pid"]
        if pid is None:
            raise UserError(f"the {self.kind} side's {name} is not alive")
        return int(pid)

    def worker_port(self, name: str) -> int:
        return self._worker_port + int(name.rpartition("-")[2])

    def events(self, since: float, name: str, replica: str) -> list[dict[str, Any]]:
        """Events of that name and replica from `since` on (seconds since the epoch; an event's time has milliseconds)."""
        lines = self.cluster.path("events.jsonl").read_text().splitlines()
        records = (json.loads(line) for line in lines)
        named = (record for record in records if record["event"] == name and record.get("replica") == replica)
        return [record for record in named if (parse(record["at"]) or 0) >= since - 0.001]

    def event(self, since: float, name: str, replica: str, seconds: float = 60.0) -> dict[str, Any]:
        """The first such event, waited for."""
        return awaited(lambda: self.events(since, name, replica), seconds, f"{replica} of the {self.kind} side: {name}")[0]

    def settle(self, name: str) -> None:
        """Wait until a replica is ready and its former death is forgotten."""

        def settled() -> bool:
            row = self.replica(name)
            return row["state"] == "ready" and row["uptime_s"] is not None and row["uptime_s"] > STABLE + 0.2

        awaited(settled, 60, f"{name} of the {self.kind} side settles", pause=0.05)

    def _command(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        # In a session of its own: a terminal's Ctrl-C is ours to handle. What it interrupts is asked to end and waited for.
        path = os.pathsep.join(filter(None, (str(database.SOURCES), os.environ.get("PYTHONPATH"))))
        argv = [sys.executable, "-m", "comet", *arguments, "--config", str(self.folder / "config.yaml")]
        environment = os.environ | {"PYTHONPATH": path}
        process = subprocess.Popen(
            argv,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        try:
            said, complained = process.communicate()
        except BaseException:
            process.terminate()
            process.communicate()
            raise
        return subprocess.CompletedProcess(argv, process.returncode, said, complained)


def awaited(look: Callable[[], T], seconds: float, what: str, pause: float = 0.005) -> T:
    """The first true answer of `look`. UserError when none comes in time."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(FileNotFoundError):
            if answer := look():
                return answer
        if time.monotonic() > deadline:
            raise UserError(f"compare: not within {seconds:g} s: {what}")
        time.sleep(pause)
