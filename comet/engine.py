"""Finding the Docker engine, and saying in one line why it cannot be used.

The engine is found as the docker command finds it: DOCKER_HOST, else the context named by DOCKER_CONTEXT or by the docker
configuration (DOCKER_CONFIG, ~/.docker/config.json), else the socket of the system's engine. Only an engine of this machine is of
use for containers, as the workers' ports and mounts have to meet ours: everything but a unix socket is refused. The manager of a swarm
may be anywhere (tcp://, with TLS as DOCKER_TLS_VERIFY and DOCKER_CERT_PATH say, or ssh://).

Whether it answers is asked with a plain HTTP request and a deadline, before the docker SDK is imported: the set-up scripts ask the same
question (`python -m comet.engine`), and a person waits for the answer.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import hashlib
import http.client
import json
import os
import socket
import sys
from collections.abc import Mapping
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comet.errors import UserError

if TYPE_CHECKING:
    import docker

SYSTEM_SOCKET = "/var/run/docker.sock"  # where dockerd listens unless told otherwise
PING_TIMEOUT = 5.0  # seconds; a healthy engine answers within a few ms, a loaded one within one second
CALL_TIMEOUT = 60.0  # seconds for one call of the SDK, its own default
MANAGER_TIMEOUT = 15  # seconds for one call to a swarm's manager: one that lost the others answers none
POOL_SIZE = 64  # connections kept open to the engine: calls for many containers run side by side


class Trouble(IntEnum):
    """Why an engine cannot be used; the value is the exit code of `python -m comet.engine`."""

    ABSENT = 10
    FORBIDDEN = 11
    REMOTE = 12
    SILENT = 13


class EngineError(UserError):
    """No usable Docker engine. `trouble` says what kind of trouble it is, `message` what to do about it."""

    def __init__(self, trouble: Trouble, message: str) -> None:
        super().__init__(message)
        self.trouble = trouble


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
    """The engine's address; raises EngineError for a context that does not exist."""
    return environ.get("DOCKER_HOST") or _context_address(environ) or f"unix://{SYSTEM_SOCKET}"


def socket_path(environ: Mapping[str, str]) -> str:
    """The path of the engine's unix socket; raises EngineError where the engine is not on this machine."""
    address = address_of(environ)
    scheme, _, path = address.partition("://")
    if scheme != "unix" or not path:
        raise EngineError(
            Trouble.REMOTE,
            f"the Docker engine at {address} is not on this machine: its ports and mounts would not meet ours; unset DOCKER_HOST or "
            "choose a local context (docker context use default)",
        )
    return path


def _context_address(environ: Mapping[str, str]) -> str | None:
    """The address that the chosen docker context names, or None for the default context."""
    folder = Path(environ.get("DOCKER_CONFIG") or Path(environ.get("HOME") or Path.home()) / ".docker")
    name = environ.get("DOCKER_CONTEXT") or _read_json(folder / "config.json").get("currentContext")
    if not name or name == "default":
        return None
    # The docker command files a context under the hash of its name.
    meta = _read_json(folder / "contexts" / "meta" / hashlib.sha256(str(name).encode()).hexdigest() / "meta.json")
    try:
        return str(meta["Endpoints"]["docker"]["Host"])
    except (KeyError, TypeError):
        raise EngineError(
            Trouble.ABSENT, f"the docker context {name!r} does not exist: choose another (docker context use default)"
        ) from None


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a file of the docker command; empty where it is missing or broken, as the docker command itself does."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def ping(path: str, timeout: float = PING_TIMEOUT) -> None:
    """Ask the engine behind the socket for a sign of life; raises EngineError when none comes within `timeout` seconds."""
    connection = UnixConnection(path, timeout)
    try:
        connection.request("GET", "/_ping")
        response = connection.getresponse()
        response.read()
    except TimeoutError:
        raise EngineError(Trouble.SILENT, f"the Docker engine at {path} does not answer within {timeout:g} s: see its log") from None
    except PermissionError:
        raise EngineError(Trouble.FORBIDDEN, _forbidden(path)) from None
    except OSError as error:
        why = "no such socket" if error.errno == errno.ENOENT else (error.strerror or str(error)).lower()
        raise EngineError(
            Trouble.ABSENT,
            f"no Docker engine answers at {path} ({why}): start it (sudo systemctl start docker), install it (docker.io), run "
            "scripts/up.sh, or set `runtime: process`",
        ) from None
    except http.client.HTTPException as error:
        raise EngineError(Trouble.SILENT, f"what listens at {path} is not a Docker engine ({type(error).__name__})") from None
    finally:
        connection.close()
    if response.status != http.HTTPStatus.OK:
        raise EngineError(Trouble.SILENT, f"the Docker engine at {path} answers {response.status} {response.reason}: see its log")


def _forbidden(path: str) -> str:
    try:
        group = grp.getgrgid(os.stat(path).st_gid).gr_name
    except (OSError, KeyError):
        group = "docker"
    return f"no permission on the Docker socket {path}: join its group (sudo usermod -aG {group} $USER) and log in again"


def connect() -> docker.DockerClient:
    """A client of this machine's Docker engine, which has just answered; raises EngineError (a UserError) with one clear line."""
    path = socket_path(os.environ)
    ping(path)
    import docker
    import docker.errors

    try:
        return docker.DockerClient(base_url=f"unix://{path}", version="auto", timeout=int(CALL_TIMEOUT), max_pool_size=POOL_SIZE)
    except docker.errors.DockerException as error:
        raise EngineError(Trouble.SILENT, f"the Docker engine at {path} cannot be used: {error}") from error


def connect_manager() -> docker.DockerClient:
    """A client of the engine that is to manage a swarm's services, on this machine or elsewhere; EngineError as above."""
    import docker
    import docker.constants
    import docker.errors
    import docker.utils
    import requests

    address = address_of(os.environ)
    if address.startswith("unix://"):
        ping(address.removeprefix("unix://"))
    if address.startswith("ssh://"):
        from comet import ssh

        return ssh.connect(address, MANAGER_TIMEOUT, POOL_SIZE)

    def client(version: str) -> docker.DockerClient:
        environment: Mapping[str, Any] = docker.utils.kwargs_from_env() if address == os.environ.get("DOCKER_HOST") else {}
        options: dict[str, Any] = {**environment, "base_url": address, "timeout": MANAGER_TIMEOUT, "max_pool_size": POOL_SIZE}
        made = docker.DockerClient(version=version, **options)
        if environment.get("tls"):
            # Otherwise the authorities that REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE names would win over those of DOCKER_CERT_PATH.
            made.api.trust_env = False
        return made

    try:
        with contextlib.closing(client(docker.constants.MINIMUM_DOCKER_API_VERSION)) as first:
            version = first.version(api_version=False)["ApiVersion"]
        return client(version)
    except (docker.errors.DockerException, requests.RequestException, OSError) as error:
        words = " ".join(str(error).split())
        raise EngineError(Trouble.SILENT, f"the Docker engine at {address} cannot be used: {words}") from None


def main() -> int:
    """For the set-up scripts: the socket's path on stdout, 0 if an engine answers there, else one line on stderr and the trouble's code."""
    try:
        path = socket_path(os.environ)
        print(path)
        ping(path)
    except EngineError as error:
        print(error.message, file=sys.stderr)
        return int(error.trouble)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
