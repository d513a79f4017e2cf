"""What replicas print: a process's in `.comet/logs/NAME.log`, a container's with the engine (bounded there by its log options)."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import docker.errors

from comet import engine
from comet.cluster import Cluster, Lock
from comet.drivers import manager
from comet.drivers.container import ENGINE_ERRORS, container_name
from comet.errors import UserError
from comet.statefile import StateFile
from comet.wallclock import parse

POLL_PAUSE = 0.2
"""Seconds between two looks at a file that is followed."""


def tail(cluster: Cluster, name: str, kind: str, count: int) -> list[str]:
    """The last lines that a replica printed; empty where there are none or they cannot be read."""
    with contextlib.suppress(UserError, OSError, *ENGINE_ERRORS):
        return list(lines(cluster, name, kind, count, follow=False))
    return []


def lines(cluster: Cluster, name: str, kind: str, count: int, follow: bool) -> Iterator[str]:
    """The last `count` lines, then, where they are followed, the ones to come. UserError where nothing is kept for this name."""
    if kind == "process":
        return _from_file(cluster.path("logs", f"{name}.log"), count, follow)
    if kind == "task":
        return _from_swarm(cluster, name, count, follow)
    return _from_engine(cluster, name, count, follow)


def _from_engine(cluster: Cluster, name: str, count: int, follow: bool) -> Iterator[str]:
    """The engine ends a log with its container: it is followed into the next life of the container as long as a supervisor sees to one."""
    container, last = container_name(cluster.id or "", name), ""
    client = engine.connect()
    try:
        for stamp, line in _stamped(client, container, follow, tail=count):
            last = stamp
            yield line
        while follow and Lock(cluster).holder() is not None:
            time.sleep(POLL_PAUSE)
            with contextlib.suppress(docker.errors.NotFound):  # It is being replaced.
                for stamp, line in _stamped(client, container, follow, tail="all", since=max(1.0, (parse(last) or 0.0) - 1)):
                    if stamp > last:
                        last = stamp
                        yield line
    except ENGINE_ERRORS as error:
        raise UserError(f"{name}: its container's log cannot be read: {' '.join(str(error).split())}") from None
    finally:
        client.close()


def _from_swarm(cluster: Cluster, name: str, count: int, follow: bool) -> Iterator[str]:
    """From the node that the replica's task runs on; followed into the tasks after it, as long as a supervisor sees to the cluster."""
    client, task = engine.connect_manager(), None
    try:
        while True:
            former, task = task, _task_of(cluster, client, name)
            if task is not None and task != former:
                for _, line in manager.Manager(client, cluster.id or "").log(task, follow, tail=count if former is None else "all"):
                    yield line
            if not follow or Lock(cluster).holder() is None:
                return
            time.sleep(POLL_PAUSE)
    except ENGINE_ERRORS as error:
        raise UserError(f"{name}: its task's log cannot be read: {manager.told(error)}") from None
    finally:
        client.close()


def _task_of(cluster: Cluster, client: docker.DockerClient, name: str) -> str | None:
    """The task that is the replica of this name now."""
    record = StateFile(cluster.path("state.json")).read().get(name)
    tasks = manager.Manager(client, cluster.id or "").read({}).tasks
    return next((task.id for task in tasks if record is not None and task.container == record.id), None)


def _stamped(client: docker.DockerClient, container: str, follow: bool, **limits: Any) -> Iterator[tuple[str, str]]:
    """Each line with the engine's time, of a width that lets it be compared as text."""
    rest = b""
    for chunk in client.api.logs(container, stream=True, follow=follow, timestamps=True, **limits):
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            stamp, _, text = line.decode(errors="replace").partition(" ")
            yield stamp, text


def _from_file(path: Path, count: int, follow: bool) -> Iterator[str]:
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        raise UserError(f"{path.stem}: nothing was logged") from None
    with stream:
        recent = stream.read().splitlines()[-count:] if count else []
        yield from (line.decode(errors="replace") for line in recent)
        while follow:
            line = stream.readline()
            if line:
                yield line.decode(errors="replace").rstrip("\n")
            elif os.fstat(stream.fileno()).st_size < stream.tell():
                stream.seek(0)  # It was cut: what is kept of it lies beside it.
            elif _replaced(stream.fileno(), path):
                yield from _from_file(path, 1000, follow)
                return
            else:
                time.sleep(POLL_PAUSE)


def _replaced(fd: int, path: Path) -> bool:
    try:
        return os.fstat(fd).st_ino != path.stat().st_ino
    except FileNotFoundError:
        return False
