"""What replicas print: a process's in `.comet/logs/NAME.log`, a container's with the engine (bounded there by its log options). Between
the lives stands how each of them ended (`comet.farewells`)."""

import contextlib
import os
import time
from collections.abc import Iterator
from math import inf
from pathlib import Path
from typing import Any

import docker
import docker.errors

from comet import engine
from comet.cluster import Cluster, Lock
from comet.drivers import manager
from comet.drivers.container import ENGINE_ERRORS, container_name
from comet.errors import UserError
from comet.farewells import Farewells
from comet.statefile import StateFile
from comet.wallclock import parse

POLL_PAUSE = 0.2
"""Seconds between two looks at a file that is followed."""

Stamped = tuple[str, str]
"""A line after the engine's time, which is of a width that lets it be compared as text."""


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
    container, ends = container_name(cluster.id or "", name), Farewells(cluster, name)
    client = engine.connect()
    try:
        past = list(_stamped(client, container, follow=False, tail=count + 1))
        yield from _past(past, count, ends)
        last = past[-1][0] if past else ""
        while follow:
            since = max(1.0, (parse(last) or 0.0) - 1)
            with contextlib.suppress(docker.errors.NotFound):  # It is being replaced.
                begun = False
                for stamp, line in _stamped(client, container, follow=True, tail="all", since=since):
                    if stamp > last:
                        if not begun:
                            ends.look()
                        last, begun = stamp, True
                        yield from ends.until(parse(stamp) or 0.0)
                        yield line
            yield from ends.now()
            if Lock(cluster).holder() is None:
                return
            time.sleep(POLL_PAUSE)
    except ENGINE_ERRORS as error:
        raise UserError(f"{name}: its container's log cannot be read: {' '.join(str(error).split())}") from None
    finally:
        client.close()


def _past(lines: list[Stamped], count: int, ends: Farewells) -> Iterator[str]:
    """The last `count` of `lines`, which are one more where there are, with the ends of lives between them, and after them. Where
    there are no more, also how the life ended whose output is gone with its container."""
    shown = lines[-count:] if count else []
    first = parse(shown[0][0]) if shown else None
    ends.forget_before(inf if first is None else first, but_last=len(lines) <= count)
    for stamp, line in shown:
        yield from ends.until(parse(stamp) or 0.0)
        yield line
    yield from ends.now()


def _from_swarm(cluster: Cluster, name: str, count: int, follow: bool) -> Iterator[str]:
    """From the node that the replica's task runs on; followed into the tasks after it, as long as a supervisor sees to the cluster."""
    client, ends = engine.connect_manager(), Farewells(cluster, name)
    try:
        manages = manager.Manager(client, cluster.id or "")
        task, former = _task_of(cluster, client, name), None
        past = list(manages.log(task, follow=False, tail=count + 1)) if task is not None else []
        yield from _past(past, count, ends)
        last = past[-1][0] if past else ""
        while follow:
            if task is not None and task != former:
                # Each task has a log, and a machine with a clock, of its own.
                yield from (line for stamp, line in manages.log(task, follow=True, tail="all") if stamp > last)
                former, last = task, ""
            yield from ends.now()
            if Lock(cluster).holder() is None:
                return
            time.sleep(POLL_PAUSE)
            task = _task_of(cluster, client, name)
    except ENGINE_ERRORS as error:
        raise UserError(f"{name}: its task's log cannot be read: {manager.told(error)}") from None
    finally:
        client.close()


def _task_of(cluster: Cluster, client: docker.DockerClient, name: str) -> str | None:
    """The task that is the replica of this name now."""
    record = StateFile(cluster.path("state.json")).read().get(name)
    tasks = manager.Manager(client, cluster.id or "").read({}).tasks
    return next((task.id for task in tasks if record is not None and task.container == record.id), None)


def _stamped(client: docker.DockerClient, container: str, follow: bool, **limits: Any) -> Iterator[Stamped]:
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
        *recent, rest = stream.read().split(b"\n")
        if rest and not follow:
            recent.append(rest)
        yield from (_text(line) for line in recent[-count:] if count)
        while follow:
            piece = stream.readline()
            rest += piece
            if piece.endswith(b"\n"):
                yield _text(rest)
                rest = b""
            elif piece:
                continue  # Its writer is in the midst of a line.
            elif os.fstat(stream.fileno()).st_size < stream.tell():
                stream.seek(0)  # It was cut: what is kept of it lies beside it.
            elif _replaced(stream.fileno(), path):
                yield from _from_file(path, 1000, follow)
                return
            else:
                time.sleep(POLL_PAUSE)


def _text(line: bytes) -> str:
    return line.decode(errors="replace").rstrip("\r\n")


def _replaced(fd: int, path: Path) -> bool:
    try:
        return os.fstat(fd).st_ino != path.stat().st_ino
    except FileNotFoundError:
        return False
