"""Sends commands to the running supervisor, and stops it."""

import argparse
import contextlib
import signal
import time
from typing import Any

from comet.cli.options import changing_cluster
from comet.cli.waiting import progress
from comet.common.errors import NOTHING_RUNS, UserError
from comet.common.wording import counted
from comet.events import journal
from comet.state.control_socket import NotAnswering, SupervisorStopped, call, ping
from comet.state.directory import Cluster
from comet.state.lock import Lock
from comet.terminal.messages import Display

QUICK_TIMEOUT = 20.0
"""Seconds for a request that a supervisor answers at once, if it answers at all."""

PING_INTERVAL = 5.0
"""Seconds between two checks whether a supervisor that is to stop still answers."""

MAX_MISSED_PINGS = 6
"""Number of successive checks without an answer after which the supervisor counts as hung."""

OPERATION_TIMEOUT = 3600.0
"""Seconds; a rolling restart of 200 workers takes minutes."""


def run_operation(options: argparse.Namespace, command: str, **fields: Any) -> Any:
    """Have the supervisor carry out an operation, within OPERATION_TIMEOUT, and show what happens meanwhile."""
    cluster = changing_cluster(options)
    with contextlib.nullcontext() if options.json else progress(cluster):
        return send_command(cluster, command, OPERATION_TIMEOUT, **fields)


def send_command(cluster: Cluster, command: str, timeout: float, **fields: Any) -> Any:
    try:
        return call(cluster, command, timeout=timeout, **fields)
    except ConnectionError:
        holder = Lock(cluster).holder()
        if holder is not None:
            raise UserError(
                f"the supervisor (PID {holder}) does not answer: it is starting or stopping; try again"
            ) from None
        raise UserError(
            f"{cluster.folder}: no supervisor runs (start one with: python supervisor.py)", NOTHING_RUNS
        ) from None


def stop_supervisor(cluster: Cluster, pid: int, display: Display) -> int:
    """Ask the supervisor to stop and wait until it has: its lock is free, however long the drain takes."""
    tail = journal.Tail(cluster.path("events.jsonl"))
    try:
        call(cluster, "stop", timeout=5)
    except SupervisorStopped:
        raise
    except (ConnectionError, NotAnswering) as error:
        display.show({"kind": "step", "text": f"{error}: sending it SIGTERM (kill -9 {pid} is the last resort)"})
        _terminate(cluster)
    missed, asked_at = 0, time.monotonic()
    while True:
        ended = Lock(cluster).holder() is None
        for record in tail.fresh():
            display.show({"kind": "event", "record": record})
        if ended:
            break
        time.sleep(0.05)
        if time.monotonic() - asked_at > PING_INTERVAL:
            missed, asked_at = _missed_pings(cluster, missed), time.monotonic()
        if missed >= MAX_MISSED_PINGS:
            raise UserError(
                f"the supervisor (PID {pid}) is hung; end it with: kill -9 {pid}, then run this again to stop the rest"
            )
    from comet.runtimes import discovery

    sight = discovery.look(cluster)
    if sight.found:
        names = ", ".join(str(orphan.name or orphan.id) for orphan in sight.found)
        raise UserError(f"{counted(len(sight.found), 'replicas')} could not be removed: {names}")
    for reason in sight.hidden.values():
        raise UserError(f"containers may be left, and cannot be seen: {reason}; run this again when the engine is back")
    return 0


def _missed_pings(cluster: Cluster, missed: int) -> int:
    """Return how many successive checks a stopping supervisor has not answered.

    Raises SupervisorStopped: a stopped supervisor does not answer until it is continued.
    """
    try:
        ping(cluster)
    except SupervisorStopped:
        raise
    except NotAnswering:
        return missed + 1
    except (ConnectionError, UserError):  # It has closed its socket, one of the last steps of a stop.
        pass
    return 0


def _terminate(cluster: Cluster) -> None:
    """Send SIGTERM to the process that holds the supervisor lock now, and to no other."""
    handle = Lock(cluster).handle()
    if handle is not None:
        with contextlib.closing(handle):
            try:
                handle.send(signal.SIGTERM)
            except PermissionError:
                raise UserError(f"the supervisor (PID {handle.pid}) is another user's: permission denied") from None
