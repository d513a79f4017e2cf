"""What a later supervisor needs to find the replicas of this one: `.comet/state.json`.

It is a hint, never the truth: every PID in it is checked against its create time before anything is done to it, and containers are
found by their labels. A file that is missing or broken costs the adoption, nothing else.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from comet.cluster import write_atomically

VERSION = 1


@dataclass(frozen=True)
class Record:
    """One replica: what it is, which instance, and how its process is known again (PID, and seconds from boot to its birth)."""

    name: str
    role: str
    kind: str
    driver: str
    port: int
    state: str
    instance: int
    restarts: int
    pid: int | None
    create_time: float | None
    id: str | None
    control: str | None
    counters: str | None = None
    fingerprint: str | None = None
    last_exit: Mapping[str, Any] | None = None


class StateFile:
    """Writes the file when, and only when, what it says has changed. `damage` tells what kept the last reading from being understood."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.damage: str | None = None
        self._written: dict[str, Record] | None = None

    def write(self, records: Mapping[str, Record]) -> None:
        """OSError where the disk is full; the former content stays then."""
        if records == self._written:
            return
        content = {"version": VERSION, "replicas": [asdict(record) for record in records.values()]}
        write_atomically(self._path, json.dumps(content, indent=1) + "\n")
        self._written = dict(records)

    def read(self) -> dict[str, Record]:
        """The records by name; empty where there are none or they cannot be understood."""
        self.damage = None
        try:
            content = json.loads(self._path.read_text())
            if content["version"] == VERSION:
                return {record["name"]: Record(**record) for record in content["replicas"]}
            self.damage = "another version's"
        except FileNotFoundError:
            pass
        except OSError as error:
            self.damage = error.strerror
        except (ValueError, KeyError, TypeError):
            self.damage = "not understood"
        return {}

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)
        self._written = None
