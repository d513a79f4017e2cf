"""Binds the load balancers' listening sockets and holds them for as long as their replica's name exists.

The listening socket of a load balancer that dies stays open here. New connections queue in the kernel's backlog until
its successor accepts them, and none is refused.
"""

import ctypes
import errno
import os
import random
import re
import socket
from collections.abc import Collection, Iterable, Iterator

import psutil

from comet.common.errors import UserError

BACKLOG = 4096
PIDFD_GETFD = 438
"""The number of the system call on every architecture."""

PORTS_VARIABLE = "COMET_FREE_PORTS"
DEFAULT_PORTS = "25000-32000"

HOST_KEYS = {
    "worker-port": "worker-host",
    "load-balancer-port": "load-balancer-host",
    "front-port": "load-balancer-host",
}
"""The config key that sets the host of each port key."""

FRONT = "front"
"""The name of the listening socket that all load balancers share."""


class Listeners:
    """Listening sockets by replica name."""

    def __init__(self) -> None:
        self._sockets: dict[str, socket.socket] = {}

    def bind(self, name: str, host: str, port: int, blocking: bool = False) -> None:
        """Listen for `name`; raise OSError if the port is taken or the address is not of this machine."""
        listener = bound(host, port, listen=True)
        listener.setblocking(blocking)
        self._sockets[name] = listener

    def hold(self, name: str, listener: socket.socket) -> None:
        """Take over a listening socket that another process bound."""
        self.release(name)
        self._sockets[name] = listener

    def __contains__(self, name: str) -> bool:
        return name in self._sockets

    def __getitem__(self, name: str) -> socket.socket:
        return self._sockets[name]

    def get(self, name: str) -> socket.socket | None:
        return self._sockets.get(name)

    def release(self, name: str) -> None:
        listener = self._sockets.pop(name, None)
        if listener is not None:
            listener.close()

    def close(self) -> None:
        for name in list(self._sockets):
            self.release(name)


def is_listening(address: str) -> bool:
    """Return whether a process listens on this UNIX socket, without waiting for it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.setblocking(False)
        try:
            peer.connect(address)
        except BlockingIOError:
            return True  # It has no room for another connection now.
        except OSError:
            return False
    return True


def bound(host: str, port: int, listen: bool = False) -> socket.socket:
    """Return a TCP socket bound to the address.

    SO_REUSEADDR ignores connections in TIME_WAIT, but never another listener (socket(7)).
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        if listen:
            sock.listen(BACKLOG)
            sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def duplicate_listener(pid: int, host: str, port: int) -> socket.socket | None:
    """Return a second descriptor of the socket on which a process listens at this address (pidfd_getfd(2)).

    Return None where the process has no such socket.
    """
    try:
        descriptors = sorted(
            int(entry.name) for entry in os.scandir(f"/proc/{pid}/fd") if os.readlink(entry.path).startswith("socket:")
        )
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None
    try:
        for number in descriptors:
            found = ctypes.CDLL(None).syscall(PIDFD_GETFD, pidfd, number, 0)
            if found >= 0:
                sock = socket.socket(fileno=found)
                if _listens(sock, host, port):
                    return sock
                sock.close()
    finally:
        os.close(pidfd)
    return None


def _listens(sock: socket.socket, host: str, port: int) -> bool:
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or not sock.getsockopt(
        socket.SOL_SOCKET, socket.SO_ACCEPTCONN
    ):
        return False
    return bool(sock.getsockname()[:2] == socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][:2])


def port_problems(wanted: Iterable[tuple[str, str, int]]) -> Iterator[str]:
    """Yield `key: what is wrong` for each (key, host, port) that cannot be bound, with the process that holds it.

    A problem of a host is reported once, for the key that sets it.
    """
    faulty: set[tuple[str, str]] = set()
    for key, host, port in wanted:
        named = HOST_KEYS.get(key, key)
        if (named, host) in faulty:
            continue
        try:
            bound(host, port).close()
        except (socket.gaierror, UnicodeError):
            faulty.add((named, host))
            yield f"{named}: {host} is no known host (name an address of this machine)"
        except OSError as error:
            if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.ENODEV):
                faulty.add((named, host))
                yield f"{named}: {host} is no address of this machine ({error.strerror})"
            elif error.errno == errno.EADDRINUSE:
                yield f"{key}: port {port} is taken{holder(port)} (choose another, or stop its holder)"
            else:
                yield f"{key}: cannot listen on {host} port {port}: {error.strerror}"


def is_free(host: str, port: int) -> bool:
    """Return whether the port can be bound, without the slow search for the process that holds it."""
    try:
        bound(host, port).close()
    except OSError:
        return False
    return True


def holder(port: int) -> str:
    """Return the listener on a local TCP port, like ` by nginx (PID 4242)`; empty where that is not visible."""
    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:
        return ""
    for connection in connections:
        if (
            connection.status == psutil.CONN_LISTEN
            and connection.laddr
            and connection.laddr.port == port
            and connection.pid
        ):
            try:
                return f" by {psutil.Process(connection.pid).name()} (PID {connection.pid})"
            except psutil.NoSuchProcess:
                return ""
    return ""


def require_free(config_name: str, wanted: Iterable[tuple[str, str, int]], lines: dict[str, int]) -> None:
    """Raise UserError (exit code 2) with every port that cannot be bound."""
    problems = []
    for problem in port_problems(wanted):
        key = problem.partition(":")[0]
        problems.append(f"{config_name}:{lines.get(key, 1)}: {problem}")
    if problems:
        raise UserError("\n".join(problems), exit_code=2)


def own_ports(count: int) -> tuple[int, int]:
    """Return the first and the last of the ports from which Comet chooses, at least `count` of them.

    They lie below the range from which the kernel itself takes ports (ip_local_port_range, ip(7)). PORTS_VARIABLE
    (`FIRST-LAST`) gives programs that choose at the same time a range each. Raise UserError where it is not usable.
    """
    given = re.fullmatch(r"(\d{1,5})-(\d{1,5})", os.environ.get(PORTS_VARIABLE, DEFAULT_PORTS))
    first, last = (int(end) for end in given.groups()) if given else (0, 0)
    if not 0 < first <= last - count + 1 or last > 65535:
        raise UserError(
            f"{PORTS_VARIABLE}: {os.environ.get(PORTS_VARIABLE)!r} is not usable (allowed: FIRST-LAST, {count} ports "
            "or more)",
            2,
        )
    return first, last


def find_free(host: str, count: int, taken: Collection[int] = ()) -> int:
    """Return the first of `count` consecutive free ports.

    They are among `own_ports`, and none is among the `taken`, which the caller reserves for later. Raise UserError
    where there are none.
    """
    first_of_all, last = own_ports(count)
    reserved = set(taken)
    for _ in range(200):
        first = random.randint(first_of_all, last - count + 1)
        if reserved.isdisjoint(range(first, first + count)) and all(
            is_free(host, port) for port in range(first, first + count)
        ):
            return first
    raise UserError(f"no {count} free ports in a row on {host}")
