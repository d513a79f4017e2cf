"""A Comet cluster of a bench's own: a temporary folder, free ports, and nothing of it left afterwards."""

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from lb import counters
from scripts.bench.proc import BenchError, free_ports, wait_for
from scripts.bench.report import ROOT, say

SUPERVISOR = (sys.executable, str(ROOT / "supervisor.py"))
Row = dict[str, Any]


class BenchCluster:
    """One cluster; `config` in the words of config.yaml, with underscores. Not `fresh`: one that is there already, looked at only."""

    def __init__(self, folder: Path, fresh: bool = True, name: str = "config.yaml", **config: Any) -> None:
        self.folder = folder
        self.path = folder / name
        self.config: dict[str, Any] = {}
        if fresh:
            self._configure(config)

    def _configure(self, config: dict[str, Any]) -> None:
        first = free_ports(80)[0]
        self.config = {
            "load-balancer-port": first,
            "worker-port": first + 20,
            "admin-port": 0,
            "load-balancer-host": "127.0.0.1",
        } | {key.replace("_", "-"): value for key, value in config.items()}
        self.path.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in self.config.items()))

    def command(self, *arguments: str, timeout: float = 180) -> "subprocess.CompletedProcess[str]":
        """Run a command of supervisor.py to its end."""
        command = [*SUPERVISOR, *arguments, "--config", str(self.path)]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=timeout, check=False)

    def start(self) -> None:
        """Start, or adopt what runs; all replicas are ready afterwards. BenchError with the reason otherwise."""
        done = self.command("run", "--detach")
        if done.returncode:
            raise BenchError("the cluster did not start: " + (done.stderr + done.stdout).strip().replace("\n", " / ")[-400:])

    def ps(self) -> dict[str, Any]:
        """The object of `ps --json`."""
        done = self.command("ps", "--json")
        if done.returncode:
            raise BenchError(f"ps failed: {done.stderr.strip()}")
        listed: dict[str, Any] = json.loads(done.stdout)
        return listed

    def rows(self) -> dict[str, Row]:
        """The replicas by name."""
        return {row["name"]: row for row in self.ps()["replicas"]}

    def lb_port(self, number: int) -> int:
        return int(self.config["load-balancer-port"]) + number

    def worker_port(self, number: int) -> int:
        return int(self.config["worker-port"]) + number

    def counters(self, name: str) -> dict[str, int]:
        """What an LB counted, all its processes together."""
        total: dict[str, int] = {}
        for path in (self.folder / ".comet" / "run").glob(f"{name}.*.counters"):
            for key, value in counters.read(path).items():
                total[key] = total.get(key, 0) + value
        return total

    def events(self, since: float = 0.0) -> list[dict[str, Any]]:
        """Events at or after `since` (seconds since the epoch)."""
        path = self.folder / ".comet" / "events.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        found = [json.loads(line) for line in lines]
        return [event for event in found if datetime.fromisoformat(event["at"]).timestamp() >= since - 0.002]

    def processes(self) -> list[psutil.Process]:
        """Every living process of the cluster."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if str(self.folder) in " ".join([*process.cmdline(), process.cwd()]) or process.environ().get("COMET_CLUSTER") == self.id:
                    found.append(process)
        return found

    @property
    def id(self) -> str:
        path = self.folder / ".comet" / "id"
        return path.read_text().split()[0] if path.exists() else "none"

    def destroy(self) -> None:
        """Stop it in its own way, then end by force what is left."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = self.command("stop", timeout=60)
            if done.returncode not in (0, 3):
                say(f"stop: {done.stderr.strip()}")
        with contextlib.suppress(BenchError):  # The supervisor itself ends a moment after it has said so.
            wait_for(lambda: not self.processes(), 5, "everything of it has ended")
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                say(f"ending what was left: {process.pid} {process.name()}")
                process.kill()
        if self.config.get("runtime", "docker") == "docker" and self.id != "none" and shutil.which("docker"):
            listed = subprocess.run(
                ["docker", "ps", "-aq", "--filter", f"label=comet.cluster={self.id}"], capture_output=True, text=True, check=False
            )
            if left := listed.stdout.split():
                subprocess.run(["docker", "rm", "-f", *left], capture_output=True, check=False)


@contextlib.contextmanager
def cluster(**config: Any) -> Iterator[BenchCluster]:
    """A cluster in a temporary folder, started; gone afterwards, whatever happens."""
    with tempfile.TemporaryDirectory(prefix="comet-bench-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        made = BenchCluster(Path(folder), **config)
        try:
            made.start()
            yield made
        finally:
            made.destroy()
