"""Shows a cluster from outside: the supervisor's snapshot, or what psutil and the engine see where none answers.

One snapshot (`once`) is `ps`. Programs that poll (`Watcher`) read CPU and memory themselves, since a pass over the
process table costs milliseconds that the supervisor's loop should not spend.
"""

import time
from dataclasses import replace

from comet import __version__
from comet.common.errors import UserError
from comet.reconcile.replica import number_of
from comet.runtimes.orphan import short_id
from comet.runtimes.replica_records import StateFile
from comet.state import traffic_orders
from comet.state.control_socket import NotAnswering, call, problem
from comet.state.directory import Cluster
from comet.state.lock import Lock
from comet.telemetry.process_usage import SUPERVISOR, Sampler
from comet.telemetry.snapshot import FleetSnapshot, Row, SupervisorRow, Usage, from_dict

TIMEOUT = 3.0
"""Seconds within which a supervisor must answer."""


def once(cluster: Cluster) -> FleetSnapshot:
    """Return the present state of the cluster, CPU and memory included."""
    try:
        return from_dict(call(cluster, "ps", timeout=TIMEOUT))
    except (ConnectionError, NotAnswering) as error:
        return offline_snapshot(cluster, isinstance(error, NotAnswering))


def offline_snapshot(cluster: Cluster, is_silent: bool = False) -> FleetSnapshot:
    """Return what can be seen of a cluster whose supervisor does not answer.

    The supervisor is dead, just starting, or `is_silent`: it runs and does not answer.
    """
    snapshot = orphan_snapshot(cluster)
    holder = Lock(cluster).holder()
    if holder is None:
        return snapshot
    rows = tuple(replace(row, orphan=False) for row in snapshot.replicas)  # A supervisor owns them.
    return FleetSnapshot(
        SupervisorRow(holder, True, None, __version__, problem=problem(holder) if is_silent else None), rows
    )


def orphan_snapshot(cluster: Cluster) -> FleetSnapshot:
    """Return the snapshot that `ps` shows when no supervisor runs: each replica is an orphan.

    Replicas that cannot be seen are named in the supervisor's `problem`.
    """
    from comet.runtimes import discovery  # Where a supervisor answers, all that it imports is not needed.

    drained = traffic_orders.read(cluster).drained
    records = StateFile(cluster.path("state.json")).read()
    sight = discovery.look(cluster)
    found = {orphan.name: orphan for orphan in sight.found if orphan.name is not None}
    sampler = Sampler()
    pids = {name: orphan.pid for name, orphan in found.items()}
    sampler.sample(pids)
    time.sleep(0.1)  # The time over which the CPU share is measured.
    usage = sampler.sample(pids)
    rows = []
    for name, orphan in sorted(found.items(), key=lambda item: (item[1].role, number_of(item[0]))):
        record = records.get(name)
        used = usage.get(name)
        rows.append(
            Row(
                name=name,
                role=orphan.role,
                kind=orphan.kind,
                id=short_id(orphan.id),
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
                drained=name in drained if orphan.role == "worker" else None,
            )
        )
    invisible = sorted(name for name, each in records.items() if sight.hides(each) and name not in found)
    problem = (
        f"{', '.join(invisible)} may run and cannot be seen: {'; '.join(dict.fromkeys(sight.hidden.values()))}"
        if invisible
        else None
    )
    return FleetSnapshot(SupervisorRow(None, False, None, __version__, problem=problem), tuple(rows))


class Watcher:
    """Polls a cluster. Not for concurrent use."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._sampler = Sampler()

    def snapshot(self) -> FleetSnapshot:
        """Return the present state as `once` does, with the CPU share since the last call, so the first has none."""
        try:
            snapshot = from_dict(call(self._cluster, "picture", timeout=TIMEOUT))
        except (ConnectionError, NotAnswering) as error:
            return offline_snapshot(self._cluster, isinstance(error, NotAnswering))
        except UserError:  # The supervisor is of a version without this command.
            return once(self._cluster)
        usage = self._sampler.sample(
            {row.name: row.pid for row in snapshot.replicas} | {SUPERVISOR: snapshot.supervisor.pid}
        )
        supervisor = replace(snapshot.supervisor, memory_bytes=usage.get(SUPERVISOR, Usage()).memory_bytes)
        rows = tuple(replace(row, **vars(usage.get(row.name, Usage()))) for row in snapshot.replicas)
        return replace(snapshot, supervisor=supervisor, replicas=rows)
