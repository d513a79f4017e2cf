"""Finds the Docker engine, connects to it, and says in one line why it cannot be used.

The engine is found as the docker command finds it: DOCKER_HOST, else the context named by DOCKER_CONTEXT or by the
docker configuration (DOCKER_CONFIG, ~/.docker/config.json), else the socket of the system's engine. Only an engine of
this machine is of use for containers, because the workers' ports and mounts have to be those of this machine:
everything but a unix socket is refused. The manager of a swarm may be anywhere (tcp://, with TLS as DOCKER_TLS_VERIFY
and DOCKER_CERT_PATH say, or ssh://).

A plain HTTP request with a deadline tests whether the engine answers, before the docker SDK is imported: the set-up
scripts make the same test (`python -m comet.engine.connection`), and a person waits for the answer.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import hashlib
import http.client
import json
import os
import pwd
import socket
import sys
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comet.engine.engine_error import EngineError, ErrorKind

if TYPE_CHECKING:
    import docker

SYSTEM_SOCKET = "/var/run/docker.sock"
"""Where dockerd listens unless configured otherwise."""

PING_TIMEOUT = 5.0
"""Seconds; a healthy engine answers within a few ms, a loaded one within one second."""

CALL_TIMEOUT = 60.0
"""Seconds for one call of the SDK, which is the SDK's own default."""

MANAGER_TIMEOUT = 15
"""Seconds for one call to a swarm's manager: a manager that has lost the others answers no call."""

POOL_SIZE = 64
"""Connections kept open to the engine: calls for many containers run in parallel."""


class UnixConnection(http.client.HTTPConnection):
    """An HTTP connection to the engine through its socket; `timeout` (seconds) bounds each wait for bytes."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def address_of(environ: Mapping[str, str]) -> str:
    """Return the engine's address; raise EngineError for a context that does not exist."""
    return environ.get("DOCKER_HOST") or _context_address(environ) or f"unix://{SYSTEM_SOCKET}"


def chosen_by(environ: Mapping[str, str]) -> str | None:
    """Return what names the engine, if anything does: `DOCKER_HOST` or `the docker context 'remote'`.

    None where no engine was chosen.
    """
    if environ.get("DOCKER_HOST"):
        return "DOCKER_HOST"
    name = _context_name(environ)
    return f"the docker context {name!r}" if name is not None else None


def socket_path(environ: Mapping[str, str]) -> str:
    """Return the path of the engine's unix socket; raise EngineError where the engine is not on this machine."""
    address = address_of(environ)
    scheme, _, path = address.partition("://")
    if scheme != "unix" or not path:
        raise EngineError(
            ErrorKind.REMOTE,
            f"the Docker engine at {address}, which {chosen_by(environ)} names, is not on this machine: its ports and "
            "mounts would not "
            "meet ours; choose a local one (unset DOCKER_HOST, docker context use default)",
        )
    return path


def _folder(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("DOCKER_CONFIG") or Path(os.path.expanduser("~")) / ".docker")


def _context_name(environ: Mapping[str, str]) -> str | None:
    """Return the chosen docker context, or None for the default one."""
    name = environ.get("DOCKER_CONTEXT") or _read_json(_folder(environ) / "config.json").get("currentContext")
    return str(name) if name and name != "default" else None


def _context_address(environ: Mapping[str, str]) -> str | None:
    """Return the address that the chosen docker context names, or None for the default context."""
    name = _context_name(environ)
    if name is None:
        return None
    # The docker command stores a context under the hash of its name.
    meta = _read_json(_folder(environ) / "contexts" / "meta" / hashlib.sha256(name.encode()).hexdigest() / "meta.json")
    try:
        return str(meta["Endpoints"]["docker"]["Host"])
    except (KeyError, TypeError):
        raise EngineError(
            ErrorKind.ABSENT, f"the docker context {name!r} does not exist: choose another (docker context use default)"
        ) from None


