"""Reads the log of a replica's task from its node, and goes on in the replica's later tasks."""

import time
from collections.abc import Iterator
from functools import partial

import docker

from comet.common.errors import UserError
from comet.engine import connection as engine
from comet.engine import log_stream
from comet.engine.errors import engine_errors
from comet.engine.log_stream import Assembler, LogPosition, LogTail
from comet.events.exit_markers import ExitMarkers
from comet.runtimes.marked_output import RESTART_POLL_PAUSE, MarkedOutput, last_lines, new_output
from comet.runtimes.replica_records import StateFile
from comet.runtimes.swarm import manager
from comet.state.directory import Cluster
from comet.state.lock import Lock


def pieces(cluster: Cluster, name: str, count: int, follow: bool) -> Iterator[bytes]:
    """Yield the last `count` lines, then new output while a supervisor runs if `follow` is set."""
    client, out = engine.connect_manager(), MarkedOutput(ExitMarkers(cluster, name))
    try:
        service = manager.Manager(client, cluster.id or "")
        task, former = _task_of(cluster, client, name), None
        tail, assembler = LogTail(LogPosition(coarse=False)), Assembler(adds_newlines=False)
        if task is not None:
            tail = log_stream.last_lines(partial(service.log, task, False), count, as_written=False)
        yield from last_lines(tail, count, follow, assembler, out)
        position = tail.position
        while follow:
            if task is not None and task != former:
                yield from new_output(service.log(task, True, "all"), position, assembler, out)
                yield from out.plain(assembler.end())
                # Each task has its own log, and its own machine with its own clock.
                former, position = task, LogPosition(coarse=False)
            yield from out.ends()
            if Lock(cluster).holder() is None:
                return
            time.sleep(RESTART_POLL_PAUSE)
            task = _task_of(cluster, client, name)
    except engine_errors() as error:
        raise UserError(f"{name}: its task's log cannot be read: {manager.error_text(error)}") from None
    finally:
        client.close()


def _task_of(cluster: Cluster, client: docker.DockerClient, name: str) -> str | None:
    """Return the id of the task that currently is the replica of this name."""
    record = StateFile(cluster.path("state.json")).read().get(name)
    tasks = manager.Manager(client, cluster.id or "").read({}).tasks
    return next((task.id for task in tasks if record is not None and task.container == record.id), None)
