"""What of an earlier supervisor's replicas can be adopted without a restart.

An adopted replica that was made by another config, image or code (`stale`, by fingerprint) serves until it is rolled. A
replica that was ordered to end is not adopted.
"""

import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from comet.reconcile.observations import Exit
from comet.reconcile.replica import ManagedReplica, Replica, State, Wanted
from comet.runtimes.orphan import Orphan, short_id
from comet.runtimes.replica_records import Record


@dataclass(frozen=True)
class Adoption:
    """A replica that can be adopted.

    `made_fingerprint` is the one that it was made with, where known. `listener` is its listening socket, `control` a
    load balancer's control connection; it accepts since `accepts_since` (monotonic seconds). `front` is the socket that
    all load balancers share.
    """

    member: ManagedReplica
    orphan: Orphan
    record: Record | None
    control: socket.socket | None = None
    listener: socket.socket | None = None
    made_fingerprint: str | None = None
    accepts_since: float | None = None
    front: socket.socket | None = None

    @property
    def stale(self) -> bool:
        """Whether it was made by another config, image or code than is wanted now."""
        return bool(self.made_fingerprint != self.member.spec.launch.fingerprint)

    def replica(self, now: float, wall: float) -> Replica:
        """Return its state as if this supervisor had started it.

        It keeps the fingerprint that it was made with until it is replaced: a later supervisor must recognize it as
        stale.
        """
        record, spec = self.record, self.member.spec
        if self.stale:
            spec = replace(spec, launch=replace(spec.launch, fingerprint=self.made_fingerprint or ""))
        was_ready = record is None or record.state in ("ready", "unhealthy")
        started = now - max(0.0, wall - self.orphan.since)
        return Replica(
            spec,
            wanted=Wanted.UP,
            state=State.READY if was_ready else State.STARTING,
            instance=record.instance if record else 1,
            pid=self.orphan.pid,
            id=short_id(self.orphan.id),
            endpoint=self.orphan.endpoint,
            remote=self.orphan.endpoint is not None,
            since=now,
            started=started,
            ready_since=now if was_ready else None,
            deadline=None if was_ready else now + spec.start_timeout,
            was_ready=was_ready,
            restarts=record.restarts if record else 0,
            last_exit=Exit(**record.last_exit) if record and record.last_exit else None,
        )


@dataclass(frozen=True)
class Inheritance:
    """A replica to start in place of one that cannot be adopted, whose listening socket it has; that one serves on."""

    member: ManagedReplica
    orphan: Orphan


def is_ending(record: Record) -> bool:
    """Whether it was ordered to end: it accepts nothing new and ends soon without a supervisor."""
    return record.state == State.STOPPING.value


def running_workers(
    members: Iterable[ManagedReplica], found: Iterable[Orphan], records: Mapping[str, Record]
) -> list[Adoption]:
    """Return the workers that run on their wanted ports.

    The fingerprint of a container is in its label, that of a process in the record of its PID.
    """
    running = {(orphan.name, orphan.driver, orphan.port): orphan for orphan in found if orphan.running}
    adopted = []
    for member in members:
        spec, record = member.spec, records.get(member.spec.name)
        orphan = running.get((spec.name, spec.driver, spec.port))
        if orphan is None or orphan.pid is None:
            continue
        if record is not None and record.pid == orphan.pid and is_ending(record):
            continue
        made_fingerprint = orphan.fingerprint
        if made_fingerprint is None and record is not None and record.pid == orphan.pid:
            made_fingerprint = record.fingerprint
        adopted.append(Adoption(member, orphan, record, made_fingerprint=made_fingerprint))
    return adopted
