"""What of a cluster is alive, found without its supervisor: processes by psutil, containers by their label.

Every process of a cluster carries its id in the environment (COMET_CLUSTER); the state file tells which replica it is, and where that
file is lost its title does. Used by `ps` and `stop` when no supervisor runs, and by `run` to deal with what an earlier one left.
"""

import contextlib
import itertools
import os
import re
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import docker.errors
import psutil

from comet import engine
from comet.cluster import Cluster
from comet.drivers import manager
from comet.drivers.container import ENGINE_ERRORS, short, told
from comet.drivers.process import born, is_alive
from comet.errors import UserError
from comet.observation import Endpoint
from comet.snapshot import FleetSnapshot, Row, SupervisorRow
from comet.statefile import Record, StateFile
from comet.usage import Sampler
from comet.wallclock import parse

ADMIN = re.compile(r"comet: admin :(\d+)")
TITLE = re.compile(r"comet: (lb-\d+) :(\d+)")
REMOVAL_PATIENCE = 10.0
"""Seconds beyond the grace that the tasks of a removed service may take to end: one on a node that is lost never says that it has."""

WORKER_COMMAND = re.compile(r"--name (worker-\d+)")


@dataclass(frozen=True)
class Orphan:
    """Something of the cluster that is alive. `name` is None for helpers (forkserver, resource tracker, admin server, relay); `since` is
    wall time, for people; by `birth` (`born`) a process is known again; `task` is the id of a swarm's task, `endpoint` where that runs.

    Of the kind "service" is a swarm's service none of whose tasks serves; one that serves is known by its tasks.
    """

    name: str | None
    kind: str
    pid: int | None
    id: str
    port: int | None
    since: float
    running: bool = True
    fingerprint: str | None = None
    birth: float | None = None
    task: str | None = None
    endpoint: Endpoint | None = None

    @property
    def is_relay(self) -> bool:
        """Whether it is the container beside the workers, not one of them."""
        return self.name is None and self.kind == "container"

    @property
    def is_of_swarm(self) -> bool:
        """Whether a swarm keeps it: a task, or the service."""
        return self.kind in ("task", "service")

    @property
    def role(self) -> str:
        return "lb" if self.name and self.name.startswith("lb-") else "worker"


def processes(cluster_id: str, records: Iterable[Record]) -> list[Orphan]:
    """The living processes that carry the cluster's id; never the caller itself, nor what it started."""
    ours = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
    by_pid = {record.pid: record for record in records if record.kind == "process"}
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid in ours or process.status() == psutil.STATUS_ZOMBIE or process.environ().get("COMET_CLUSTER") != cluster_id:
                continue
            found.append(_process(process, by_pid.get(process.pid)))
    return found


def _process(process: psutil.Process, record: Record | None) -> Orphan:
    birth, created = born(process.pid), process.create_time()
    if record is not None and record.create_time is not None and is_alive(process.pid, record.create_time):
        waited = max(0.0, (record.begun or record.create_time) - record.create_time)
        return Orphan(record.name, "process", process.pid, str(process.pid), record.port, created + waited, birth=birth)
    line = " ".join(process.cmdline())
    title, worker = TITLE.search(line), WORKER_COMMAND.search(line)
    if title:
        return Orphan(title[1], "process", process.pid, str(process.pid), int(title[2]), created, birth=birth)
    if worker:
        listen = re.search(r"--listen \S+:(\d+)", line)
        return Orphan(worker[1], "process", process.pid, str(process.pid), int(listen[1]) if listen else None, created, birth=birth)
    admin = ADMIN.search(line)
    return Orphan(None, "process", process.pid, str(process.pid), int(admin[1]) if admin else None, created, birth=birth)


def containers(client: docker.DockerClient, cluster_id: str) -> list[Orphan]:
    """The cluster's containers, running or not."""
    listed = client.api.containers(all=True, filters={"label": f"comet.cluster={cluster_id}"})
    # What a swarm has made here is a task, and known as one.
    ours = [entry for entry in listed if "com.docker.swarm.task.id" not in (entry.get("Labels") or {})]
    return [orphan for entry in ours if (orphan := _container(client, entry)) is not None]


def known_ports(records: Mapping[str, Record]) -> dict[str, int]:
    """The ports that tasks were seen at, by container."""
    return {record.id: record.port for record in records.values() if record.kind == "task" and record.id is not None}


