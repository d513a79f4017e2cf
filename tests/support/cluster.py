"""Clusters of the tests' own: a folder, free ports, and everything of it gone at the end, also when a test fails."""

import atexit
import contextlib
import functools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import psutil
import requests

from comet.common.clock import parse
from comet.common.errors import UserError
from comet.host import process_identity
from comet.runtimes import discovery
from comet.runtimes.docker.network import remove_networks
from comet.runtimes.process.memory_limits import MemoryGroups
from comet.state.control_socket import NotAnswering, call
from comet.state.directory import Cluster
from comet.state.lock import Lock
from comet.telemetry import status
from comet.telemetry.snapshot import FleetSnapshot, from_dict
from tests.support.waiting import PATIENCE, wait_until
from tests.support.warm_commands import Commands

ROOT = Path(__file__).resolve().parents[2]

PYTHON = shutil.which("python3", path="/usr/bin:/bin") or sys.executable
"""A Python that every user reaches; the tests' own may lie in root's home."""

COMMAND = (sys.executable, str(ROOT / "supervisor.py"))


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that every user may pass, as pytest's are not."""
    made = Path(tempfile.mkdtemp(prefix="comet-test-", dir="/tmp"))
    made.chmod(0o755)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


FIRST_PORT, LAST_PORT = (int(end) for end in os.environ.get("COMET_TEST_PORTS", "10000-25000").split("-"))
"""Where tests take ports: below those that programs of ours choose for themselves (25000 on), and the kernel's own
(32768 on). Runs of tests beside one another are given parts of their own.
"""


def port_range() -> tuple[int, int]:
    """The ports of this process: tests that run side by side (pytest-xdist) each have a part of their own."""
    name, number = os.environ.get("PYTEST_XDIST_WORKER", "gw0"), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    size = (LAST_PORT - FIRST_PORT) // number // 100 * 100
    first = FIRST_PORT + int(name.removeprefix("gw")) * size
    return first, first + size


_given: list[int] = []
"""The first ports of the ranges that were given, the latest last."""

_kept: set[int] = set()
"""Those that are never given again: of what lives as long as this process, and may be down at times."""

SWEPT_AFTER = 900.0
"""Seconds after which a network that no container uses is taken for a killed test's."""


def free_ports(count: int, keep: bool = False) -> int:
    """The first of `count` ports in a row that are free now. Of the ranges, the one is taken that was not given for
    longest: what has it may be between two of its lives. With `keep` nobody gets it again.
    """
    turns = {first: turn for turn, first in enumerate(_given)}
    ranges = [first for first in range(*port_range(), 100) if first not in _kept]
    for first in sorted(ranges, key=lambda first: (turns.get(first, -1), random.random())):
        with contextlib.ExitStack() as held:
            try:
                for port in range(first, first + count):
                    tried = held.enter_context(socket.socket())
                    # As servers do: connections that have ended keep a port for a minute otherwise (TIME_WAIT).
                    tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    tried.bind(("127.0.0.1", port))
            except OSError:
                continue
            _given.append(first)
            if keep:
                _kept.add(first)
            return first
    raise AssertionError("no free ports")


