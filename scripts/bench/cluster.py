"""Runs a Comet cluster for a bench: in a temporary folder, on free ports, removed completely afterwards."""

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from comet.compare.questions.side import OwnCluster
from comet.runtimes import discovery
from comet.telemetry import status
from lb.interface import counters
from scripts.bench.proc import BenchError, free_ports, wait_for
from scripts.bench.report import say

Row = dict[str, Any]
PORTS = 80


class BenchCluster(OwnCluster):
    """One cluster. `config` has the keys of config.yaml, with underscores; None leaves out a key of the bench's own."""

    def __init__(self, folder: Path, **config: Any) -> None:
        first = free_ports(PORTS)[0]
        keys = {
            "load-balancer-port": first,
            "worker-port": first + 20,
            "admin-port": 0,
            "load-balancer-host": "127.0.0.1",
        } | {key.replace("_", "-"): value for key, value in config.items()}
        self.config = {key: value for key, value in keys.items() if value is not None}
        super().__init__(folder, "the cluster of the bench", self.config)

    @classmethod
    def existing(cls, config: Path) -> "BenchCluster":
        """Return the cluster of this config file, which is only observed."""
        made = cls.__new__(cls)
        OwnCluster.__init__(made, config.parent, f"the cluster of {config}")
        made.path = config
        return made

    def ps(self) -> dict[str, Any]:
        """Return the object of `ps --json`."""
        discovery.recognize(self.cluster)
        return status.once(self.cluster).as_dict()

    def rows(self) -> dict[str, Row]:
        """Return the rows of the replicas by name."""
        return {row["name"]: row for row in self.ps()["replicas"]}

    def lb_port(self, number: int) -> int:
        return int(self.config["load-balancer-port"]) + number

    def worker_port(self, number: int) -> int:
        return int(self.config["worker-port"]) + number

    def counters(self, name: str) -> dict[str, int]:
        """Return what a load balancer counted, the sum of all its processes."""
        total: dict[str, int] = {}
        for path in (self.folder / ".comet" / "run").glob(f"{name}.*.counters"):
            for key, value in counters.read_counters(path).totals().items():
                total[key] = total.get(key, 0) + value
        return total

    def processes(self) -> list[psutil.Process]:
        """Return every live process of the cluster."""
        own, found = self.cluster.id, []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                in_folder = str(self.folder) in " ".join([*process.cmdline(), process.cwd()])
                if in_folder or (own is not None and process.environ().get("COMET_CLUSTER") == own):
                    found.append(process)
        return found

    def destroy(self) -> None:
        """Stop the cluster with `stop`, then kill what is left."""
        self.stop()
        with contextlib.suppress(BenchError):  # The supervisor itself ends a moment after it has said so.
            wait_for(lambda: not self.processes(), 5, "everything of it has ended")
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                say(f"killing what is left: {process.pid} {process.name()}")
                process.kill()
        if self.config.get("runtime", "docker") != "process" and self.cluster.id and shutil.which("docker"):
            listed = subprocess.run(
                ["docker", "ps", "-aq", "--filter", f"label=comet.cluster={self.cluster.id}"],
                capture_output=True,
                text=True,
                check=False,
            )
            if left := listed.stdout.split():
                subprocess.run(["docker", "rm", "-f", *left], capture_output=True, check=False)


@contextlib.contextmanager
def temporary_cluster(**config: Any) -> Iterator[BenchCluster]:
    """Start a cluster in a temporary folder, and remove it after the block, even on errors."""
    with tempfile.TemporaryDirectory(prefix="comet-bench-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        made = BenchCluster(Path(folder), **config)
        try:
            made.start()
            yield made
        finally:
            made.destroy()