def _read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file of the docker command; empty where the file is missing or broken.

    The docker command itself reads such files the same way.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def ping(path: str, timeout: float = PING_TIMEOUT, chosen: str | None = None) -> None:
    """Test that the engine at the socket answers; raise EngineError if it does not within `timeout` seconds.

    `chosen` is what names this socket (`chosen_by`); the advice is about that then.
    """
    status, reason, _ = _ask(path, "/_ping", timeout, chosen)
    if status != http.HTTPStatus.OK:
        raise _refused(path, status, reason)


def has_containers(label: str) -> bool:
    """Return whether this machine's engine has containers with a label, running or not.

    The SDK is not imported for it. Raise EngineError as `connect` does.
    """
    status, reason, body = _list("/containers/json?all=1&", label)
    if status != http.HTTPStatus.OK:
        raise _refused(socket_path(os.environ), status, reason)
    return body.strip() != b"[]"


def has_services(label: str) -> bool:
    """Return whether a swarm that this machine's engine manages, if any, has services with a label.

    The SDK is not imported for it. Raise EngineError as `connect` does.
    """
    status, _, body = _list("/services?", label)
    return status == http.HTTPStatus.OK and body.strip() != b"[]"


def _list(target: str, label: str) -> tuple[int, str, bytes]:
    path, chosen = socket_path(os.environ), chosen_by(os.environ)
    ping(path, chosen=chosen)
    return _ask(
        path, target + urllib.parse.urlencode({"filters": json.dumps({"label": [label]})}), CALL_TIMEOUT, chosen
    )


def _refused(path: str, status: int, reason: str) -> EngineError:
    return EngineError(ErrorKind.SILENT, f"the Docker engine at {path} answers {status} {reason}: see its log")


def _ask(path: str, target: str, timeout: float, chosen: str | None) -> tuple[int, str, bytes]:
    """Return status, reason and body of the engine's answer to a GET."""
    connection = UnixConnection(path, timeout)
    try:
        connection.request("GET", target)
        response = connection.getresponse()
        body = response.read()
    except TimeoutError:
        raise EngineError(
            ErrorKind.SILENT, f"the Docker engine at {path} does not answer within {timeout:g} s: see its log"
        ) from None
    except PermissionError:
        raise EngineError(ErrorKind.FORBIDDEN, _forbidden(path)) from None
    except OSError as error:
        reason = "no such socket" if error.errno == errno.ENOENT else (error.strerror or str(error)).lower()
        start = "start it (sudo systemctl start docker), install it (docker.io), run scripts/up.sh"
        if chosen is not None:
            start = f"{chosen} names this socket: start its engine, or choose another one"
        raise EngineError(
            ErrorKind.ABSENT, f"no Docker engine answers at {path} ({reason}): {start}, or set `runtime: process`"
        ) from None
    except http.client.HTTPException as error:
        raise EngineError(
            ErrorKind.SILENT, f"what listens at {path} is not a Docker engine ({type(error).__name__})"
        ) from None
    finally:
        connection.close()
    return response.status, response.reason, body


def _forbidden(path: str) -> str:
    try:
        group = grp.getgrgid(os.stat(path).st_gid).gr_name
    except (OSError, KeyError):
        group = "docker"
    return (
        f"no permission on the Docker socket {path}: join its group (sudo usermod -aG {group} $USER) and log in again"
    )


def connect() -> docker.DockerClient:
    """Return a client of this machine's Docker engine, which has just answered.

    Raise EngineError (a UserError) with one clear line where it does not.
    """
    return connect_to(socket_path(os.environ), chosen_by(os.environ))


def connect_beside_manager() -> docker.DockerClient:
    """Return a client of this machine's engine as `connect` does.

    Where the chosen engine is a swarm's manager on another machine, that is the system's engine.
    """
    try:
        return connect()
    except EngineError as error:
        if error.kind is not ErrorKind.REMOTE:
            raise
        return connect_to(SYSTEM_SOCKET)


