"""Who this worker is: what it greets with and which row of the statistics is its own (pure but for `of_this_process`)."""

from __future__ import annotations

import os
import socket
from collections.abc import Collection
from dataclasses import dataclass

CONTAINER = "container"
PROCESS = "process"


@dataclass(frozen=True, slots=True)
class Identity:
    """`kind` is container or process, `id` the host name or the PID."""

    kind: str
    id: str

    def greeting(self) -> str:
        return f"hello from {self.kind}: {self.id}"

    def row_name(self, taken: Collection[str]) -> str:
        """The name of the row, given those there are.

        A container that was started again has its old host name and goes on with its row; a PID that meets a row is another process's with
        the same number, so it takes `<pid>.2`, `<pid>.3`...
        """
        if self.kind == CONTAINER or self.id not in taken:
            return self.id
        number = 2
        while f"{self.id}.{number}" in taken:
            number += 1
        return f"{self.id}.{number}"


def of_this_process(kind: str) -> Identity:
    return Identity(kind, socket.gethostname() if kind == CONTAINER else str(os.getpid()))
