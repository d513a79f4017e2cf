"""The load balancers' listening sockets, bound here and held for as long as their name lives.

A load balancer that dies leaves its listening socket open in our hands: new connections queue in the kernel's backlog until its
successor accepts them, and none is refused.
"""

import ctypes
import errno
import os
import random
import re
import socket
from collections.abc import Collection, Iterable, Iterator

import psutil

from comet.errors import UserError

BACKLOG = 4096
PIDFD_GETFD = 438
"""The number of the system call, on every architecture."""

PORTS_VARIABLE = "COMET_FREE_PORTS"
DEFAULT_PORTS = "25000-32000"


class Listeners:
    """Sockets by the name of their replica."""

    def __init__(self) -> None:
        self._sockets: dict[str, socket.socket] = {}

    def bind(self, name: str, host: str, port: int, blocking: bool = False) -> None:
        """Listen for `name`; OSError where the port is taken or the address is not ours."""
        listener = bound(host, port, listen=True)
        listener.setblocking(blocking)
        self._sockets[name] = listener

    def hold(self, name: str, listener: socket.socket) -> None:
        """Take over a listening socket that somebody else bound."""
        self.release(name)
        self._sockets[name] = listener

    def __contains__(self, name: str) -> bool:
        return name in self._sockets

    def __getitem__(self, name: str) -> socket.socket:
        return self._sockets[name]

    def release(self, name: str) -> None:
        listener = self._sockets.pop(name, None)
        if listener is not None:
            listener.close()

    def close(self) -> None:
        for name in list(self._sockets):
            self.release(name)


def bound(host: str, port: int, listen: bool = False) -> socket.socket:
    """A TCP socket bound to the address. SO_REUSEADDR passes over connections in TIME_WAIT, never over a listener (socket(7))."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
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


def borrowed(pid: int, host: str, port: int) -> socket.socket | None:
    """A second descriptor of the socket on which a process listens at this address (pidfd_getfd(2)); None where it has none."""
    try:
        descriptors = sorted(int(entry.name) for entry in os.scandir(f"/proc/{pid}/fd") if os.readlink(entry.path).startswith("socket:"))
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
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return False
    return bool(sock.getsockname()[:2] == socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][:2])


def port_problems(wanted: Iterable[tuple[str, str, int]]) -> Iterator[str]:
    """`key: what is wrong` for each (key, host, port) that cannot be bound, naming who holds it."""
    for key, host, port in wanted:
        try:
            bound(host, port).close()
        except (socket.gaierror, UnicodeError):
            yield f"{key}: {host} is no known host (name an address of this machine)"
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                yield f"{key}: port {port} is taken{holder(port)} (choose another, or stop its holder)"
            else:
                yield f"{key}: cannot listen on {host} port {port}: {error.strerror}"


def holder(port: int) -> str:
    """` by nginx (PID 4242)`: who listens on a local TCP port; empty where that may not be seen."""
    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:
        return ""
    for connection in connections:
        if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port and connection.pid:
            try:
                return f" by {psutil.Process(connection.pid).name()} (PID {connection.pid})"
            except psutil.NoSuchProcess:
                return ""
    return ""


def require_free(config_name: str, wanted: Iterable[tuple[str, str, int]], lines: dict[str, int]) -> None:
    """Raise UserError (exit code 2) that lists every port that cannot be had."""
    problems = []
    for problem in port_problems(wanted):
        key = problem.partition(":")[0]
        problems.append(f"{config_name}:{lines.get(key, 1)}: {problem}")
    if problems:
        raise UserError("\n".join(problems), exit_code=2)


def find_free(host: str, count: int, taken: Collection[int] = ()) -> int:
    """The first of `count` ports in a row that are free now, below the range from which the kernel takes ports of its own accord
    (ip_local_port_range, ip(7)), and none of them among the `taken`, which the caller keeps for later. UserError where there are none.

    Who takes ports for a while, and lets go of them in between, must not meet another who does: PORTS_VARIABLE (`FIRST-LAST`) gives each
    a part of its own.
    """
    given = re.fullmatch(r"(\d{1,5})-(\d{1,5})", os.environ.get(PORTS_VARIABLE, DEFAULT_PORTS))
    first_of_all, last = (int(end) for end in given.groups()) if given else (0, 0)
    if not 0 < first_of_all <= last - count + 1 <= 65535:
        raise UserError(
            f"{PORTS_VARIABLE}: {os.environ.get(PORTS_VARIABLE)!r} is not usable (allowed: FIRST-LAST, {count} ports or more)", 2
        )
    reserved = set(taken)
    for _ in range(200):
        first = random.randint(first_of_all, last - count + 1)
        if (
            reserved.isdisjoint(range(first, first + count))
            and next(port_problems(("", host, port) for port in range(first, first + count)), None) is None
        ):
            return first
    raise UserError(f"no {count} free ports in a row on {host}")
