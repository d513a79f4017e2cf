"""Finds the processes of a cluster, and the replica that each one is or is a part of.

Every process of a cluster carries the cluster's id in its environment (COMET_CLUSTER), and the cluster's folder
(COMET_FOLDER). A program may write its title over that. So the main process of a replica is also known by its record in
the state file, and the processes that it makes by their session and their descent.
"""

import os
import re
import time
from collections.abc import Collection, Container, Iterable, Mapping
from dataclasses import replace

from comet.host import process_identity
from comet.reconcile.replica import State
from comet.runtimes.orphan import ID, Orphan
from comet.runtimes.replica_records import Record
from comet.state.directory import Cluster

ADMIN = re.compile(r"comet: admin :(\d+)")
TITLE = re.compile(r"comet: (lb-\d+) :(\d+)")
WORKER_COMMAND = re.compile(r"--name (worker-\d+)")
WORKER_NAME = re.compile(r"worker-\d+")
CLUSTER_VARIABLE = "COMET_CLUSTER"
"""The environment variable that holds the cluster's id."""

LB_DRIVER, WORKER_DRIVER = "lb", "worker-process"
"""The drivers of what is a process, as the state file names them; helpers count as the latter's."""


def processes(cluster_id: str, records: Iterable[Record], ours: Collection[int] | None = None) -> list[Orphan]:
    """Return the living processes of the cluster, except those in `ours`.

    By default `ours` are the caller and what it started. A process belongs to the cluster by the id in its environment,
    by a record of its PID and birth (a service may write its title over its environment), or because it belongs to such
    a process, by its session or as its descendant. What belongs to a living worker is part of it (`parts`) and ends
    with it.
    """
    table = {each.pid: each for each in process_identity.processes() if each.alive}
    ours = {os.getpid(), *process_identity.descendants({os.getpid()}, table.values())} if ours is None else {*ours}
    records = [each for each in records if each.kind == "process" and None not in (each.pid, each.create_time)]
    known = {each.pid: each for each in records if each.pid in table and table[each.pid].birth == each.create_time}
    marks = {pid: process_identity.environment(pid) for pid in table if pid not in ours}
    # Another cluster's mark counts for more than a record, since a copied folder may hold that record.
    marked = {
        pid
        for pid, mark in marks.items()
        if mark.get(CLUSTER_VARIABLE, cluster_id if pid in known else None) == cluster_id
    }
    candidates = [
        each for pid in sorted(marked) if (each := _main_process(table[pid], known.get(pid), marks[pid])) is not None
    ]
    mains = _main_processes(candidates, known)
    workers = {pid: orphan.name for pid, orphan in mains.items() if orphan.role == "worker"}
    by_name = {name: pid for pid, name in workers.items()}
    owner: dict[int, int | None] = {}
    for pid in set(table) - ours - set(mains):
        # A process that left its session and lost its parent still names its replica.
        named_owner = by_name.get(marks[pid].get("COMET_REPLICA")) if pid in marked else None
        owner[pid] = _owner_of(table, pid, workers) or named_owner
    found = [
        replace(orphan, parts=tuple((each, table[each].birth) for each in owner if owner[each] == pid))
        for pid, orphan in mains.items()
    ]
    left = {
        each.pid: record.port
        for record in records
        if record.role == "worker"
        for each in _without_leader(record, table)
    }
    left = {
        pid: port for pid, port in left.items() if marks.get(pid, {}).get(CLUSTER_VARIABLE, cluster_id) == cluster_id
    }
    rest = (pid for pid in sorted((marked | set(left)) - ours - set(mains)) if owner.get(pid) is None)
    return [*found, *(_helper(table[pid], marks[pid], left.get(pid)) for pid in rest)]


