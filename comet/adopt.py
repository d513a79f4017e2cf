"""Taking over what an earlier supervisor left, as it is: same processes, same containers, no restart, no refused connection.

A load balancer is adopted through its control socket: it hands over its listening socket (SCM_RIGHTS), which is then held here as
it was by the supervisor that died. A worker is adopted when it runs and is made as the config wants it (its fingerprint);
the socket that it was given is borrowed back from it. What
does not match or does not answer is left to be ended and made anew.
"""

import contextlib
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from comet.cluster import Cluster
from comet.drivers.process import is_alive
from comet.listeners import borrowed
from comet.orphans import Orphan
from comet.replica import Replica, State, Wanted
from comet.statefile import Record
from comet.supervise import Enlisted
from lb import messages

PATIENCE = 2.0
"""Seconds that a load balancer may take to answer on its control socket."""


@dataclass(frozen=True)
class Adoption:
    """One replica that can be adopted. A load balancer comes with its control connection and its listening socket."""

    member: Enlisted
    orphan: Orphan
    record: Record | None
    control: socket.socket | None = None
    listener: socket.socket | None = None

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
            since=now,
            started=started,
            ready_since=now if was_ready else None,
            deadline=None if was_ready else now + self.member.spec.start_timeout,
            was_ready=was_ready,
            restarts=record.restarts if record else 0,
        )


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
            adopted.append(Adoption(member, orphan, record, control, listener))
    return adopted


def workers(members: Iterable[Enlisted], found: Iterable[Orphan], records: Mapping[str, Record]) -> list[Adoption]:
    """The workers that run and are made as they are wanted: a container tells by its label, a process by the record of its PID."""
    running = {(orphan.name, orphan.kind): orphan for orphan in found if orphan.running}
    adopted = []
    for member in members:
        orphan, record = running.get((member.spec.name, member.spec.kind)), records.get(member.spec.name)
        if orphan is None:
            continue
        made_as = orphan.fingerprint
        if made_as is None and record is not None and record.pid == orphan.pid:
            made_as = record.fingerprint
        if made_as != member.spec.launch.fingerprint:
            continue
        listen = getattr(member.spec.launch, "listen", None)
        listener = borrowed(orphan.pid, *listen) if listen is not None and orphan.pid is not None else None
        if listen is None or listener is not None:
            adopted.append(Adoption(member, orphan, record, listener=listener))
    return adopted


def take_over(cluster: Cluster, control_name: str) -> tuple[socket.socket, socket.socket]:
    """Control connection and listening socket of a living load balancer; OSError or ValueError where it does not give them."""
    peer = cluster.connect(control_name, PATIENCE)
    try:
        peer.sendall(messages.encode(messages.listener()))
        decoder = messages.Decoder()
        while True:
            data, fds, _, _ = socket.recv_fds(peer, 65536, 4)
            if not data:
                raise ConnectionError("it hung up")
            arrived = decoder.feed(data)
            if fds:
                listener = socket.socket(fileno=fds[0])
                listener.setblocking(False)
                return peer, listener
            if any(message["type"] == "listener" for message in arrived):
                raise ValueError("no socket came with the answer")
    except BaseException:
        peer.close()
        raise
