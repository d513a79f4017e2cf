"""Keeps `.comet/state.json`, from which a later supervisor finds the replicas of this one.

The file is a hint, never the truth: every PID in it is checked against its create time before anything is done to the
process, and containers are found by their labels. A second file, `.comet/state.json.spare`, has the same content. Where
both are missing or broken, no replica can be adopted; there is no other harm.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from comet.common import json_values
from comet.common.errors import os_error_text
from comet.host import files
from comet.host.process_identity import boot_id
from comet.reconcile.observations import Exit
from comet.reconcile.replica import State

VERSION = 1


@dataclass(frozen=True)
class Record:
    """One replica: what it is, which instance, and how its process is identified.

    A process is identified by its PID and its time of birth, in seconds from boot. `begun` is when the process became
    this replica, where that was later.
    """

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
    """Writes the files if, and only if, their content has changed.

    `damage` says why the first file could not be understood at the last reading.
    """

    def __init__(self, path: Path) -> None:
        self._paths = (path, path.with_name(f"{path.name}.spare"))
        self.damage: str | None = None
        self._written: dict[str, Record] | None = None

    def write(self, records: Mapping[str, Record]) -> None:
        """Write the records; raise OSError where the disk is full, which keeps the previous content."""
        if records == self._written:
            return
        content = {"version": VERSION, "boot": boot_id(), "replicas": [asdict(record) for record in records.values()]}
        for path in reversed(self._paths):  # The spare file is never older.
            files.write(path, json.dumps(content, indent=1) + "\n")
        self._written = dict(records)

    def is_missing(self) -> bool:
        """Return whether a file that was written is gone; the next write then writes it again."""
        if self._written is None or all(map(files.is_there, self._paths)):
            return False
        self._written = None
        return True

    def read(self) -> dict[str, Record]:
        """Return the records by name; empty where there are none or they cannot be understood."""
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
            files.remove(path)
        self._written = None


def _read(path: Path) -> tuple[dict[str, Record] | None, str | None]:
    """Return the records of one file, and why they cannot be understood; both None for a missing file."""
    try:
        return parse_records(files.read(path)), None
    except OtherVersion:
        return None, "another version's"
    except FileNotFoundError:
        return None, None
    except OSError as error:
        return None, os_error_text(error)
    except ValueError:
        return None, "not understood"


class OtherVersion(ValueError):
    """The file has the format of another version."""


MAX_PID = 2**22
"""The bound of PIDs, below which all that Linux assigns lie (PID_MAX_LIMIT)."""

_NAME = re.compile(r"(?:lb|worker)-[0-9]{1,6}(?:~[a-z]+)?")
_FILE = re.compile(r"[A-Za-z0-9_\-][A-Za-z0-9_.~\-]*")


def parse_records(data: bytes) -> dict[str, Record]:
    """Return the records by name that a file's content describes; raise ValueError where it describes none."""
    content = json_values.mapping(json_values.decode(data))
    if content.get("version") != VERSION:
        raise OtherVersion("version")
    if not isinstance(content.get("replicas"), list):
        raise ValueError("replicas: not a list")
    found: dict[str, Record] = {}
    # PIDs, and times of birth that count from boot, mean nothing after another boot.
    dead = content.get("boot") not in (None, boot_id())
    for each in content["replicas"]:
        record = json_values.build_record(Record, each)
        if dead and record.kind == "process":
            record = replace(record, pid=None, create_time=None, begun=None)
        _require_in_range(record)
        if record.name in found:
            raise ValueError(f"{record.name}: appears twice")
        found[record.name] = record
    return found


def _require_in_range(record: Record) -> None:
    """Raise ValueError for a record with values out of range.

    The code that uses a record trusts its values: it queries PIDs, and opens files in `.comet/run/` by these names.
    """
    numbers = (
        record.pid is None or 0 < record.pid < MAX_PID,
        0 <= record.port < 65536,
        record.instance >= 0,
        record.restarts >= 0,
    )
    files = (name is None or _FILE.fullmatch(name) for name in (record.control, record.counters))
    words = (
        record.role in ("lb", "worker"),
        record.kind in ("process", "container", "task", "upstream"),
        record.state in set(State),
    )
    if not _NAME.fullmatch(record.name) or not all(numbers) or not all(files) or not all(words):
        raise ValueError(f"{record.name!r}: out of range")
    if record.last_exit is not None:
        json_values.build_record(Exit, record.last_exit)
