"""What a later supervisor needs to find the replicas of this one: `.comet/state.json`.

It is a hint, never the truth: every PID in it is checked against its create time before anything is done to it, and containers are
found by their labels. What it says stands in a second file too, `.comet/state.json.spare`; where both are missing or broken that
costs the adoption, nothing else.
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
    """One replica: what it is, which instance, and how its process is known again (PID, and seconds from boot to its birth). `begun` is
    when the process became this replica, where that was later."""

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
    begun: float | None = None


class StateFile:
    """Writes the files when, and only when, what they say has changed. `damage` tells what kept the first from being understood at the
    last reading."""

    def __init__(self, path: Path) -> None:
        self._paths = (path, path.with_name(f"{path.name}.spare"))
        self.damage: str | None = None
        self._written: dict[str, Record] | None = None

    def write(self, records: Mapping[str, Record]) -> None:
        """OSError where the disk is full; the former content stays then."""
        if records == self._written:
            return
        content = {"version": VERSION, "replicas": [asdict(record) for record in records.values()]}
        for path in reversed(self._paths):  # The spare one is never older.
            write_atomically(path, json.dumps(content, indent=1) + "\n")
        self._written = dict(records)

    def read(self) -> dict[str, Record]:
        """The records by name; empty where there are none or they cannot be understood."""
        self.damage = None
        for number, path in enumerate(self._paths):
            records, damage = _read(path)
            if not number:
                self.damage = damage
            if records is not None:
                return records
        return {}

    def remove(self) -> None:
        for path in self._paths:
            path.unlink(missing_ok=True)
        self._written = None


def _read(path: Path) -> tuple[dict[str, Record] | None, str | None]:
    """What one file says, and what keeps it from being understood; of a file that is not there neither."""
    try:
        content = json.loads(path.read_text())
        if content["version"] == VERSION:
            return {record["name"]: Record(**record) for record in content["replicas"]}, None
        return None, "another version's"
    except FileNotFoundError:
        return None, None
    except OSError as error:
        return None, error.strerror
    except (ValueError, KeyError, TypeError):
        return None, "not understood"
