"""Taking over what an earlier supervisor left, as it is: same processes, same containers, no restart, no refused connection.

A load balancer is adopted through its control socket: it hands over its listening socket (SCM_RIGHTS), which is then held here as
it was by the supervisor that died. A worker is adopted when it runs; the socket that it may have been given is borrowed back from it.

What is adopted and made otherwise than is wanted now (`stale`, by the fingerprint of config, image and code) goes on serving until
it is rolled. A load balancer that does not answer, or speaks another protocol, cannot be adopted: its listening socket is borrowed
(`Heritage`), so that a successor accepts on it before it is ended. Everything else is in the way, or of no use (`Leftovers`).
"""

import contextlib
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from comet.cluster import Cluster
from comet.drivers.process import is_alive
from comet.listeners import borrowed
from comet.observation import Exit
from comet.orphans import Orphan
from comet.replica import Replica, State, Wanted
from comet.statefile import Record
from comet.supervise import Enlisted
from lb import messages

PATIENCE = 2.0
"""Seconds that a load balancer may take to answer on its control socket."""


@dataclass(frozen=True)
class Adoption:
    """One replica that can be adopted. A load balancer comes with its control connection and its listening socket. `made_as` is the
    fingerprint that it was made with, where that is known."""

    member: Enlisted
    orphan: Orphan
    record: Record | None
    control: socket.socket | None = None
    listener: socket.socket | None = None
    made_as: str | None = None

    @property
    def stale(self) -> bool:
        """Whether it was made otherwise than is wanted now."""
        return bool(self.made_as != self.member.spec.launch.fingerprint)

    def replica(self, now: float, wall: float) -> Replica:
        """The replica as if it had been supervised all along."""
        record = self.record
        was_ready = record is None or record.state in ("ready", "unhealthy")
        started = now - max(0.0, wall - self.orphan.since)
        return Replica(
            self.member.spec,
            wanted=Wanted.UP,
            state=State.READY if was_ready else State.STARTING,
            instance=record.instance if record else 1,
            pid=self.orphan.pid,
            id=self.orphan.id[:12],
            endpoint=self.orphan.endpoint,
            remote=self.orphan.endpoint is not None,
            since=now,
            started=started,
            ready_since=now if was_ready else None,
            deadline=None if was_ready else now + self.member.spec.start_timeout,
            was_ready=was_ready,
            restarts=record.restarts if record else 0,
            last_exit=Exit(**record.last_exit) if record and record.last_exit else None,
        )


@dataclass(frozen=True)
class Heritage:
    """The listening socket of a load balancer that cannot be adopted, and which of the counters' files it goes on writing."""

    orphan: Orphan
    listener: socket.socket
    counters: str | None


@dataclass(frozen=True)
class Leftovers:
    """What is not adopted: what has to go before anything is started, and what may serve until its successors are ready."""

    before: tuple[Orphan, ...]
    after: tuple[Orphan, ...]


def leftovers(found: Iterable[Orphan], adopted: Iterable[Adoption], heirs: Mapping[str, Heritage], ports: Iterable[int]) -> Leftovers:
    """Sort what is left: whoever holds none of the wanted `ports`, or has an heir on its own, is in nobody's way."""
    kept = {adoption.orphan.id for adoption in adopted}
    inherited = {heritage.orphan.id for heritage in heirs.values()}
    wanted = set(ports)
    rest = [orphan for orphan in found if orphan.id not in kept]
    later = [each for each in rest if each.id in inherited or (each.running and each.name and each.port and each.port not in wanted)]
    return Leftovers(tuple(each for each in rest if each not in later), tuple(later))


def reused(records: Iterable[Record]) -> list[Record]:
    """Those whose process is dead, and whose PID is another process's by now."""
    with_pid = [record for record in records if record.kind == "process" and record.pid is not None and record.create_time is not None]
    return [each for each in with_pid if each.pid and is_alive(each.pid, None) and not is_alive(each.pid, each.create_time)]


