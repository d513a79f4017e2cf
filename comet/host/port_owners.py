"""Checks whether the process listening on a port is the one that was started for it.

A response alone does not show which process sent it: while a worker is down, another process may take its port and
respond. The kernel lists the listening sockets (sock_diag(7), proc(5)), each with its inode, and the descriptors of a
process name the inodes that it holds. A replica consists of its process, every process in the session of that process,
and their descendants.

A port published by a container engine is held by a helper of the engine, which is no descendant of Comet. Such helpers
are recognized by name.
"""

import contextlib
import ipaddress
import os
import signal
import socket
import sys
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from comet.host import process_identity, sock_diag
from comet.host.process_identity import Handle, Process

PROC = Path("/proc")
LISTEN = "0A"
PUBLISHERS = ("docker-proxy", "rootlessport", "rootlesskit", "slirp4netns", "pasta", "pasta.avx2")
MARK = "COMET_REPLICA"
DAEMON_TIMEOUT = 0.1
"""Seconds in which a process that becomes a daemon has ended."""

BUSY_TIMEOUT = 2.0
"""Seconds that it is given where it waits for a processor."""

NOT_AT_REST = ("R", "D", "Z", "X")
"""States (proc_pid_stat(5)) of a process that runs, waits for the processor or a disk, or has ended."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
FOREGROUND = "a service must stay in the foreground (nginx: daemon off; gunicorn: without --daemon)"


@dataclass(frozen=True)
class Holder:
    """The process that listens on a port; fields that are not visible are None.

    `marked` means that it was started for the replica and has left the replica's session.
    """

    uid: int
    pid: int | None = None
    name: str | None = None
    marked: bool = False

    def __str__(self) -> str:
        return f"a process of uid {self.uid}" if self.pid is None else f"{self.name} (PID {self.pid})"


def port_conflict(pid: int, replica: str, host: str | None, port: int) -> str:
    """Return why the process that listens at the address is not this process.

    Return an empty string if it is this process, if no process listens, or if that is not visible.
    """
    found = stranger(pid, replica, host, port)
    if found is None:
        return ""
    if found.marked:
        return left_in_background(port, found)
    return f"port {port} is held by {found}, which is not {replica}"


def left_in_background(port: int, holder: object) -> str:
    return f"port {port} is held by {holder}, which its command left in the background: {FOREGROUND}"


def stranger(pid: int, replica: str, host: str | None, port: int) -> Holder | None:
    """Return the process that listens there, unless it is this process or belongs to it."""
    sockets = listening(host, port)
    try:
        if sockets.keys() <= held(pid):
            return None
        ours = set[int]().union(*(held(each) for each in family(pid)))
    except PermissionError:
        return None
    strange = {inode: uid for inode, uid in sockets.items() if inode not in ours}
    holders = [_holder(inode, uid, replica) for inode, uid in strange.items()]
    return next((each for each in holders if each.name not in PUBLISHERS), None)


def taken(port: int) -> str:
    """Return a text like `port 6000 is held by nginx (PID 42)`, for a listener on any address.

    Return an empty string if no process but this one listens on the port.
    """
    holders = [_holder(inode, uid, "") for inode, uid in listening(None, port).items()]
    other = next((each for each in holders if each.pid != os.getpid()), None)
    return "" if other is None else f"port {port} is held by {other}"


def listening(host: str | None, port: int, proc: Path = PROC) -> dict[int, int]:
    """Return the sockets that a connection to the address may reach (None: any address), as inode -> uid."""
    wanted = set[Address]()
    with contextlib.suppress(OSError, ValueError):
        for entry in () if host is None else socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            wanted.add(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]))
    return {
        inode: uid for at, inode, uid in _listeners(port, proc) if host is None or at.is_unspecified or at in wanted
    }


def _listeners(port: int, proc: Path) -> Iterator[tuple[Address, int, int]]:
    """Yield the address, inode and uid of each socket that listens on the port."""
    if proc == PROC:
        # Where the kernel cannot be asked, its tables give the same answer at a higher cost.
        with contextlib.suppress(OSError):
            found = [each for family in sock_diag.FAMILIES for each in sock_diag.listeners(family, port)]
            yield from ((_unmapped(each.address), each.inode, each.uid) for each in found)
            return
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (proc / "net" / name).read_text().splitlines()[1:]:
                words = line.split()
                place, _, number = words[1].rpartition(":")
                if words[3] == LISTEN and int(number, 16) == port:
                    yield _address(place), int(words[9]), int(words[7])


def _address(text: str) -> Address:
    """Return an address from its form in /proc/net/tcp: 32-bit words, each in the machine's byte order."""
    raw, step = bytes.fromhex(text), -1 if sys.byteorder == "little" else 1
    return _unmapped(b"".join(raw[at : at + 4][::step] for at in range(0, len(raw), 4)))


