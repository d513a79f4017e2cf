"""Reads the load balancers' access logs while they grow.

Each log is limited to two files; a long run writes more than these hold.
"""

import contextlib
import json
import os
from pathlib import Path
from typing import IO

from scripts.bench.ids import Line


class AccessLogs:
    """All lines of the logs since the start, provided that `read` is called before a log has filled a file."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self._paths = {name: folder / f"{name}.access.log" for name in names}
        self._open: dict[str, IO[bytes]] = {}
        self._rest = dict.fromkeys(names, b"")
        self._turned: set[str] = set()
        self.lines: list[tuple[str, Line]] = []

    def read(self) -> None:
        """Read the new lines."""
        for name, path in self._paths.items():
            file = self._open.get(name)
            if file is None:
                with contextlib.suppress(FileNotFoundError):
                    self._open[name] = file = path.open("rb")
            if file is None:
                continue
            self._take(name, file.read())
            # After its rotation it is read once more: another process may have opened it before and have written since.
            if name in self._turned:
                self._turned.discard(name)
                self._open.pop(name).close()
            elif _moved(file, path):
                self._turned.add(name)

    def _take(self, name: str, data: bytes) -> None:
        *whole, self._rest[name] = (self._rest[name] + data).split(b"\n")
        for text in whole:
            try:
                record = json.loads(text)
            except ValueError:
                continue  # Its LB died while it wrote the line; that death is known where the line is missed.
            # A request that was not understood has no id.
            line = Line(record["lb"], record["status"], record.get("worker"), record.get("retries", 0))
            self.lines.append((record.get("request_id", ""), line))

    def close(self) -> None:
        for file in self._open.values():
            file.close()


def _moved(file: IO[bytes], path: Path) -> bool:
    try:
        return path.stat().st_ino != os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return True