def balancers(
    cluster: Cluster, host: str, members: Iterable[Enlisted], found: Iterable[Orphan], records: Mapping[str, Record]
) -> list[Adoption]:
    """The load balancers that answer on their control socket and hand over a listening socket on `host`."""
    by_pid = {orphan.pid: orphan for orphan in found if orphan.kind == "process"}
    adopted = []
    for member in members:
        record = records.get(member.spec.name)
        if record is None or record.pid is None or record.control is None or record.port != member.spec.port:
            continue
        orphan = by_pid.get(record.pid)
        if orphan is None or not is_alive(record.pid, record.create_time):
            continue
        with contextlib.suppress(OSError, ValueError):
            control, listener = take_over(cluster, record.control)
            wanted = socket.getaddrinfo(host, member.spec.port, type=socket.SOCK_STREAM)[0][4]
            if listener.getsockname()[:2] != wanted[:2]:
                control.close()
                listener.close()
                continue
            adopted.append(Adoption(member, orphan, record, control, listener, record.fingerprint))
    return adopted


def heirs(
    host: str, members: Iterable[Enlisted], found: Iterable[Orphan], records: Mapping[str, Record], adopted: Iterable[Adoption]
) -> dict[str, Heritage]:
    """By name: what those of the `members` inherit whose load balancer lives and is not adopted."""
    kept = {adoption.member.spec.name for adoption in adopted}
    running = {(orphan.name, orphan.port): orphan for orphan in found if orphan.kind == "process" and orphan.role == "lb"}
    inherited = {}
    for member in members:
        orphan = running.get((member.spec.name, member.spec.port))
        if member.spec.name in kept or orphan is None or orphan.pid is None:
            continue
        listener = borrowed(orphan.pid, host, member.spec.port)
        if listener is not None:
            record = records.get(member.spec.name)
            inherited[member.spec.name] = Heritage(orphan, listener, record.counters if record is not None else None)
    return inherited


def workers(members: Iterable[Enlisted], found: Iterable[Orphan], records: Mapping[str, Record]) -> list[Adoption]:
    """The workers that run where they are wanted: how a container was made its label says, of a process the record of its PID."""
    running = {(orphan.name, orphan.kind, orphan.port): orphan for orphan in found if orphan.running}
    adopted = []
    for member in members:
        spec, record = member.spec, records.get(member.spec.name)
        orphan = running.get((spec.name, spec.kind, spec.port))
        if orphan is None or orphan.pid is None:
            continue
        made_as = orphan.fingerprint
        if made_as is None and record is not None and record.pid == orphan.pid:
            made_as = record.fingerprint
        listen = getattr(spec.launch, "listen", None)
        listener = borrowed(orphan.pid, *listen) if listen is not None else None
        if listen is None or listener is not None:
            adopted.append(Adoption(member, orphan, record, listener=listener, made_as=made_as))
    return adopted


def tasks(members: Iterable[Enlisted], found: Iterable[Orphan], records: Mapping[str, Record]) -> list[Adoption]:
    """The tasks of a swarm that serve, on whatever nodes: how they were made their service's label says."""
    serving = {orphan.name: orphan for orphan in found if orphan.task is not None}
    named = [(member, serving.get(member.spec.name)) for member in members]
    return [
        Adoption(member, orphan, records.get(member.spec.name), made_as=orphan.fingerprint)
        for member, orphan in named
        if orphan is not None
    ]


def take_over(cluster: Cluster, control_name: str) -> tuple[socket.socket, socket.socket]:
    """Control connection and listening socket of a living load balancer; OSError or ValueError where it does not give them, or
    speaks another version of the protocol."""
    peer = cluster.connect(control_name, PATIENCE)
    try:
        peer.sendall(messages.encode(messages.listener()))
        decoder = messages.Decoder()
        while True:
            data, fds, _, _ = socket.recv_fds(peer, 65536, 4)
            if not data:
                raise ConnectionError("it hung up")
            received = [socket.socket(fileno=fd) for fd in fds]
            arrived = decoder.feed(data)
            if any(message["type"] == "ready" and message.get("version") != messages.VERSION for message in arrived):
                raise ValueError("another version")
            if received:
                received[0].setblocking(False)
                return peer, received[0]
            if any(message["type"] == "listener" for message in arrived):
                raise ValueError("no socket came with the answer")
    except BaseException:
        peer.close()
        raise
