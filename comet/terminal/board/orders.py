"""What the board does to the chosen replica and to the cluster: commands to the supervisor, and the end of its log.

Both run on threads, since a rolling restart takes seconds and an engine may be slow; the board only looks at the
result.
"""

import threading
from collections.abc import Sequence
from typing import Any

from comet.common.errors import UserError
from comet.events.event import visible
from comet.runtimes import logs
from comet.state.control_socket import call
from comet.state.directory import Cluster

TIMEOUT = 3600.0
"""Seconds for a command; a rolling restart may take minutes."""

LOG_INTERVAL = 1.0
"""Seconds between two looks at a log."""

COMMANDS = {"x": "kill", "r": "restart", "d": "drain"}
"""The keys, and what each does to the chosen replica; a drained one is given back by `d`."""


PAUSE_KEY = "p"
"""The key that lets requests wait, or go on."""


class Orders:
    """Sends one command at a time; `note` says what is under way, or how the last one ended."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._busy = threading.Lock()
        self.note = ""

    def begin(self, command: str, name: str = "") -> None:
        """Send a command, one without a name to the cluster; while another one is under way, only say so."""
        if not self._busy.acquire(blocking=False):
            self.note = f"{_called(command, name)}: wait until the other command has ended"
            return
        self.note = f"{_called(command, name)} …"
        threading.Thread(target=self._send, args=(command, name), name="order", daemon=True).start()

    def _send(self, command: str, name: str) -> None:
        fields: dict[str, Any] = {"target" if command == "restart" else "name": name} if name else {}
        fields |= {"signal": "KILL"} if command == "kill" else {}
        try:
            call(self._cluster, command, timeout=TIMEOUT, **fields)
            self.note = f"{_called(command, name)}: done"
        except UserError as error:
            self.note = error.message
        except (ConnectionError, OSError, ValueError):
            self.note = f"{_called(command, name)}: no supervisor answers"
        finally:
            self._busy.release()


def _called(command: str, name: str) -> str:
    return f"{command} {name}".rstrip()


class LogTail:
    """The end of a replica's log, read again and again until it is closed."""

    def __init__(self, cluster: Cluster, name: str, kind: str) -> None:
        self.name = name
        self.lines: Sequence[str] = ()
        self._closed = threading.Event()
        threading.Thread(target=self._run, args=(cluster, name, kind), name="log", daemon=True).start()

    def close(self) -> None:
        self._closed.set()

    def _run(self, cluster: Cluster, name: str, kind: str) -> None:
        while not self._closed.is_set():
            text = logs.recent(cluster, name, kind).decode(errors="replace")
            self.lines = [visible(line.expandtabs()) for line in text.splitlines()]
            self._closed.wait(LOG_INTERVAL)