def connect_to(path: str, chosen: str | None = None) -> docker.DockerClient:
    """Return a client of the engine at a socket as `connect` does; `chosen` is what names that socket."""
    ping(path, chosen=chosen)
    import docker
    import docker.errors

    try:
        return docker.DockerClient(
            base_url=f"unix://{path}", version="auto", timeout=int(CALL_TIMEOUT), max_pool_size=POOL_SIZE
        )
    except docker.errors.DockerException as error:
        raise EngineError(ErrorKind.SILENT, f"the Docker engine at {path} cannot be used: {error}") from error


def connect_for_workers() -> docker.DockerClient:
    """Return a client as `connect` does, for an engine that is to run workers as our user.

    An engine without root's rights gives its containers only the files of its own user. EngineError where that is not
    our user.
    """
    path = socket_path(os.environ)
    client = connect()
    from comet.engine import traits as engine_traits

    engine_traits.of(client)  # Called here, where waiting is allowed.
    owner = os.stat(path).st_uid
    if os.geteuid() == 0 and owner != 0:
        client.close()
        name = f"uid {owner}"
        with contextlib.suppress(KeyError):
            name = pwd.getpwuid(owner).pw_name
        advice = f"run Comet as {name}, or choose another engine"
        raise EngineError(
            ErrorKind.FORBIDDEN, f"the engine at {path} is {name}'s, whose containers see no files of root's: {advice}"
        )
    return client


def connect_manager() -> docker.DockerClient:
    """Return a client of the engine that is to manage a swarm's services, on this machine or elsewhere.

    EngineError as in `connect`.
    """
    import docker
    import docker.constants
    import docker.errors
    import docker.utils
    import requests

    from comet.engine.remote_errors import certificate_error, reason

    address = address_of(os.environ)
    if not address.startswith("ssh://") and not address.partition("://")[2]:
        raise EngineError(ErrorKind.ABSENT, f"{chosen_by(os.environ)} names no engine: {address} has no host or path")
    if address.startswith("unix://"):
        ping(address.removeprefix("unix://"), chosen=chosen_by(os.environ))
    if address.startswith("ssh://"):
        from comet.engine import ssh

        return ssh.connect(address, MANAGER_TIMEOUT, POOL_SIZE)

    def client(version: str) -> docker.DockerClient:
        environment: Mapping[str, Any] = (
            docker.utils.kwargs_from_env() if address == os.environ.get("DOCKER_HOST") else {}
        )
        options: dict[str, Any] = {
            **environment,
            "base_url": address,
            "timeout": MANAGER_TIMEOUT,
            "max_pool_size": POOL_SIZE,
        }
        made = docker.DockerClient(version=version, **options)
        if environment.get("tls"):
            # Otherwise the authorities that REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE name would win over those of
            # DOCKER_CERT_PATH.
            made.api.trust_env = False
        return made

    if address == os.environ.get("DOCKER_HOST") and (wrong := certificate_error(os.environ)) is not None:
        raise EngineError(ErrorKind.SILENT, f"the Docker engine at {address} cannot be used: {wrong}")
    try:
        with contextlib.closing(client(docker.constants.MINIMUM_DOCKER_API_VERSION)) as first:
            version = first.version(api_version=False)["ApiVersion"]
        return client(version)
    except (docker.errors.DockerException, requests.RequestException, OSError, ValueError) as error:
        words = reason(error, MANAGER_TIMEOUT)
        raise EngineError(ErrorKind.SILENT, f"the Docker engine at {address} cannot be used: {words}") from None


def main() -> int:
    """Print the socket's path and return 0 if an engine answers there; for the set-up scripts.

    Otherwise print one line on stderr and return the code of its kind.
    """
    try:
        path = socket_path(os.environ)
        print(path)
        ping(path, chosen=chosen_by(os.environ))
    except EngineError as error:
        print(error.message, file=sys.stderr)
        return int(error.kind)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
