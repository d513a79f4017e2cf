"""Finds the processes of the replicas that a user names, and reads everything about them.

Replicas are found as `ps` finds them without a supervisor, so `inspect` works with and without one, and costs the
supervisor nothing. A replica that dies or is restarted meanwhile is looked for once more.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import docker

from comet.common.errors import Unknown, UserError, nothing_runs
from comet.common.wording import nearest
from comet.engine import connection
from comet.engine.engine_error import EngineError
from comet.engine.errors import engine_errors, error_text
from comet.events.event import visible
from comet.host import process_identity
from comet.inspection import cgroup, engine, ports, proc, rows, sharing, tree
from comet.inspection.facts import EngineFacts, Fact, Facts, Link, Missing, PortRoute, fact
from comet.runtimes import discovery
from comet.runtimes.orphan import Orphan
from comet.state.directory import Cluster
from comet.state.lock import Lock

ATTEMPTS: Final = 2


@dataclass
class Subject:
    """A replica whose process is held open."""

    orphan: Orphan
    folder: proc.ProcessFolder
    container: Mapping[str, Any] | None = None


def report(cluster: Cluster, names: Sequence[str]) -> dict[str, Any]:
    """Return the report on the named replicas as plain data, the object of `inspect --json`.

    Raises Unknown for a name that does not run, UserError where a replica cannot be inspected here.
    """
    return rows.report(facts(cluster, names), proc.machine())


def facts(cluster: Cluster, names: Sequence[str]) -> list[Facts]:
    """Return the facts of the named replicas, in that order; raise UserError for a name that does not run here."""
    wanted = list(dict.fromkeys(names))
    if not wanted:
        raise UserError("inspect: name a replica at least (python supervisor.py ps lists them)", 2)
    if len(wanted) > rows.MOST_REPLICAS:
        raise UserError(f"inspect: {len(wanted)} names are given (allowed: 1 to {rows.MOST_REPLICAS})", 2)
    for attempt in range(ATTEMPTS):
        try:
            return _facts(cluster, wanted)
        except proc.Gone:
            if attempt == ATTEMPTS - 1:
                raise UserError(
                    "a replica has just ended, or runs where /proc does not show it (in a virtual machine): try again"
                ) from None
    raise AssertionError("unreachable")


def _facts(cluster: Cluster, names: Sequence[str]) -> list[Facts]:
    found, hidden = discovery.find_visible(cluster)
    running = {orphan.name: orphan for orphan in found if orphan.name is not None and orphan.running}
    if not running and hidden is None and Lock(cluster).holder() is None:
        raise nothing_runs(cluster.folder)
    chosen = [_chosen(name, running, hidden) for name in names]
    with contextlib.ExitStack() as stack:
        client = _client(stack, chosen)
        subjects = [_subject(stack, orphan, client) for orphan in chosen]
        known = {each.orphan.name or "": sharing.pages(each.folder) for each in subjects} if len(subjects) > 1 else {}
        shared = sharing.together(known)
        table = tree.by_pid(process_identity.processes())
        mounted = cgroup.trees(Path("/proc/self/mountinfo").read_text())
        return [_read(each, client, table, mounted, shared) for each in subjects]


def _chosen(name: str, running: Mapping[str, Orphan], hidden: str | None) -> Orphan:
    orphan = running.get(name)
    if orphan is None:
        meant = nearest(name, running)
        more = f" (did you mean {meant}?)" if meant else " (python supervisor.py ps lists them)"
        more = f" that is seen: {hidden}" if hidden else more
        raise Unknown(f"{visible(name)}: no such replica runs{more}", 2)
    return orphan


def _client(stack: contextlib.ExitStack, chosen: Sequence[Orphan]) -> docker.DockerClient | None:
    """Return a client of this machine's engine.

    None where it is not needed, or where there is none because all tasks run on other machines.
    """
    kinds = {orphan.kind for orphan in chosen}
    if kinds == {"process"}:
        return None
    try:
        return stack.enter_context(contextlib.closing(connection.connect_beside_manager()))
    except EngineError:
        if "container" in kinds:
            raise
        return None


def _subject(stack: contextlib.ExitStack, orphan: Orphan, client: docker.DockerClient | None) -> Subject:
    """Return the subject, whose folder is open for as long as the stack is."""
    if orphan.kind == "process":
        if orphan.pid is None:
            raise proc.Gone(0)
        return Subject(orphan, stack.enter_context(proc.ProcessFolder(orphan.pid, orphan.birth)))
    try:
        inspected = engine.container(client, orphan.id) if client is not None else None
    except engine_errors() as error:
        raise UserError(f"{orphan.name}: {error_text(error)}") from None
    if inspected is None:
        if orphan.endpoint is not None and orphan.endpoint.node:
            raise UserError(
                f"{orphan.name}: it runs on {orphan.endpoint.node}; /proc shows this machine's processes only"
            )
        raise proc.Gone(0)
    folder = engine.service_process(engine.first_process(inspected))
    return Subject(orphan, stack.enter_context(folder), inspected)


def _read(
    subject: Subject,
    client: docker.DockerClient | None,
    table: Mapping[int, process_identity.Process],
    mounted: list[cgroup.Tree],
    shared: Mapping[str, Fact[int]],
) -> Facts:
    folder, orphan = subject.folder, subject.orphan
    process = proc.read(folder)
    chain = tuple(Link(pid, process_name(pid)) for pid in tree.ancestry(table, folder.pid))
    of_engine: EngineFacts | None = None
    if subject.container is not None and client is not None:
        try:
            of_engine = engine.facts(client, subject.container)
        except engine_errors() as error:
            raise UserError(f"{orphan.name}: {error_text(error)}") from None
    route = ports.of_process(folder.pid, orphan.port or 0) if of_engine is None else _route_to(of_engine, orphan, chain)
    groups = fact(lambda: cgroup.read(folder.text("cgroup"), mounted))
    together = shared.get(orphan.name or "", sharing.ALONE)
    folder.check()
    return Facts(orphan.name or "", orphan.role, orphan.kind, chain, process, groups, of_engine, route, together)


def _route_to(of_engine: EngineFacts, orphan: Orphan, chain: Sequence[Link]) -> PortRoute:
    """Return the route to a container's port, in the network in which its shim runs."""
    inside, port = next(
        ((inside, port) for inside, port in of_engine.ports if port == orphan.port),
        of_engine.ports[0] if of_engine.ports else ("", orphan.port or 0),
    )
    shim = next((link.pid for link in reversed(chain) if link.name.startswith(tree.SHIMS)), None)
    if not inside:
        return PortRoute(port, Missing("none", "no port is published", absent=True), ())
    return ports.of_container(port, inside, shim)


def process_name(pid: int) -> str:
    """Return a short name of a process: its program's, or the title that it gave itself."""
    return tree.short_name(process_identity.name(pid) or "?", process_identity.command_line(pid))
