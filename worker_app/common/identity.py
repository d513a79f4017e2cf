"""Gives the worker its identity: its greeting and the name of its row in the statistics.

Pure except for `of_this_process`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Collection
from dataclasses import dataclass

CONTAINER = "container"
PROCESS = "process"


@dataclass(frozen=True, slots=True)
class Identity:
    """A worker's identity: `kind` is container or process, `id` is the host name or the PID."""

    kind: str
    id: str

    def greeting(self) -> str:
        return f"hello from {self.kind}: {self.id}"

    def row_name(self, taken: Collection[str]) -> str:
        """Return the name of the worker's row; `taken` are the names of the existing rows.

        A restarted container keeps its host name and continues its row. A row that is named like a PID belongs to an
        earlier process with the same number, so the worker takes `<pid>.2`, `<pid>.3`...
        """
        if self.kind == CONTAINER or self.id not in taken:
            return self.id
        number = 2
        while f"{self.id}.{number}" in taken:
            number += 1
        return f"{self.id}.{number}"


def of_this_process(kind: str) -> Identity:
    return Identity(kind, socket.gethostname() if kind == CONTAINER else str(os.getpid()))