def _unmapped(packed: bytes) -> Address:
    address = ipaddress.ip_address(packed)
    return address.ipv4_mapped or address if isinstance(address, ipaddress.IPv6Address) else address


def held(pid: int) -> set[int]:
    """Return the inodes of a process's sockets, none if it is gone; raise PermissionError if not visible."""
    found = set[int]()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        folder = PROC / str(pid) / "fd"
        for number in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                target = os.readlink(folder / number)
                if target.startswith("socket:["):
                    found.add(int(target[8:-1]))
    return found


def family(pid: int) -> set[int]:
    """Return the process, all members of the session that it leads, and the descendants of all these."""
    return {pid, *(each.pid for each in _family({pid}, {pid}))}


def _family(roots: Collection[int], sessions: Collection[int]) -> list[Process]:
    """Return these processes, all members of these sessions and the descendants of all these, as far as they live."""
    table = process_identity.processes()
    found = {each.pid for each in table if each.pid in roots or (each.alive and each.session in sessions)}
    found |= process_identity.descendants(found, table)
    return [each for each in table if each.pid in found and each.alive]


def end_background(cluster: str, replica: str, port: int, sessions: Collection[int]) -> list[Holder]:
    """Kill what a replica that has ended left running in the background, and return the killed processes.

    These are children of this process (it is a subreaper, so it inherits them) that carry the replica's mark or listen
    on its port, with all their descendants and all members of their sessions. The port counts because a process title
    may overwrite the mark. Processes in one of the `sessions` belong to living replicas and are left alone.

    They may fork while they are listed, so they are listed until none is new: a process that SIGKILL was sent to does
    not fork any more (signal(7); fork fails while a fatal signal is pending).
    """
    ended, roots, theirs = list[Holder](), set[int](), set[int]()
    for pid in _children(os.getpid()):
        with contextlib.suppress(OSError):
            child = process_identity.process(pid)
            if child is None or not child.alive or child.session in sessions:
                continue
            if _left_by(pid, cluster, replica, port):
                ended.append(Holder((PROC / str(pid)).stat().st_uid, pid, process_identity.name(pid), True))
                roots.add(pid)
                theirs.add(child.session)
    theirs.discard(os.getsid(0))
    killed = set[int]()
    while new := [each for each in _family(roots, theirs) if each.pid not in killed] if roots else []:
        for each in new:
            with contextlib.suppress(OSError):
                process_identity.send(each.pid, each.birth, signal.SIGKILL)
        killed |= {each.pid for each in new}
        roots |= killed
    return ended


def _left_by(pid: int, cluster: str, replica: str, port: int) -> bool:
    environment = process_identity.environment(pid)
    marked = (environment.get("COMET_CLUSTER"), environment.get(MARK)) == (cluster, replica)
    return marked or bool(held(pid) & listening(None, port).keys())


def _holder(inode: int, uid: int, replica: str) -> Holder:
    for pid in process_identity.pids():
        with contextlib.suppress(PermissionError):
            if inode in held(pid):
                marked = bool(replica) and process_identity.environment(pid).get(MARK) == replica
                return Holder(uid, pid, process_identity.name(pid), marked)
    return Holder(uid)


def goes_to_background(pid: int) -> bool:
    """Whether a process that answers, and has children, ends soon: it leaves the work to them. Waits for that.

    A program that becomes a daemon listens, forks and ends (daemon(3)); in between its parent answers, too.
    """
    if not _children(pid):
        return False
    handle = Handle.of(pid, None, check=lambda pid: True)
    if handle is None:
        return True
    with contextlib.closing(handle):
        deadline = time.monotonic() + BUSY_TIMEOUT
        while not handle.ended(DAEMON_TIMEOUT):
            if time.monotonic() > deadline or not _would_run(pid):
                return False
    return True


def _would_run(pid: int) -> bool:
    """Whether a process has something to do now, which may be its end, or has ended."""
    found = process_identity.process(pid)
    return found is None or found.state in NOT_AT_REST


def _children(parent: int) -> list[int]:
    """Return the children of a process."""
    with contextlib.suppress(OSError):  # The kernel keeps no lists of children, or a thread has ended.
        lists = [(task / "children").read_text() for task in (PROC / f"{parent}/task").iterdir()]
        return [int(word) for each in lists for word in each.split()]
    return [each.pid for each in process_identity.processes() if each.parent == parent]
