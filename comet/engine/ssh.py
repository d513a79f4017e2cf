"""Connects to a Docker engine by ssh: every connection is an `ssh HOST docker system dial-stdio`.

The docker command connects in the same way. The SDK's own connection needs paramiko and has no deadline: a manager
whose machine is gone would block its reader forever. Here the ssh command uses one end of a socket pair as its input
and output, so that the SDK has an ordinary socket with ordinary timeouts at the other end.

The ssh command knows its user's keys, hosts and jumps. It never prompts (BatchMode), because a supervisor in the
background has no person to ask. It ends with its connection: at the end of its input, by itself where the machine is
gone, and killed where it does neither.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shlex
import signal
import socket
import subprocess
import threading
import time
from functools import partial
from typing import Any
from urllib.parse import unquote, urlsplit

import docker
import docker.errors
import urllib3.exceptions
from docker.transport.unixconn import UnixHTTPAdapter, UnixHTTPConnection, UnixHTTPConnectionPool

from comet.engine.engine_error import EngineError, ErrorKind

ALIVE, ALIVE_COUNT = 10, 3
"""Seconds of silence after which ssh probes the other side; this many unanswered probes end it."""

EXIT_TIMEOUT = 1.0
"""Seconds that ssh may take to end when its connection has ended."""

UNUSED = "/none"
"""The path of a UNIX socket for which the SDK's client is made, and which is never opened."""


def command(address: str, timeout: int) -> list[str]:
    """Return the command whose input and output are the engine's socket at this ssh:// address.

    The address is `ssh://[user@]host[:port][/path/of/socket]`, as the docker command takes it. `timeout` bounds the
    time to connect (seconds). EngineError where the address has another form.
    """
    try:
        if not address.isprintable():
            raise ValueError
        url = urlsplit(address)
        user, _, place = url.netloc.rpartition("@")
        port = url.port
        host = (
            place[1:].partition("]")[0] if place.startswith("[") else place.partition(":")[0]
        )  # `hostname` would be in lower case.
        if not host or port == 0 or ":" in user or url.query or url.fragment:
            raise ValueError
    except ValueError:
        # The part before the host is left out: it may contain a password.
        shown = "".join(each for each in address.rpartition("@")[2] if each.isprintable())
        expected = "ssh://[user@]host[:port]"
        raise EngineError(ErrorKind.REMOTE, f"{shown}: not the address of an engine: {expected}") from None
    alive = (f"ServerAliveInterval={ALIVE}", f"ServerAliveCountMax={ALIVE_COUNT}")
    # Our connection must neither carry others, which would end with it, nor open the ports that the user's own
    # connections forward.
    alone = ("BatchMode=yes", "ControlMaster=no", "ClearAllForwardings=yes")
    words = [
        "ssh",
        "-T",
        *(word for option in (*alone, f"ConnectTimeout={timeout}", *alive) for word in ("-o", option)),
    ]
    words += ["-l", unquote(user)] if user else []
    words += ["-p", str(port)] if port else []
    where = f"--host unix://{shlex.quote(unquote(url.path))} " if url.path.strip("/") else ""
    return [*words, "--", host, f"docker {where}system dial-stdio"]


class Command:
    """One running ssh command; `socket` is our end of its input and output."""

    def __init__(self, words: list[str]) -> None:
        """Start the command; raise OSError where it does not exist."""
        environment = {name: value for name, value in os.environ.items() if name != "COMET_CLUSTER"}
        self._stderr = os.fdopen(os.memfd_create("ssh"), "w+b")
        self._closed_at: float | None = None
        self.socket, theirs = socket.socketpair()
        try:
            with theirs:
                # It has its own session, because Ctrl-C on a terminal is not meant for it. It lacks the cluster's mark,
                # because it is no replica that a supervisor could leave behind.
                self._process = subprocess.Popen(
                    words,
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=self._stderr,
                    start_new_session=True,
                    env=environment,
                )
        except OSError:
            self.socket.close()
            self._stderr.close()
            raise

    def is_over(self, now: float) -> bool:
        """Return whether the command has ended, or should have.

        It should have ended if its connection was closed, and all that was read from it, more than EXIT_TIMEOUT before
        `now` (monotonic seconds). The time of the close is that of the first call that sees it.
        """
        if self.socket.fileno() == -1 and self._closed_at is None:
            self._closed_at = now
        return self._process.poll() is not None or (
            self._closed_at is not None and now > self._closed_at + EXIT_TIMEOUT
        )

    def last_output_line(self) -> str:
        """Return in one line what the command printed last before it ended; empty where it runs, or printed nothing."""
        try:
            self._process.wait(EXIT_TIMEOUT)
        except subprocess.TimeoutExpired:
            return ""
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").split("\n")
        return next((" ".join(line.split()) for line in reversed(lines) if line.strip()), "")

    def close(self, timeout: float = 0.0) -> None:
        """Wait up to `timeout` seconds for its end, which follows that of its connection; then kill it.

        What it has started is killed with it.
        """
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._stderr.close()