class TestCluster:
    """One cluster in one folder."""

    __test__ = False  # pytest takes a class of this name for tests.

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
        if os.getuid() == 0 and "worker-command" in self.config and self.config.get("runtime") == "process":
            # The tests' interpreter and folders may be root's alone (pyenv, pytest's folder): what is not about that
            # runs as root.
            self.config.setdefault("worker-user", "root")
        self.environment: dict[str, str] = {}
        self.command = COMMAND
        self.write()

    @property
    def _is_default(self) -> bool:
        return self.command == COMMAND and not self.environment

    def write(self, **changes: Any) -> None:
        """Write config.yaml with these changes; a key set to None is left out."""
        self.config |= {key.replace("_", "-"): value for key, value in changes.items()}
        kept = {key: value for key, value in self.config.items() if value is not None}
        (self.folder / "config.yaml").write_text("".join(f"{key}: {value}\n" for key, value in kept.items()))

    def comet(self, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; what supervises here, or is said otherwise than usual, in an interpreter of its
        own.
        """
        if self._is_default and arguments and (arguments[0] != "run" or "--detach" in arguments):
            return warm_commands().run(arguments, self.folder, os.environ, timeout * PATIENCE)
        return subprocess.run(
            [*self.command, *arguments], cwd=self.folder, env=os.environ | self.environment, capture_output=True,
            text=True,
            errors="surrogateescape", timeout=timeout * PATIENCE, check=False,
        )  # fmt: skip

    def start(self) -> None:
        """`run --detach`; all replicas are ready afterwards.

        A supervisor that was just killed has the lock until the machine finds the time to end it.
        """
        wait_until(lambda: Lock(Cluster(self.folder)).holder() is None, what="the end of the supervisor before")
        done = self.comet("run", "--detach")
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"

    @contextlib.contextmanager
    def foreground(self) -> "Iterator[subprocess.Popen[str]]":
        """`run` in a session of its own, not waited for; killed where the block fails, so that a failure never waits
        for it.
        """
        with subprocess.Popen(
            [*self.command, "run"], cwd=self.folder, env=os.environ | self.environment, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
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
        """What `ps --json` prints. Tests look often, and an interpreter for each look costs a hundred times what the
        look does.
        """
        if self._is_default:
            cluster = Cluster(self.folder)
            discovery.recognize(cluster)
            try:
                return _as_printed(self._answered(cluster))
            except (ConnectionError, NotAnswering) as error:
                shown = status.offline_snapshot(cluster, isinstance(error, NotAnswering))
            assert shown.supervisor.running or not shown.supervisor.problem, shown.supervisor.problem
            return _as_printed(shown)
        if self.command[-2:] == COMMAND:  # The same program, on another machine or engine.
            with contextlib.suppress(ConnectionError, NotAnswering):
                return _as_printed(self._answered(Cluster(self.folder)))
        done = self.comet("ps", "--json")
        assert done.returncode == 0, done.stderr
        listed: dict[str, Any] = json.loads(done.stdout)
        return listed

    @staticmethod
    def _answered(cluster: Cluster) -> FleetSnapshot:
        """What the supervisor says. On a busy machine it may need longer than `ps` waits, which then shows rows without
        what the supervisor alone knows.
        """
        return from_dict(call(cluster, "ps", timeout=status.TIMEOUT * PATIENCE))

    def replicas(self) -> dict[str, dict[str, Any]]:
        return {replica["name"]: replica for replica in self.ps()["replicas"]}

    def events(self, name: str | None = None, replica: str | None = None) -> list[dict[str, Any]]:
        kept: list[dict[str, Any]] = []
        with contextlib.suppress(FileNotFoundError):
            written = (self.folder / ".comet/events.jsonl").read_bytes()
            # A line that crosses a page of the file may be seen in part while it is being written.
            kept = [json.loads(line) for line in written[: written.rfind(b"\n") + 1].splitlines()]
        return [
            event
            for event in kept
            if (not name or event["event"] == name) and (not replica or event.get("replica") == replica)
        ]

    def lb(self, number: int = 0) -> str:
        return f"http://127.0.0.1:{self.config['load-balancer-port'] + number}"

    def worker(self, number: int = 0) -> str:
        return f"http://127.0.0.1:{self.config['worker-port'] + number}"

    def hello(self, number: int = 0) -> requests.Response:
        return requests.get(f"{self.lb(number)}/api/v1/hello", timeout=60)

    def counts(self) -> dict[str, int]:
        """TotalRequests of `/worker/stats`, by worker and as `total`. Of a database that is busy for too long a worker
        says so (503), and is asked again.
        """
        answer = wait_until(lambda: requests.get(f"{self.lb()}/worker/stats", timeout=60), what="the statistics")
        listed = answer.json()["TotalRequests"]
        return {key: value for entry in listed for key, value in entry.items()}

    @property
    def cluster_id(self) -> str | None:
        return Cluster(self.folder).id

    def supervisor_pid(self) -> int:
        pid = self.ps()["supervisor"]["pid"]
        assert pid is not None
        return int(pid)

    def kill_supervisor(self) -> None:
        """Kill it, and wait until it is dead: the signal alone does not free its lock, and a command given at once
        would still find it.
        """
        os.kill(self.supervisor_pid(), signal.SIGKILL)
        wait_until(lambda: not self.ps()["supervisor"]["running"], what="the supervisor is dead")

    def processes(self) -> list[psutil.Process]:
        """Every living process of the cluster but the supervisor."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if (
                    process.environ().get("COMET_CLUSTER") == self.cluster_id
                    and process.status() != psutil.STATUS_ZOMBIE
                ):
                    found.append(process)
        return found

    def kill_processes(self) -> None:
        """Kill all of them; some end by themselves once the supervisor is dead."""
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

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
        """Whatever state it is in, and its files are in: end every process of it, remove every container."""
        cluster = Cluster(self.folder)
        with contextlib.suppress(UserError, OSError):
            holder = Lock(cluster).handle()
            if holder is not None:
                with contextlib.closing(holder), _ending_descendants(holder.pid):
                    holder.send(signal.SIGKILL)
                    holder.ended(5)
        with contextlib.suppress(UserError, OSError):
            discovery.recognize(cluster)
        if cluster.id is None:
            return
        for _ in range(10):  # One of them may have forked after it was found, and before it was killed.
            every = [each for each in process_identity.processes() if each.alive]
            ours = [each for each in every if _cluster_of(each.pid) == cluster.id]
            if not ours:
                break
            with contextlib.suppress(PermissionError):
                process_identity.end([(each.pid, each.birth) for each in ours], 0.0)
        MemoryGroups(cluster.id).sweep()
        socket_path = self.environment.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
        runtime = self.config.get("runtime", "docker")
        if runtime in ("docker", "swarm") and Path(socket_path).is_socket():
            with contextlib.suppress(docker.errors.DockerException, requests.RequestException), self.engine() as client:
                if runtime == "swarm":
                    remove_services(client, f"comet.cluster={cluster.id}")
                for entry in client.api.containers(all=True, filters={"label": f"comet.cluster={cluster.id}"}):
                    with contextlib.suppress(docker.errors.APIError):
                        client.api.remove_container(entry["Id"], force=True, v=True)
                remove_networks(client, cluster.id)
                _sweep_networks(client)

    @contextlib.contextmanager
    def engine(self) -> Iterator[docker.DockerClient]:
        """A client of the engine that this cluster uses."""
        client = docker.DockerClient(base_url=self.environment.get("DOCKER_HOST", "unix:///var/run/docker.sock"))
        try:
            yield client
        finally:
            client.close()