def tasks(client: docker.DockerClient, cluster_id: str, records: Mapping[str, Record]) -> list[Orphan]:
    """The tasks of the cluster's service that serve, or the service where none does; nothing where the engine manages no swarm. The
    records tell the tasks' names, as far as those still serve; the others take what numbers are free."""
    try:
        serving, service = manager.Manager(client, cluster_id).serving(known_ports(records))
    except docker.errors.APIError:
        return []
    spec = service.get("Spec") or {}
    if service and not serving:
        return [Orphan(None, "service", None, service["ID"], None, parse(str(service.get("CreatedAt", ""))) or 0.0)]
    fingerprint = (spec.get("Labels") or {}).get("comet.fingerprint")
    names = {record.id: name for name, record in records.items() if record.kind == "task"}
    known = {task.id: names[task.container] for task in serving if task.container in names}
    free = (name for number in itertools.count() if (name := f"worker-{number}") not in known.values())
    found = []
    for task in sorted(serving, key=lambda task: task.slot):
        name, port = known.get(task.id) or next(free), task.port
        since = parse(task.at) or 0.0
        found.append(Orphan(name, "task", None, task.container, port, since, True, fingerprint, task=task.id, endpoint=task.endpoint))
    return found


def _container(client: docker.DockerClient, entry: dict[str, Any]) -> Orphan | None:
    labels = entry.get("Labels") or {}
    try:
        state = client.api.inspect_container(entry["Id"])["State"]
    except docker.errors.NotFound:
        return None
    ports = [port["PublicPort"] for port in entry.get("Ports") or [] if port.get("PublicPort")]
    return Orphan(
        name=labels.get("comet.replica"),
        kind="container",
        pid=state.get("Pid") or None,
        id=entry["Id"],
        port=ports[0] if ports else None,
        since=parse(str(state.get("StartedAt", ""))) or 0.0,
        running=bool(state.get("Running")),
        fingerprint=labels.get("comet.fingerprint"),
    )


def find(cluster: Cluster, client: docker.DockerClient | None = None, complete: bool = False) -> list[Orphan]:
    """Everything alive of the cluster. An engine that does not answer hides its containers; where the answer is to be `complete`, and
    the cluster had containers, that is a UserError."""
    identity = cluster.id
    if identity is None:
        return []
    records = StateFile(cluster.path("state.json")).read()
    found = processes(identity, records.values())
    if client is None:
        away = any(record.kind == "task" for record in records.values())
        try:
            client = engine.connect_manager() if away else engine.connect()
        except UserError as error:
            if complete and any(record.kind in ("container", "task") for record in records.values()):
                raise UserError(f"containers of this cluster may be left, nothing was done: {error.message}") from None
    if client is not None:
        try:
            found += [*containers(client, identity), *tasks(client, identity, records)]
        except ENGINE_ERRORS as error:
            if complete:
                raise UserError(f"containers of this cluster may be left, nothing was done: {told(error)}") from None
    return found


def snapshot(cluster: Cluster, version: str) -> FleetSnapshot:
    """The picture that `ps` shows when no supervisor runs: each replica is an orphan."""
    records = StateFile(cluster.path("state.json")).read()
    found = {orphan.name: orphan for orphan in find(cluster) if orphan.name is not None}
    sampler = Sampler()
    pids = {name: orphan.pid for name, orphan in found.items()}
    sampler.sample(pids)
    time.sleep(0.1)  # The time over which the CPU's share is measured.
    usage = sampler.sample(pids)
    rows = []
    for name, orphan in sorted(found.items(), key=lambda item: (item[1].role, item[1].port or 0)):
        record = records.get(name)
        used = usage.get(name)
        rows.append(
            Row(
                name=name,
                role=orphan.role,
                kind=orphan.kind,
                id=short(orphan.id),
                pid=orphan.pid,
                port=orphan.port or (record.port if record else 0),
                state=(record.state if record else "ready") if orphan.running else "stopped",
                restarts=record.restarts if record else 0,
                uptime_s=round(time.time() - orphan.since, 1) if orphan.running else None,
                node=orphan.endpoint.node if orphan.endpoint is not None else None,
                cpu_percent=used.cpu_percent if used else None,
                memory_bytes=used.memory_bytes if used else None,
                last_exit=dict(record.last_exit) if record and record.last_exit else None,
                in_flight=None,
                requests=None,
                orphan=True,
            )
        )
    return FleetSnapshot(SupervisorRow(None, False, None, version), tuple(rows))