class Commands:
    """The ssh commands of one client, which several threads may use."""

    def __init__(self, words: list[str]) -> None:
        self._words = words
        self._lock = threading.Lock()
        self._running: list[Command] = []

    def add(self) -> Command:
        """Start another command, and close those that are over."""
        started, now = Command(self._words), time.monotonic()
        with self._lock:
            over = [each for each in self._running if each.is_over(now)]
            self._running = [*(each for each in self._running if each not in over), started]
        for each in over:
            each.close()
        return started

    def close(self) -> None:
        """Wait for the end of all commands, whose connections are closed."""
        with self._lock:
            running, self._running = self._running, []
        deadline = time.monotonic() + EXIT_TIMEOUT
        for each in running:
            each.close(max(0.0, deadline - time.monotonic()))


class Connection(UnixHTTPConnection):
    """One HTTP connection through an ssh command; `timeout` (seconds) bounds each wait for bytes."""

    def __init__(self, commands: Commands, timeout: int) -> None:
        super().__init__("http://localhost", UNUSED, timeout)
        self._commands = commands
        self.command: Command | None = None

    def connect(self) -> None:
        self.command = self._commands.add()
        self.sock = self.command.socket
        self.sock.settimeout(self.timeout)


class Pool(UnixHTTPConnectionPool):
    def __init__(self, commands: Commands, timeout: int, maxsize: int) -> None:
        super().__init__("http://localhost", UNUSED, timeout, maxsize)
        self._make = partial(Connection, commands, timeout)

    def _new_conn(self) -> Connection:  # type: ignore[override] # urllib3 knows its own kinds of connection by their structure only
        return self._make()


class Adapter(UnixHTTPAdapter):
    """The adapter that sends the requests of the SDK's session through ssh."""

    def __init__(self, words: list[str], timeout: int, maxsize: int) -> None:
        super().__init__(f"http+unix://{UNUSED}", timeout, max_pool_size=maxsize)
        self._commands = Commands(words)
        self._pool = Pool(self._commands, timeout, maxsize)

    def get_connection(self, url: str | bytes, proxies: Any = None) -> Pool:
        return self._pool

    def close(self) -> None:
        self._pool.close()
        self._commands.close()
        super().close()


def connect(address: str, timeout: int, pool_size: int) -> docker.DockerClient:
    """Return a client of the engine at this ssh:// address, which has just answered.

    EngineError with ssh's own message where it did not.
    """
    words = command(address, timeout)
    version = _version(address, words, timeout)
    try:
        client = docker.DockerClient(base_url=f"unix://{UNUSED}", version=version, timeout=timeout)
    except (docker.errors.DockerException, ValueError) as error:
        raise EngineError(
            ErrorKind.SILENT, f"the Docker engine at {address} cannot be used: {' '.join(str(error).split())}"
        ) from None
    client.api.mount("http+docker://", Adapter(words, timeout, pool_size))
    return client


def _version(address: str, words: list[str], timeout: int) -> str:
    """Return the version of the engine's API.

    The SDK would ask for it by itself, before it can be made to use ssh.
    """
    with contextlib.closing(Commands(words)) as commands, contextlib.closing(Connection(commands, timeout)) as first:
        try:
            first.request("GET", "/version")
            return str(json.loads(first.getresponse().data)["ApiVersion"])
        except TimeoutError:
            reason = f"no answer within {timeout} s"
        except FileNotFoundError:
            reason = "there is no ssh command here (on Debian: sudo apt-get install openssh-client)"
        except (http.client.BadStatusLine, ValueError, KeyError, TypeError) as error:
            reason = _last_output_line(first) if isinstance(error, ConnectionError) else ""
            reason = reason or "what answers there is no Docker engine"
        except (OSError, http.client.HTTPException, urllib3.exceptions.HTTPError) as error:
            reason = _last_output_line(first) or " ".join(str(error).split())
    raise EngineError(ErrorKind.SILENT, f"the Docker engine at {address} cannot be used: {reason}")


def _last_output_line(connection: Connection) -> str:
    return connection.command.last_output_line() if connection.command is not None else ""
