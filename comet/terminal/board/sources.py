"""Supplies what a board shows: journal events, snapshots, and messages from a supervisor.

A thread takes the snapshots, because one may take seconds (a supervisor that hangs, an engine that does not answer).
The board keeps drawing meanwhile.
"""

import json
import os
import threading
from collections import deque
from pathlib import Path
from typing import Any

from comet.common.errors import UserError
from comet.events.journal import Record, parse
from comet.host import files
from comet.state.directory import Cluster
from comet.telemetry.snapshot import FleetSnapshot
from comet.telemetry.status import Watcher
from comet.terminal.messages import Message

INTERVAL = 1.0
"""Seconds between two snapshots; an event triggers the next one early."""

MIN_INTERVAL = 0.2
"""Minimum seconds between two snapshots, however many events occur."""

MAX_EVENTS = 200
TAIL_BYTES = 64 << 10


class Events:
    """The last events of a journal; `poll` adds what was written since the previous call."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode, self._offset = -1, 0
        self.records: deque[Record] = deque(maxlen=MAX_EVENTS)

    def poll(self) -> bool:
        """Read what was written since the last call; return whether there are new events."""
        try:
            with os.fdopen(files.open_read(self._path), "rb") as stream:
                status = os.fstat(stream.fileno())
                if status.st_ino != self._inode or status.st_size < self._offset:
                    was_open = self._inode != -1
                    self._inode, self._offset = status.st_ino, 0 if was_open else max(0, status.st_size - TAIL_BYTES)
                if status.st_size == self._offset:
                    return False
                stream.seek(self._offset)
                complete = stream.read().rpartition(b"\n")[0]
        except OSError:
            return False
        self._offset += len(complete) + 1 if complete else 0
        records = [record for line in complete.split(b"\n") if (record := parse(line)) is not None]
        self.records.extend(records)
        return bool(records)


class Snapshots:
    """The latest snapshot, taken by a thread; `fd` yields one byte for each new snapshot."""

    def __init__(self, cluster: Cluster) -> None:
        self._watcher = Watcher(cluster)
        self._requested = threading.Event()
        self.fd, self._notify_fd = os.pipe()
        self.latest: FleetSnapshot | None = None
        self.error = ""
        threading.Thread(target=self._run, name="snapshots", daemon=True).start()

    def request_soon(self) -> None:
        """Take the next snapshot soon, because something has changed."""
        self._requested.set()

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            self._requested.clear()
            try:
                self.latest, self.error = self._watcher.snapshot(), ""
            except (UserError, OSError, ValueError) as error:
                self.error = str(error) or repr(error)
            os.write(self._notify_fd, b".")
            pause.wait(MIN_INTERVAL)
            self._requested.wait(INTERVAL - MIN_INTERVAL)


class FeedReader:
    """Reads a supervisor's messages to its window, one JSON object a line; `ended` when the supervisor is gone."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.ended = False
        self._rest = b""

    def read(self) -> list[Message]:
        """Return the messages that have arrived; to be called when `fd` is readable."""
        data = os.read(self.fd, 65536)
        self.ended = not data
        *complete, self._rest = (self._rest + data).split(b"\n")
        messages: list[dict[str, Any]] = [json.loads(line) for line in complete]
        return messages
