"""Breaks off what plays on a cluster when the cluster is stopped: its clients would go on against closed ports.

A supervisor that is killed is no stop: its replicas go on, and so does what plays on them.
"""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

from comet.common.errors import UserError
from comet.events import journal
from comet.state.control_socket import call
from comet.state.directory import Cluster

POLL_PAUSE = 0.5
"""Seconds between two looks at the cluster."""

LAST_LOOKS = 4
"""Looks at the cluster once the work has failed, LAST_PAUSE seconds apart."""

LAST_PAUSE = 0.1

CALL_TIMEOUT = 5.0
"""Seconds for the answer of a supervisor, which may be stopped itself (SIGSTOP)."""


class ClusterStopped(UserError):
    """The cluster is being stopped, or has been."""


async def unless_stopped(cluster: Cluster, work: Coroutine[Any, Any, None]) -> None:
    """Await `work`; cancel it and raise ClusterStopped where the cluster is stopped meanwhile."""
    tail = journal.Tail(cluster.path("events.jsonl"))
    task = asyncio.ensure_future(work)
    looks = LAST_LOOKS
    try:
        while not task.done() or (task.exception() is not None and looks > 0):
            looks -= task.done()  # A command that a stopping supervisor refuses may fail before the stop is seen.
            if await asyncio.to_thread(_is_stopping, cluster, tail):
                raise ClusterStopped("the cluster is being stopped: broken off")
            await (asyncio.sleep(LAST_PAUSE) if task.done() else asyncio.wait([task], timeout=POLL_PAUSE))
        await task
    finally:
        task.cancel()
        await asyncio.wait([task])


def _is_stopping(cluster: Cluster, tail: journal.Tail) -> bool:
    if any(record["event"] == "supervisor_stopped" for record in tail.fresh()):
        return True
    with contextlib.suppress(UserError, ConnectionError):
        rows = call(cluster, "picture", timeout=CALL_TIMEOUT)["replicas"]
        # Only a stop ends all load balancers at once: a restart and a change of their number leave one that serves.
        states = {row["state"] for row in rows if row["role"] == "lb"}
        return bool(states) and states <= {"stopping", "stopped"}
    return False
