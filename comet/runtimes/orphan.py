"""A process, container, task or service of a cluster that is found alive, with or without its supervisor."""

import re
from dataclasses import dataclass

from comet.reconcile.observations import Endpoint

ID = re.compile("[0-9a-f]{12}")
"""The form of a cluster's id."""


@dataclass(frozen=True)
class Orphan:
    """A process, container, task or service of the cluster that is alive.

    `driver` names the runtime that it belongs to, as in the state file. `name` is None for helpers (forkserver,
    admin server, relay, a service none of whose tasks serves). `since` is wall time, for people.
    `birth` identifies a process, together with its PID. `parts` are the other processes of a worker, by PID and birth.
    `ending`: it was ordered to end. `task` is the id of a swarm's task, `endpoint` where that runs. `helper` says which
    helper a container is, "" for a replica.
    """

    name: str | None
    driver: str
    kind: str
    pid: int | None
    id: str
    port: int | None
    since: float
    running: bool = True
    fingerprint: str | None = None
    birth: float | None = None
    parts: tuple[tuple[int, float], ...] = ()
    ending: bool = False
    task: str | None = None
    endpoint: Endpoint | None = None
    helper: str = ""

    @property
    def role(self) -> str:
        return "lb" if self.name and self.name.startswith("lb-") else "worker"


def short_id(identity: str) -> str:
    """Return the id as `docker ps` shows it, which is also the container's host name."""
    return identity[:12]
