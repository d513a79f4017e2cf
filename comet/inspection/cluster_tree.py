"""Reads the processes of a whole cluster as one tree, of processes and containers alike: `ps --tree`.

The tree begins at the first process. It holds the supervisor and all that it started, everything that carries the
cluster's mark, the processes in its containers, the engine's helper that keeps each container, and the one that
forwards each published port.
"""

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from comet.common.errors import UserError
from comet.common.redaction import concealed
from comet.engine import connection
from comet.engine.errors import engine_errors
from comet.host import process_identity
from comet.inspection import engine, ports, proc, proc_text, tree
from comet.inspection.facts import Missing, fact
from comet.inspection.replicas import process_name
from comet.reconcile.replica import public_name
from comet.runtimes import discovery
from comet.runtimes.orphan import Orphan
from comet.state.directory import Cluster
from comet.state.lock import Lock

RELAY: Final = "relay"


@dataclass(frozen=True)
class ClusterTree:
    """The tree, the replicas that run on other machines as (name, node), and why some are not seen (None: all are)."""

    roots: list[tree.Node]
    elsewhere: list[tuple[str, str]]
    problem: str | None

    def as_dict(self) -> dict[str, Any]:
        return {
            "processes": [root.as_dict() for root in self.roots],
            "elsewhere": [{"name": name, "node": node} for name, node in self.elsewhere],
            "problem": self.problem,
        }


@dataclass(frozen=True)
class Known:
    """A process of which is known what it is: a replica's (`name`, `kind`), or another one's `role`."""

    name: str | None
    kind: str | None
    role: str = ""


def read(cluster: Cluster) -> ClusterTree:
    """Return the tree of a cluster; it is empty where nothing of it runs."""
    found, hidden = discovery.find_visible(cluster)
    known: dict[int, Known] = {}
    supervisor = Lock(cluster).holder()
    if supervisor is not None:
        known[supervisor] = Known(None, "process", "supervisor")
    elsewhere = []
    for orphan in found:
        if orphan.kind == "process" and orphan.pid is not None:
            known[orphan.pid] = Known(orphan.name, "process")
    containers = [orphan for orphan in found if orphan.kind in ("container", "task") and orphan.running]
    inspected = _inspected(containers)
    for orphan in containers:
        inside = inspected.get(orphan.id)
        if inside is not None:
            known[inside.pid] = Known(orphan.name, orphan.kind, orphan.helper or ("" if orphan.name else RELAY))
        elif orphan.endpoint is not None and orphan.endpoint.node and orphan.name:
            elsewhere.append((orphan.name, orphan.endpoint.node))
    table = tree.by_pid(each for each in process_identity.processes() if each.alive)
    wanted = {pid for orphan in found for pid, _ in orphan.parts} | set(known)
    wanted |= tree.below(table, wanted) | _forwarders(inspected.values())
    wanted &= table.keys()
    every = {pid for each in wanted for pid in tree.ancestry(table, each)}
    about = {pid: _about(pid, known.get(pid)) for pid in every}
    return ClusterTree(tree.build(table, wanted, about), elsewhere, hidden)


@dataclass(frozen=True)
class Inside:
    """A running container: the process that does its work, that of the engine that keeps it, its published ports."""

    pid: int
    keeper: int
    ports: list[tuple[str, int]]


def _inspected(containers: Iterable[Orphan]) -> Mapping[str, Inside]:
    """Return what is known of these containers by id; those of other machines, and those that just ended are absent."""
    found: dict[str, Inside] = {}
    wanted = list(containers)
    if not wanted:
        return found
    with (
        contextlib.suppress(UserError, *engine_errors()),
        contextlib.closing(connection.connect_beside_manager()) as client,
    ):
        for orphan in wanted:
            inspected = engine.container(client, orphan.id)
            with contextlib.suppress(proc.Gone):
                if inspected is not None:
                    found[orphan.id] = _inside(inspected)
    return found


def _inside(inspected: Mapping[str, Any]) -> Inside:
    with engine.first_process(inspected) as first:
        keeper = proc_text.status(first.text("status")).parent
    with engine.service_process(engine.first_process(inspected)) as folder:
        return Inside(folder.pid, keeper, engine.ports(inspected))


def _forwarders(containers: Iterable[Inside]) -> set[int]:
    """Return the engine's processes that forward the published ports of these containers."""
    known = ports.proxies()
    return {
        pid
        for each in containers
        for inside, port in each.ports
        for pid in ports.forwarders(port, inside, each.keeper, known)
    }


def _about(pid: int, known: Known | None) -> tree.About:
    name = process_name(pid)
    status = fact(lambda: proc_text.status(_text(pid)))
    replica = public_name(known.name) if known is not None and known.name else None
    return tree.About(
        name=name,
        command=concealed(" ".join(process_identity.command_line(pid))),
        inside=None if isinstance(status, Missing) else status.inside[-1],
        uid=None if isinstance(status, Missing) else status.uids[0],
        role=(known.role if known is not None else "") or tree.role(name, replica),
        replica=replica,
        kind=known.kind if known is not None and (replica or known.role) else None,
    )


def _text(pid: int) -> str:
    with proc.ProcessFolder(pid) as folder:
        return folder.text("status")
