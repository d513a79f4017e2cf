"""Determines how workers reach a database server, whose address in the config is as the host sees it.

A process sees what the host sees. A container gets the directory of a UNIX socket mounted. It reaches a server on the
host's loopback through a relay, whose socket lies in a directory that is mounted too, because PostgreSQL listens only
on localhost by default. Any other address is the same in a container, or cannot be reached from there; a trial in a
container detects that before any worker is started.

The URL itself is passed in a file; see `comet.state.secrets`.
"""

import ipaddress
import os
import socket

from comet.common.errors import UserError, os_error_text
from comet.common.file_checks import UnsafeFile
from comet.config.database_url import DEFAULT_PORT
from comet.host.files import Directory
from comet.state import secrets as secret_files
from comet.state.directory import Cluster, Owner
from comet.statistics.database import Access, Place, Server, needs

SECRET = "/run/comet/database"
"""The path of the file with the URL in a container."""
SOCKETS = "/run/comet/sockets"
"""The path of the socket's directory in a container."""
RELAY = "relay"
"""The folder in `.comet/` that contains the relay's socket."""


def by_process(where: Place | Server, cluster: Cluster, owner: Owner) -> Access:
    if isinstance(where, Place):
        return Access({"COMET_DATABASE": where.address}, needs(where))
    file = str(secret_files.keep(cluster, "database", where.location.url, owner))
    return Access({"COMET_DATABASE_FILE": file}, (*needs(where), (file, file, True)))


def by_container(where: Place | Server, cluster: Cluster, owner: Owner, url_file: str = "database") -> Access:
    """Return the access from a container; raise UserError if the server cannot be reached from there.

    `url_file` is the name of the file in which the URL is kept: other workers of the cluster may need another URL.
    """
    if isinstance(where, Place):
        return Access({"COMET_DATABASE": where.address_under("/data")}, ((str(where.file.parent), "/data", False),))
    inner, mounts = where.location, list[tuple[str, str, bool]]()
    local = [address for address in inner.addresses if _is_socket(address[0]) or is_loopback(address[0])]
    if local and len(inner.addresses) > 1:
        raise UserError(
            f"{where.origin}: {where.location}: of several servers none may be local (name one server, or other "
            "addresses)",
            2,
        )
    if local:
        host, port = local[0]
        folder = host if _is_socket(host) else str(_relay_folder(cluster, owner))
        inner = inner.at(SOCKETS, port or DEFAULT_PORT)
        mounts.append((os.path.realpath(folder), SOCKETS, True))
    file = secret_files.keep(cluster, url_file, inner.url, owner)
    return Access({"COMET_DATABASE_FILE": SECRET}, ((str(file), SECRET, True), *mounts), outward=not local)


def by_task(where: Place | Server, secret_file: str) -> Access:
    """Return the access from a swarm task, which finds its secret in `secret_file`.

    Raise UserError if other machines cannot reach this database.
    """
    if isinstance(where, Place):
        raise UserError(
            f"{where.link}: a file of this machine cannot be reached from a swarm's other nodes; name a server by its "
            "URL",
            2,
        )
    if any(_is_socket(host) or is_loopback(host) or not host for host, _ in where.location.addresses):
        reason = "means a different machine on each node (name the address at which the swarm's nodes reach it)"
        raise UserError(f"{where.origin}: {where.location}: {reason}", 2)
    return Access({"COMET_DATABASE_FILE": secret_file}, secret=where.location.url)


def relayed(where: Place | Server) -> tuple[str, str] | None:
    """Return the server's address (host, port) if containers need a relay to reach it, else None."""
    if isinstance(where, Place):
        return None
    host, port = where.location.addresses[0]
    return (host, port or DEFAULT_PORT) if is_loopback(host) else None


def is_loopback(host: str) -> bool:
    """Return whether a name or address means only this host's loopback."""
    if not host or _is_socket(host):
        return False
    try:
        addresses = {entry[4][0] for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
        return all(ipaddress.ip_address(str(address).partition("%")[0]).is_loopback for address in addresses)
    except (OSError, ValueError):
        return False  # An unknown name is reported when a connection to it is tried.


def _is_socket(host: str) -> bool:
    return host.startswith(("/", "@"))


def _relay_folder(cluster: Cluster, owner: Owner) -> "os.PathLike[str]":
    folder = cluster.path(RELAY)
    try:
        with Directory.of(cluster.state) as state:
            state.child(RELAY, make=True, owner=owner).close()
    except UnsafeFile:
        raise
    except OSError as error:
        raise UserError(f"{folder}: cannot be created: {os_error_text(error)}") from None
    return folder
