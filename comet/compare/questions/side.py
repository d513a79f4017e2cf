"""Clusters of measurements, each in a folder of its own.

Those of a comparison are quiet in everything that is not measured.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from comet.common.clock import parse
from comet.common.errors import UserError
from comet.compare.results.findings import Kind
from comet.host.checkout import SOURCES
from comet.host.sockets import find_free
from comet.state.control_socket import NotAnswering, call
from comet.state.directory import Cluster

T = TypeVar("T")

STABLE = 1.0
"""Seconds after which a side forgets a crash: every kill leads to an immediate restart, never to a backoff."""

MAX_REPLICAS = 160
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
"""The config of both sides, which differ in `runtime` and ports."""


class OwnCluster:
    """A cluster in a folder of its own, used like any other: by the command line, its control socket, its events.

    With `config`, a mapping of keys, config.yaml is written first.
    """

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any] | None = None) -> None:
        self.folder, self.name, self.cluster = folder, name, Cluster(folder)
        self.path = folder / "config.yaml"
        if config is not None:
            self.write(config)

    def write(self, config: Mapping[str, Any]) -> None:
        """Write config.yaml."""
        self.path.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in config.items()))

    def start(self) -> None:
        """Start the cluster, or adopt what runs; UserError with the supervisor's own message where that fails."""
        done = self.command("run", "--detach")
        if done.returncode:
            raise UserError(f"{self.name} does not start: {(done.stderr or done.stdout).strip()}")

    def stop(self) -> None:
        """Stop the cluster, whatever its state."""
        if self.cluster.id is not None:
            done = self.command("stop")
            if done.returncode not in (0, 3):
                print(f"{self.name}: {done.stderr.strip()}", file=sys.stderr)

    def all_events(self, since: float = 0.0) -> list[dict[str, Any]]:
        """Return the events from `since` on (seconds since the epoch). The time of an event has milliseconds."""
        path = self.cluster.path("events.jsonl")
        # The last line may be half written.
        lines = path.read_text().rpartition("\n")[0].splitlines() if path.exists() else []
        return [record for record in map(json.loads, lines) if (parse(record["at"]) or 0) >= since - 0.001]

    def command(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end.

        It is in a separate session: a terminal's Ctrl-C reaches only this process, which then asks the command to end
        and waits for it.
        """
        path = os.pathsep.join(filter(None, (str(SOURCES), os.environ.get("PYTHONPATH"))))
        argv = [sys.executable, "-m", "comet", *arguments, "--config", str(self.path)]
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
            output, errors = process.communicate()
        except BaseException:
            process.terminate()
            process.communicate()
            raise
        return subprocess.CompletedProcess(argv, process.returncode, output, errors)


class Side(OwnCluster):
    """One cluster of workers of one kind."""

    def __init__(self, kind: Kind, folder: Path, taken: Collection[int] = ()) -> None:
        self.kind = kind
        first = find_free("127.0.0.1", MAX_REPLICAS + 5, taken)
        self.ports = range(first, first + MAX_REPLICAS + 5)
        self.lb_port, self._worker_port = first, first + 5
        runtime = "docker" if kind == "container" else "process"
        ports = {"load-balancer-port": self.lb_port, "worker-port": self._worker_port}
        config = SETTINGS | ports | {"runtime": runtime}
        folder.mkdir(mode=0o755)
        super().__init__(folder, f"the {kind} side of the comparison", config)

    def ask(self, command: str, **fields: Any) -> Any:
        """Let the supervisor carry out a command; UserError where it refuses or is gone."""
        try:
            return call(self.cluster, command, timeout=120, **fields)
        except (ConnectionError, NotAnswering) as error:
            raise UserError(f"the supervisor of the {self.kind} side does not answer ({error})") from None

    def replica(self, name: str) -> dict[str, Any]:
        """Return the replica's row of `ps --json`."""
        row: dict[str, Any] = next(row for row in self.ask("ps")["replicas"] if row["name"] == name)
        return row

    def pid(self, name: str) -> int:
        """Return the PID of a running worker; UserError where it does not run."""
        pid = self.replica(name)["pid"]
        if pid is None:
            raise UserError(f"the {self.kind} side's {name} is not alive")
        return int(pid)

    def worker_port(self, name: str) -> int:
        return self._worker_port + int(name.rpartition("-")[2])

    def events(self, since: float, name: str, replica: str) -> list[dict[str, Any]]:
        """Return the events of that name and replica from `since` on (seconds since the epoch)."""
        return [each for each in self.all_events(since) if each["event"] == name and each.get("replica") == replica]

    def event(self, since: float, name: str, replica: str, seconds: float = 60.0) -> dict[str, Any]:
        """Wait for the first such event and return it."""
        return wait_for(
            lambda: self.events(since, name, replica), seconds, f"{replica} of the {self.kind} side: {name}"
        )[0]

    def wait_stable(self, name: str) -> None:
        """Wait until a replica has been ready for so long that its last crash is forgotten.

        Its uptime does not tell that: it begins with the start.
        """
        since: float | None = None

        def settled() -> bool:
            nonlocal since
            since = (since or time.monotonic()) if self.replica(name)["state"] == "ready" else None
            return since is not None and time.monotonic() - since > STABLE + 0.2

        wait_for(settled, 60, f"{name} of the {self.kind} side settles", pause=0.05)


def wait_for(condition: Callable[[], T], seconds: float, what: str, pause: float = 0.005) -> T:
    """Return the first true result of `look`; UserError where none comes within `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(FileNotFoundError):
            if answer := condition():
                return answer
        if time.monotonic() > deadline:
            raise UserError(f"compare: not within {seconds:g} s: {what}")
        time.sleep(pause)
