"""A Docker engine reached by ssh: every connection is an `ssh HOST docker system dial-stdio`, as the docker command's own are.

The SDK's own way needs paramiko, and knows no deadline: a manager whose machine is gone would hold its reader for ever. Here the ssh
command speaks into one end of a socket pair, so that the SDK has an ordinary socket with ordinary timeouts at the other.

The ssh command knows its user's keys, hosts and jumps. It asks nobody anything (BatchMode), as a supervisor in the background has nobody
to ask. It ends with its connection: by the end of its input, by itself where the machine is gone, and killed where it does neither.
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

from comet.engine import EngineError, Trouble

ALIVE, ALIVE_COUNT = 10, 3
"""Seconds without a word after which ssh asks the other side for one; so many unanswered questions end it."""

PARTING = 1.0
"""Seconds that ssh may take to end when its connection has ended."""

UNUSED = "/none"
"""The SDK's client is made for a UNIX socket, which is never opened."""


def command(address: str, timeout: int) -> list[str]:
    """The command whose input and output are the engine's socket at `ssh://[user@]host[:port][/path/of/socket]`, as the docker command
    takes it. `timeout` bounds its connecting (seconds). EngineError where the address is no such one."""
    try:
        if not address.isprintable():
            raise ValueError
        url = urlsplit(address)
        user, _, place = url.netloc.rpartition("@")
        port = url.port
        host = place[1:].partition("]")[0] if place.startswith("[") else place.partition(":")[0]  # `hostname` would be in lower case.
        if not host or port == 0 or ":" in user or url.query or url.fragment:
            raise ValueError
    except ValueError:
        # Without what stands before the host: a password may.
        shown = "".join(each for each in address.rpartition("@")[2] if each.isprintable())
        raise EngineError(Trouble.REMOTE, f"{shown}: not the address of an engine: ssh://[user@]host[:port]") from None
    alive = (f"ServerAliveInterval={ALIVE}", f"ServerAliveCountMax={ALIVE_COUNT}")
    # A connection of ours neither carries others, which would end with it, nor opens the ports that the user's own ones forward.
    alone = ("BatchMode=yes", "ControlMaster=no", "ClearAllForwardings=yes")
    words = ["ssh", "-T", *(word for option in (*alone, f"ConnectTimeout={timeout}", *alive) for word in ("-o", option))]
    words += ["-l", unquote(user)] if user else []
    words += ["-p", str(port)] if port else []
    where = f"--host unix://{shlex.quote(unquote(url.path))} " if url.path.strip("/") else ""
    return [*words, "--", host, f"docker {where}system dial-stdio"]


class Command:
    """One ssh that runs. `socket` is what it speaks into."""

    def __init__(self, words: list[str]) -> None:
        """OSError where there is no such command."""
        environment = {name: value for name, value in os.environ.items() if name != "COMET_CLUSTER"}
        self._said = os.fdopen(os.memfd_create("ssh"), "w+b")
        self._closed_at: float | None = None
        self.socket, theirs = socket.socketpair()
        try:
            with theirs:
                # In a session of its own: Ctrl-C on a terminal is not meant for it. It is no replica that a supervisor could leave behind.
                self._process = subprocess.Popen(
                    words, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=self._said, start_new_session=True, env=environment
                )
        except OSError:
            self.socket.close()
            self._said.close()
            raise

    def is_over(self, now: float) -> bool:
        """Whether it has ended, or should have: its connection was closed, with all that was read from it, more than PARTING before `now`
        (monotonic seconds), as far as this was asked."""
        if self.socket.fileno() == -1 and self._closed_at is None:
            self._closed_at = now
        return self._process.poll() is not None or (self._closed_at is not None and now > self._closed_at + PARTING)

    def last_words(self) -> str:
        """What it said last before it ended, in one line; empty where it goes on, or said nothing."""
        try:
            self._process.wait(PARTING)
        except subprocess.TimeoutExpired:
            return ""
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").split("\n")
        return next((" ".join(line.split()) for line in reversed(lines) if line.strip()), "")

    def close(self, patience: float = 0.0) -> None:
        """Wait for its end, which follows that of its connection, for so many seconds; then kill it, with what it has started."""
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._said.close()


class Commands:
    """The ssh commands of one client, which several threads may use."""

    def __init__(self, words: list[str]) -> None:
        self._words = words
        self._lock = threading.Lock()
        self._running: list[Command] = []

    def add(self) -> Command:
        """Run one more, and be rid of those that are over."""
        started, now = Command(self._words), time.monotonic()
        with self._lock:
            over = [each for each in self._running if each.is_over(now)]
            self._running = [*(each for each in self._running if each not in over), started]
        for each in over:
            each.close()
        return started

    def close(self) -> None:
        """See all end whose connections are closed."""
        with self._lock:
            running, self._running = self._running, []
        deadline = time.monotonic() + PARTING
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
    """What lets the SDK's session go through ssh."""

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
    """A client of the engine at this ssh:// address, which has just answered; EngineError with ssh's own words where it did not."""
    words = command(address, timeout)
    version = _version(address, words, timeout)
    try:
        client = docker.DockerClient(base_url=f"unix://{UNUSED}", version=version, timeout=timeout)
    except (docker.errors.DockerException, ValueError) as error:
        raise EngineError(Trouble.SILENT, f"the Docker engine at {address} cannot be used: {' '.join(str(error).split())}") from None
    client.api.mount("http+docker://", Adapter(words, timeout, pool_size))
    return client


def _version(address: str, words: list[str], timeout: int) -> str:
    """The version of the engine's API: what the SDK would ask for by itself, before it can be told to go through ssh."""
    with contextlib.closing(Commands(words)) as commands, contextlib.closing(Connection(commands, timeout)) as first:
        try:
            first.request("GET", "/version")
            return str(json.loads(first.getresponse().data)["ApiVersion"])
        except TimeoutError:
            why = f"no answer within {timeout} s"
        except FileNotFoundError:
            why = "there is no ssh command here (on Debian: sudo apt-get install openssh-client)"
        except (http.client.BadStatusLine, ValueError, KeyError, TypeError) as error:
            why = _last_words(first) if isinstance(error, ConnectionError) else ""
            why = why or "what answers there is no Docker engine"
        except (OSError, http.client.HTTPException, urllib3.exceptions.HTTPError) as error:
            why = _last_words(first) or " ".join(str(error).split())
    raise EngineError(Trouble.SILENT, f"the Docker engine at {address} cannot be used: {why}")


def _last_words(connection: Connection) -> str:
    return connection.command.last_words() if connection.command is not None else ""
