"""What a board shows, as it comes: events as they are written, snapshots from a thread that asks for them, a supervisor's own words.

A snapshot may take seconds (a supervisor that hangs, an engine that does not answer): the board goes on drawing meanwhile.
"""

import json
import os
import threading
from collections import deque
from pathlib import Path
from typing import Any

from comet.cluster import Cluster
from comet.display import Message
from comet.errors import UserError
from comet.glance import Watcher
from comet.journal import Record, parse
from comet.snapshot import FleetSnapshot

PAUSE = 1.0
"""Seconds between two snapshots; an event brings the next one forward."""

LEAST_PAUSE = 0.2
"""Seconds that lie between two snapshots however much happens."""

KEPT = 200
TAIL_BYTES = 64 << 10


class Events:
    """The last events of a journal; `poll` takes in what was written since."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode, self._offset = -1, 0
        self.kept: deque[Record] = deque(maxlen=KEPT)

    def poll(self) -> bool:
        """Whether there is something new."""
        try:
            with self._path.open("rb") as stream:
                status = os.fstat(stream.fileno())
                if status.st_ino != self._inode or status.st_size < self._offset:
                    known = self._inode != -1
                    self._inode, self._offset = status.st_ino, 0 if known else max(0, status.st_size - TAIL_BYTES)
                if status.st_size == self._offset:
                    return False
                stream.seek(self._offset)
                whole = stream.read().rpartition(b"\n")[0]
        except OSError:
            return False
        self._offset += len(whole) + 1 if whole else 0
        records = [record for line in whole.decode(errors="replace").splitlines() if (record := parse(line)) is not None]
        self.kept.extend(records)
        return bool(records)


class Snapshots:
    """The latest snapshot; a byte comes out of `fd` for each new one."""

    def __init__(self, cluster: Cluster) -> None:
        self._watcher = Watcher(cluster)
        self._hurry = threading.Event()
        self.fd, self._bell = os.pipe()
        self.latest: FleetSnapshot | None = None
        self.trouble = ""
        threading.Thread(target=self._work, name="snapshots", daemon=True).start()

    def hurry(self) -> None:
        """Something has happened: take the next one soon."""
        self._hurry.set()

    def _work(self) -> None:
        pause = threading.Event()
        while True:
            self._hurry.clear()
            try:
                self.latest, self.trouble = self._watcher.look(), ""
            except (UserError, OSError, ValueError) as error:
                self.trouble = str(error) or repr(error)
            os.write(self._bell, b".")
            pause.wait(LEAST_PAUSE)
            self._hurry.wait(PAUSE - LEAST_PAUSE)


class Words:
    """What a supervisor tells its window, a JSON object a line, and that it is gone."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.ended = False
        self._rest = b""

    def read(self) -> list[Message]:
        """What has come; to be called when there is something to read."""
        data = os.read(self.fd, 65536)
        self.ended = not data
        *whole, self._rest = (self._rest + data).split(b"\n")
        messages: list[dict[str, Any]] = [json.loads(line) for line in whole]
        return messages
