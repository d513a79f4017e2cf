"""Adopts running load balancers of an earlier supervisor without a refused connection.

A load balancer is adopted through its control socket: it hands over its listening socket (SCM_RIGHTS, unix(7)), and the
supervisor holds it from then on. One that does not answer or speaks another protocol is not adopted; its listening
socket is duplicated (pidfd_getfd(2)), so that a successor accepts on it before the old one ends.
"""

import contextlib
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from comet.host.process_identity import is_alive
from comet.host.sockets import duplicate_listener
from comet.reconcile.replica import ManagedReplica
from comet.runtimes.adoption import Adoption, is_ending
from comet.runtimes.cluster_processes import LB_DRIVER
from comet.runtimes.orphan import Orphan
from comet.runtimes.replica_records import Record
from comet.state.directory import Cluster
from comet.telemetry.traffic import SLOTS
from lb.interface import messages

ANSWER_TIMEOUT = 2.0
"""Seconds until a load balancer must have answered on its control socket."""


def balancers(
    cluster: Cluster,
    host: str,
    front_port: int | None,
    members: Iterable[ManagedReplica],
    found: Iterable[Orphan],
    records: Mapping[str, Record],
) -> list[Adoption]:
    """Return the load balancers that answer on their control socket and hand over a listening socket on `host`.

    One that serves another front port, or none where one is wanted, is not adopted but replaced.
    """
    by_pid = {orphan.pid: orphan for orphan in found if orphan.driver == LB_DRIVER}
    adopted = []
    for member in members:
        record = records.get(member.spec.name)
        if record is None or record.pid is None or record.control is None or record.port != member.spec.port:
            continue
        if is_ending(record):
            continue
        orphan = by_pid.get(record.pid)
        if orphan is None or not is_alive(record.pid, record.create_time):
            continue
        with contextlib.suppress(OSError, ValueError):
            control, (listener, *others), since = take_over(cluster, record.control)
            front = others[0] if others else None
            if not _is_at(listener, host, member.spec.port) or not _is_at(front, host, front_port):
                for each in (control, listener, *others):
                    each.close()
                continue
            member = with_counters(member, record.counters or member.spec.launch.counters)
            adopted.append(Adoption(member, orphan, record, control, listener, record.fingerprint, since, front))
    return adopted


def _is_at(listener: socket.socket | None, host: str, port: int | None) -> bool:
    """Say whether a socket listens at this address; without a port, whether there is none."""
    if listener is None or port is None:
        return listener is None and port is None
    wanted = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4]
    return bool(listener.getsockname()[:2] == wanted[:2])


def inherited_listeners(
    host: str, members: Iterable[ManagedReplica], found: Iterable[Orphan], records: Mapping[str, Record]
) -> Iterator[tuple[ManagedReplica, Orphan, socket.socket]]:
    """Yield what members inherit from load balancers that live and are not adopted: the socket, and from whom.

    The member counts in another file than the one that its predecessor still writes.
    """
    running = {(orphan.name, orphan.port): orphan for orphan in found if orphan.driver == LB_DRIVER}
    for member in members:
        orphan = running.get((member.spec.name, member.spec.port))
        if orphan is None or orphan.pid is None:
            continue
        listener = duplicate_listener(orphan.pid, host, member.spec.port)
        if listener is not None:
            record, own = records.get(member.spec.name), member.spec.launch.counters
            taken = record.counters if record is not None else None
            counters = other_counters(member.spec.name, own) if taken in (None, own) else own
            yield with_counters(member, counters), orphan, listener


def other_counters(name: str, taken: str) -> str:
    """Return the counters file of this name that is not the one taken."""
    return next(file for slot in SLOTS if (file := f"{name}.{slot}.counters") != taken)


def with_counters(member: ManagedReplica, counters: str) -> ManagedReplica:
    return replace(member, spec=replace(member.spec, launch=replace(member.spec.launch, counters=counters)))


def take_over(cluster: Cluster, control_name: str) -> tuple[socket.socket, list[socket.socket], float | None]:
    """Return control connection, listening sockets and time of the first accept of a running load balancer.

    Its own socket comes first, then the one that all load balancers share, if there is one. OSError or
    ValueError: it does not answer, hands over no socket, or speaks another version of the protocol.
    """
    peer = cluster.connect(control_name, ANSWER_TIMEOUT)
    since = None
    try:
        peer.sendall(messages.encode(messages.listener()))
        decoder = messages.Decoder()
        while True:
            data, fds, _, _ = socket.recv_fds(peer, 65536, 4)
            if not data:
                raise ConnectionError("it hung up")
            received = [socket.socket(fileno=fd) for fd in fds]
            arrived = [messages.read(message) for message in decoder.feed(data)]
            for message in arrived:
                if message["type"] == "ready":
                    since = message["at"]
                    if message["version"] != messages.VERSION:
                        raise ValueError("another version")
            if received:
                for listener in received:
                    listener.setblocking(False)
                return peer, received, since
            if any(message["type"] == "listener" for message in arrived):
                raise ValueError("no socket came with the answer")
    except BaseException:
        peer.close()
        raise