@contextlib.contextmanager
def _ending_descendants(pid: int) -> Iterator[None]:
    """Kill what descends from a process that is ended meanwhile: a program's title may overwrite its cluster's mark."""
    descendants: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        descendants = psutil.Process(pid).children(recursive=True)
    yield
    for each in descendants:
        with contextlib.suppress(psutil.Error):
            each.kill()


def _as_printed(snapshot: FleetSnapshot) -> dict[str, Any]:
    """What `ps --json` makes of it."""
    printed: dict[str, Any] = json.loads(json.dumps(snapshot.as_dict()))
    return printed


@functools.cache
def warm_commands() -> Commands:
    """What runs commands of this program in processes that need no interpreter of their own."""
    made = Commands()
    atexit.register(made.close)
    return made


def _cluster_of(pid: int) -> str | None:
    return process_identity.environment(pid).get("COMET_CLUSTER")


def remove_services(client: docker.DockerClient, label: str = "comet.cluster") -> None:
    """Remove the services and secrets with this label from the swarm that this engine manages, if it does."""
    listed = [*client.services.list(filters={"label": label}), *client.secrets.list(filters={"label": label})]
    for each in listed:
        with contextlib.suppress(docker.errors.NotFound):
            each.remove()


def _sweep_networks(client: docker.DockerClient) -> None:
    """Remove the networks that killed tests left. One of a cluster that runs may be empty for a moment, too."""
    listed = client.api.networks(filters={"label": "comet.cluster"})
    old = [each for each in listed if time.time() - (parse(each["Created"]) or time.time()) > SWEPT_AFTER]
    running = {_cluster_of(pid) for pid in process_identity.pids()} if old else set()
    for network in old:
        if network["Labels"]["comet.cluster"] not in running:
            with contextlib.suppress(docker.errors.APIError):  # One that is in use refuses.
                client.api.remove_network(network["Id"])


OPEN: list[TestCluster] = []
"""The clusters that the running test has, for the report of its failure."""

EVIDENCE: list[str] = []
"""What the clusters that a failure ended had come to."""


@contextlib.contextmanager
def open_cluster(folder: Path, **config: Any) -> Iterator[TestCluster]:
    cluster = TestCluster(folder, **config)
    OPEN.append(cluster)
    try:
        yield cluster
    except BaseException:
        EVIDENCE.append(evidence(cluster))
        raise
    finally:
        OPEN.remove(cluster)
        cluster.destroy()


def evidence(cluster: TestCluster) -> str:
    """Return the cluster's last events, as its file has them."""
    with contextlib.suppress(OSError):
        lines = (cluster.folder / ".comet/events.jsonl").read_text(errors="replace").splitlines()
        return "\n".join([f"== {cluster.folder}: the last events", *(line[:300] for line in lines[-40:])])
    return f"== {cluster.folder}: no events"


def fill(folder: Path) -> Path:
    """Fill the disk that this folder is on; the file that does."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(b"x" * 4096)
    return filler
