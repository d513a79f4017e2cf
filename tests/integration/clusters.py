"""Clusters of the tests' own: a folder, free ports, and everything of it gone at the end, also when a test fails."""

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import docker
import psutil
import requests

from comet.cluster import Cluster

ROOT = Path(__file__).resolve().parents[2]
T = TypeVar("T")


def eventually(look: Callable[[], T], seconds: float = 30.0, what: str = "") -> T:
    """The first true answer of `look`; fails when none comes in time."""
    deadline = time.monotonic() + seconds
    while True:
        answer = look()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what or look}")
        time.sleep(0.02)


FIRST_PORT, LAST_PORT = (int(end) for end in os.environ.get("COMET_TEST_PORTS", "10000-25000").split("-"))
"""Where tests take ports: below those that programs of ours choose for themselves (25000 on), and the kernel's own (32768 on). Runs of
tests beside one another are given parts of their own."""


def port_range() -> tuple[int, int]:
    """The ports of this process: tests that run side by side (pytest-xdist) each have a part of their own."""
    name, number = os.environ.get("PYTEST_XDIST_WORKER", "gw0"), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    size = (LAST_PORT - FIRST_PORT) // number // 100 * 100
    first = FIRST_PORT + int(name.removeprefix("gw")) * size
    return first, first + size


_given: list[int] = []


def free_ports(count: int) -> int:
    """The first of `count` ports in a row that are free now, and that were not given to another one just before."""
    for _ in range(200):
        first = random.randrange(*port_range(), 100)
        if first in _given[-3:]:
            continue
        with contextlib.ExitStack() as held:
            try:
                for port in range(first, first + count):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            _given.append(first)
            return first
    raise AssertionError("no free ports")


class House:
    """One cluster in one folder."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self.folder = folder
        first = free_ports(60)
        defaults = {
            "worker": 2,
            "pool": 2,
            "avg-delay": 5,
            "failure": 0,
            "load-balancer-port": first,
            "worker-port": first + 10,
            "admin-port": 0,
            "load-balancer-host": "127.0.0.1",
            "shutdown-grace": 5,
        }
        self.config: dict[str, Any] = defaults | {key.replace("_", "-"): value for key, value in config.items()}
        self.environment: dict[str, str] = {}
        self.command = (sys.executable, str(ROOT / "supervisor.py"))
        self.write()

    def write(self, **changes: Any) -> None:
        """Write config.yaml with these changes; a key set to None is left out."""
        self.config |= {key.replace("_", "-"): value for key, value in changes.items()}
        kept = {key: value for key, value in self.config.items() if value is not None}
        (self.folder / "config.yaml").write_text("".join(f"{key}: {value}\n" for key, value in kept.items()))

    def comet(self, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [*self.command, *arguments], cwd=self.folder, env=os.environ | self.environment, capture_output=True, text=True,
            timeout=timeout, check=False,
        )  # fmt: skip

    def start(self) -> None:
        """`run --detach`; all replicas are ready afterwards."""
        done = self.comet("run", "--detach")
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"

    @contextlib.contextmanager
    def foreground(self) -> "Iterator[subprocess.Popen[str]]":
        """`run` in a session of its own, not waited for; killed where the block fails, so that a failure never waits for it."""
        with subprocess.Popen(
            [*self.command, "run"], cwd=self.folder, env=os.environ | self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, start_new_session=True,
        ) as supervisor:  # fmt: skip
            try:
                yield supervisor
            except BaseException:
                supervisor.kill()
                raise

    def stop(self) -> None:
        done = self.comet("stop")
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"

    def ps(self) -> dict[str, Any]:
        done = self.comet("ps", "--json")
        assert done.returncode == 0, done.stderr
        listed: dict[str, Any] = json.loads(done.stdout)
        return listed

    def replicas(self) -> dict[str, dict[str, Any]]:
        return {replica["name"]: replica for replica in self.ps()["replicas"]}

    def events(self, name: str | None = None, replica: str | None = None) -> list[dict[str, Any]]:
        path = self.folder / ".comet/events.jsonl"
        kept = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [event for event in kept if (not name or event["event"] == name) and (not replica or event.get("replica") == replica)]

    def lb(self, number: int = 0) -> str:
        return f"http://127.0.0.1:{self.config['load-balancer-port'] + number}"

    def worker(self, number: int = 0) -> str:
        return f"http://127.0.0.1:{self.config['worker-port'] + number}"

    def hello(self, number: int = 0) -> requests.Response:
        return requests.get(f"{self.lb(number)}/api/v1/hello", timeout=30)

    def counts(self) -> dict[str, int]:
        """TotalRequests of `/worker/stats`, by worker and as `total`."""
        listed = requests.get(f"{self.lb()}/worker/stats", timeout=30).json()["TotalRequests"]
        return {key: value for entry in listed for key, value in entry.items()}

    @property
    def cluster_id(self) -> str | None:
        return Cluster(self.folder).id

    def supervisor_pid(self) -> int:
        pid = self.ps()["supervisor"]["pid"]
        assert pid is not None
        return int(pid)

    def processes(self) -> list[psutil.Process]:
        """Every living process of the cluster but the supervisor."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get("COMET_CLUSTER") == self.cluster_id and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def containers(self, client: docker.DockerClient | None = None) -> list[str]:
        """Ids of the cluster's containers, running or not."""
        with contextlib.nullcontext(client) if client is not None else self.engine() as engine:
            listed = engine.api.containers(all=True, filters={"label": f"comet.cluster={self.cluster_id}"})
        return [entry["Id"] for entry in listed]

    def assert_nothing_left(self) -> None:
        assert self.processes() == []
        if self.config.get("runtime", "docker") == "docker":
            assert self.containers() == []
        assert list((self.folder / ".comet/run").glob("*")) == []

    def destroy(self) -> None:
        """Whatever state it is in: end every process of it, remove every container."""
        if self.cluster_id is None:
            return
        with contextlib.suppress(OSError, ValueError, psutil.Error):
            holder = psutil.Process(int((self.folder / ".comet/lock").read_text()))
            if any("comet" in word for word in holder.cmdline()) and str(self.folder) in " ".join(holder.cmdline()):
                holder.kill()
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        socket_path = self.environment.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
        if self.config.get("runtime", "docker") == "docker" and Path(socket_path).is_socket():
            with contextlib.suppress(docker.errors.DockerException, requests.RequestException), self.engine() as client:
                for container in self.containers(client):
                    with contextlib.suppress(docker.errors.APIError):
                        client.api.remove_container(container, force=True, v=True)

    @contextlib.contextmanager
    def engine(self) -> Iterator[docker.DockerClient]:
        """A client of the engine that this cluster uses."""
        client = docker.DockerClient(base_url=self.environment.get("DOCKER_HOST", "unix:///var/run/docker.sock"))
        try:
            yield client
        finally:
            client.close()


@contextlib.contextmanager
def house(folder: Path, **config: Any) -> Iterator[House]:
    made = House(folder, **config)
    try:
        yield made
    finally:
        made.destroy()