def _main_processes(candidates: Iterable[Orphan], known: Collection[int]) -> dict[int, Orphan]:
    """Return the main processes by PID.

    Of several workers of one name the main process is the one on record, else the oldest: the others are its
    descendants.
    """
    taken: set[str | None] = set()
    mains = {}
    for orphan in sorted(candidates, key=lambda each: (each.pid not in known, each.birth)):
        if orphan.pid is not None and (orphan.role == "lb" or orphan.name not in taken):
            mains[orphan.pid] = orphan
            taken.add(orphan.name)
    return mains


def _owner_of(table: Mapping[int, process_identity.Process], pid: int, workers: Container[int]) -> int | None:
    """Return the PID of the worker to which a process belongs, by its session or as a descendant."""
    at: process_identity.Process | None = table[pid]
    for _ in range(len(table)):
        if at is None:
            return None
        if at.session in workers:
            return at.session
        if at.parent in workers:
            return at.parent
        at = table.get(at.parent)
    return None


def _without_leader(record: Record, table: Mapping[int, process_identity.Process]) -> list[process_identity.Process]:
    """Return what is left in the session of a worker that is dead."""
    pid, birth = record.pid, record.create_time
    if pid is None or birth is None or pid in table:
        return []
    return [each for each in table.values() if each.session == pid and each.birth >= birth]


def _main_process(process: process_identity.Process, record: Record | None, mark: Mapping[str, str]) -> Orphan | None:
    """Return the replica whose main process this is; None where it is no main process."""
    if record is not None and record.create_time is not None:
        driver = LB_DRIVER if record.role == "lb" else WORKER_DRIVER
        waited = max(0.0, (record.begun or record.create_time) - record.create_time)
        return _orphan(process, record.name, driver, record.port, waited, record.state == State.STOPPING.value)
    line = " ".join(process_identity.command_line(process.pid))
    if title := TITLE.search(line):
        return _orphan(process, title[1], LB_DRIVER, int(title[2]))
    if not process.leads_session:
        return None
    if worker := WORKER_COMMAND.search(line):
        listen = re.search(r"--listen \S+:(\d+)", line)
        return _orphan(process, worker[1], WORKER_DRIVER, int(listen[1]) if listen else None)
    name = mark.get("COMET_REPLICA", "")
    return _orphan(process, name, WORKER_DRIVER, _port(mark)) if WORKER_NAME.fullmatch(name) else None


def _helper(process: process_identity.Process, mark: Mapping[str, str], port: int | None) -> Orphan:
    """Return a helper process; `port` is that of the worker that left it, where that is known."""
    if admin := ADMIN.search(" ".join(process_identity.command_line(process.pid))):
        port = int(admin[1])
    elif port is None and "COMET_REPLICA" in mark:
        port = _port(mark)
    return _orphan(process, None, WORKER_DRIVER, port)


def _orphan(
    process: process_identity.Process,
    name: str | None,
    driver: str,
    port: int | None,
    waited: float = 0.0,
    ending: bool = False,
) -> Orphan:
    """Return what a process is; `waited` are the seconds from its birth until it became that."""
    pid, since = process.pid, wall_time(process.birth) + waited
    return Orphan(name, driver, "process", pid, str(pid), port, since, birth=process.birth, ending=ending)


def _port(mark: Mapping[str, str]) -> int | None:
    """Return the port on which a service was to listen."""
    port = mark.get("PORT", "")
    return int(port) if re.fullmatch(r"[0-9]{1,5}", port) else None


def wall_time(birth: float) -> float:
    """Return the wall time of a moment given in seconds from boot."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + birth


def marked_id(cluster: Cluster) -> str | None:
    """Return a cluster id that a process carries together with the mark of this cluster's folder."""
    marks = (process_identity.environment(pid) for pid in process_identity.pids())
    marked = (mark for mark in marks if "COMET_FOLDER" in mark and cluster.is_marked(mark["COMET_FOLDER"]))
    return next((mark[CLUSTER_VARIABLE] for mark in marked if ID.fullmatch(mark.get(CLUSTER_VARIABLE, ""))), None)