def kill(cluster: Cluster, name: str, signal: int) -> None:
    """Send a signal to one orphan; UserError where there is none of this name."""
    orphan = next((orphan for orphan in find(cluster) if orphan.name == name and orphan.running), None)
    if orphan is None:
        raise UserError(f"{name}: no such replica runs (python supervisor.py ps lists them)", 2)
    if orphan.task is not None:
        node = orphan.endpoint.node if orphan.endpoint is not None else "its node"
        raise UserError(f"{name}: without a supervisor nobody knows whose engine to ask; on {node}: docker kill {short(orphan.id)}")
    if orphan.kind == "container":
        with contextlib.closing(engine.connect()) as client:
            try:
                client.api.kill(orphan.id, signal)
            except ENGINE_ERRORS as error:
                raise UserError(f"{name}: {told(error)}") from None
    else:
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(orphan.pid).send_signal(signal)


def end(cluster: Cluster, found: Iterable[Orphan], client: docker.DockerClient | None, grace: float) -> Iterator[str]:
    """Drain and end orphans: load balancers first, then the rest. Yields what was done, a line each.

    A load balancer and a worker both take SIGTERM as the order to finish what they have.
    """
    every = list(found)
    balancers = [orphan for orphan in every if orphan.kind == "process" and orphan.role == "lb"]
    yield from _end_processes(balancers, grace)
    # The relay last: workers commit until their end.
    for orphan in sorted(every, key=lambda each: each.is_relay):
        if orphan.kind == "container" and client is not None:
            _end_container(client, orphan, grace)
            yield f"{orphan.name or 'relay'}: container {short(orphan.id)} removed"
    yield from _end_service(cluster, [orphan for orphan in every if orphan.is_of_swarm], client, grace)
    workers = [orphan for orphan in every if orphan.kind == "process" and orphan.role != "lb" and orphan.name]
    yield from _end_processes(workers, grace)
    helpers = [orphan for orphan in every if orphan.name is None and orphan.kind == "process"]
    yield from _end_processes(helpers, 1.0)


def client_for(found: Iterable[Orphan]) -> docker.DockerClient | None:
    """A client of the engine that can end these; None where it takes none."""
    kinds = {orphan.kind for orphan in found}
    return engine.connect_manager() if kinds & {"task", "service"} else engine.connect() if "container" in kinds else None


def _end_service(cluster: Cluster, orphans: Collection[Orphan], client: docker.DockerClient | None, grace: float) -> Iterator[str]:
    """Remove the service whose tasks these are; the swarm ends them, as gently as it was told to when it made them."""
    if not orphans or client is None:
        return
    try:
        service = manager.Manager(client, cluster.id or "")
        living = {task.id for task in service.read({}).tasks if not task.ended}  # Those that do not serve yet, too.
        service.remove()
        until = time.monotonic() + grace + REMOVAL_PATIENCE
        while time.monotonic() < until and any(service.lives(each) for each in living):
            time.sleep(0.2)
    except ENGINE_ERRORS as error:
        raise UserError(f"the workers' service cannot be removed: {manager.told(error)}") from None
    for orphan in orphans:
        yield f"{orphan.name}: task {short(orphan.id)} ended" if orphan.task is not None else f"service {short(orphan.id)} removed"


def _end_processes(orphans: Iterable[Orphan], grace: float) -> Iterator[str]:
    living = []
    for orphan in orphans:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(orphan.pid)
            if is_alive(process.pid, orphan.birth):
                process.terminate()
                living.append((orphan, process))
    _, stubborn = psutil.wait_procs([process for _, process in living], timeout=grace + 1)
    for process in stubborn:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(stubborn, timeout=5)
    for orphan, _ in living:
        if orphan.name:
            yield f"{orphan.name}: process {orphan.pid} ended"


def _end_container(client: docker.DockerClient, orphan: Orphan, grace: float) -> None:
    with contextlib.suppress(*ENGINE_ERRORS):
        if orphan.running:
            client.api.stop(orphan.id, timeout=int(grace) + 1)
    try:
        client.api.remove_container(orphan.id, force=True, v=True)
    except ENGINE_ERRORS as error:
        # 404: gone; 409: somebody else removes it just now.
        if getattr(error, "status_code", None) not in (404, 409):
            raise UserError(f"{orphan.name or 'relay'}: its container cannot be removed: {told(error)}") from None
