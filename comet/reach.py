"""How workers reach a database server that the config names as the host sees it.

A process sees what the host sees. For a container the directory of a UNIX socket is mounted, and a server on the host's loopback is
reached through a relay, whose socket lies in a directory that is mounted, too: PostgreSQL listens on localhost only unless it is told
otherwise. Any other address is the same from within, or it is not reachable at all, which a trial in a container finds out before
any worker is started.

The URL itself comes in a file; see `secretfiles`.
"""

import ipaddress
import os
import socket

from comet import secretfiles
from comet.cluster import Cluster, Owner
from comet.database import Access, Place, Server
from comet.errors import UserError
from comet.location import DEFAULT_PORT
from comet.servicespec import SECRET_FILE

SECRET = "/run/comet/database"  # in a container
SOCKETS = "/run/comet/sockets"  # in a container
RELAY = "relay"
"""The folder in `.comet/` in which the relay's socket lies."""


def by_process(where: Place | Server, cluster: Cluster, owner: Owner) -> Access:
    if isinstance(where, Place):
        return Access({"COMET_DATABASE": where.url})
    return Access({"COMET_DATABASE_FILE": str(secretfiles.keep(cluster, "database", where.location.url, owner))})


def by_container(where: Place | Server, cluster: Cluster, owner: Owner) -> Access:
    """UserError: from within a container this server cannot be reached."""
    if isinstance(where, Place):
        return Access({"COMET_DATABASE": where.url_under("/data")}, ((str(where.file.parent), "/data", False),))
    within, mounts = where.location, list[tuple[str, str, bool]]()
    local = [address for address in within.addresses if _is_socket(address[0]) or is_loopback(address[0])]
    if local and len(within.addresses) > 1:
        raise UserError(f"{where.origin}: {where.location}: of several servers none may be local (name one server, or other addresses)", 2)
    if local:
        host, port = local[0]
        folder = host if _is_socket(host) else str(_relay_folder(cluster, owner))
        within = within.at(SOCKETS, port or DEFAULT_PORT)
        mounts.append((os.path.realpath(folder), SOCKETS, True))
    secret = secretfiles.keep(cluster, "database", within.url, owner)
    return Access({"COMET_DATABASE_FILE": SECRET}, ((str(secret), SECRET, True), *mounts))


def by_task(where: Place | Server) -> Access:
    """UserError: from other machines this database cannot be reached."""
    if isinstance(where, Place):
        raise UserError(f"{where.link}: a file of this machine cannot be reached from a swarm's other nodes; name a server by its URL", 2)
    if any(_is_socket(host) or is_loopback(host) or not host for host, _ in where.location.addresses):
        told = "names this machine as each machine calls itself (give the address by which the swarm's nodes reach it)"
        raise UserError(f"{where.origin}: {where.location}: {told}", 2)
    return Access({"COMET_DATABASE_FILE": f"/run/secrets/{SECRET_FILE}"}, secret=where.location.url)


def relayed(where: Place | Server) -> tuple[str, str] | None:
    """The server's address (host, port) where containers need a relay to reach it."""
    if isinstance(where, Place):
        return None
    host, port = where.location.addresses[0]
    return (host, port or DEFAULT_PORT) if is_loopback(host) else None


def is_loopback(host: str) -> bool:
    """Whether a name or address means this host's loopback alone."""
    if not host or _is_socket(host):
        return False
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
        return all(ipaddress.ip_address(str(address).partition("%")[0]).is_loopback for address in found)
    except (OSError, ValueError):
        return False  # A name that means nothing is told of by who tries to connect.


def _is_socket(host: str) -> bool:
    return host.startswith(("/", "@"))


def _relay_folder(cluster: Cluster, owner: Owner) -> "os.PathLike[str]":
    folder = cluster.path(RELAY)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_uid != owner.uid:
            os.chown(folder, owner.uid, owner.gid)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made: {error.strerror}") from None
    return folder
