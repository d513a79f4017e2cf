"""What has happened, one JSON object a line in `.comet/events.jsonl`, flushed as it happens.

A journal that cannot be written (a full disk) never stops the supervisor: events go on to whoever listens, and the next that fits
says how many were not kept. Records are numbered from 1 on, through all lives of the cluster.
"""

import contextlib
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from comet.events import Event
from comet.wallclock import iso

KEEP_BYTES = 8 << 20
"""At this size the file is put aside as events.jsonl.1, replacing the former one."""

RECENT = 500
"""Records kept in memory, those of an earlier supervisor included."""

TAIL_BYTES = 256 << 10
"""How much of the file's end is looked through for them."""

POLL_PAUSE = 0.1
"""Seconds between two looks at a journal that is followed."""

Record = dict[str, Any]


class Journal:
    """Stamps, keeps and passes on events."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        _end_torn_line(path, self._file)
        self._lost = 0
        self.recent: deque[Record] = deque([*last(aside(path), RECENT), *last(path, RECENT)], maxlen=RECENT)
        self._number = max((number(record) for record in self.recent), default=0)
        self.listeners: list[Callable[[Record], None]] = []

    def write(self, event: Event) -> None:
        self._number += 1
        record: Record = {"at": iso(self._clock()), "event": event.name, "number": self._number}
        if event.replica is not None:
            record["replica"] = event.replica
        record.update(event.fields)
        if self._lost:
            record["lost_events"] = self._lost
        self._keep(record)
        self.recent.append(record)
        for listener in list(self.listeners):
            try:
                listener(record)
            except Exception:  # Whoever listens cannot be let to break what is told: the supervisor in the midst of a tick.
                self.listeners.remove(listener)

    def close(self) -> None:
        os.close(self._file)

    def _keep(self, record: Record) -> None:
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        try:
            start = os.fstat(self._file).st_size
            if start > KEEP_BYTES:
                self._rotate()
                start = 0
            if os.write(self._file, line) < len(line):
                os.ftruncate(self._file, start)  # A part of a line would spoil the next one.
                raise OSError
        except OSError:
            self._lost += 1
        else:
            self._lost = 0

    def _rotate(self) -> None:
        os.replace(self._path, aside(self._path))
        fresh = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.close(self._file)
        self._file = fresh


def aside(path: Path) -> Path:
    """Where a journal is put when it has grown."""
    return path.with_name(f"{path.name}.1")


def _end_torn_line(path: Path, file: int) -> None:
    """What a loss of power has torn would swallow the next record, too."""
    with contextlib.suppress(OSError), path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)  # EINVAL where it is empty.
        if stream.read(1) != b"\n":
            os.write(file, b"\n")


def read(path: Path) -> Iterator[Record]:
    """Every record of a journal file, in order; lines that are no records (a torn write) are passed over."""
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            yield from (record for line in stream if (record := parse(line)) is not None)
    except FileNotFoundError:
        return


def last(path: Path, count: int) -> list[Record]:
    """The last records of a journal file, as many as its last TAIL_BYTES hold."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - TAIL_BYTES))
            lines = stream.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return []
    return [record for line in lines if (record := parse(line)) is not None][-count:]


def number(record: Record) -> int:
    """A record's number; 0 where it bears none."""
    given = record.get("number")
    return given if isinstance(given, int) else 0


class Tail:
    """What is written to a journal from now on, in pieces; nothing is read twice."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode, self._offset = self._end()
        self._torn = b""

    def fresh(self) -> list[Record]:
        """The records written since the last look. A journal that was put aside is read on in its successor, from its start."""
        try:
            with self._path.open("rb") as stream:
                inode = os.fstat(stream.fileno()).st_ino
                if inode != self._inode:
                    self._inode, self._offset, self._torn = inode, 0, b""
                stream.seek(self._offset)
                data = stream.read()
        except FileNotFoundError:
            return []
        self._offset += len(data)
        *lines, self._torn = (self._torn + data).split(b"\n")
        return [record for line in lines if (record := parse(line.decode(errors="replace"))) is not None]

    def _end(self) -> tuple[int, int]:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return 0, 0
        return status.st_ino, status.st_size


def parse(line: str) -> Record | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "event" in record else None


def follow(path: Path, passed: int) -> Iterator[Record]:
    """The records after the first `passed`, for ever, as they are written; a journal put aside is followed into the new file."""
    while True:
        try:
            stream = path.open(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            time.sleep(POLL_PAUSE)
            continue
        with stream:
            yield from _follow_file(stream, path, passed)
        passed = 0


def _follow_file(stream: TextIO, path: Path, passed: int) -> Iterator[Record]:
    rest = ""
    while True:
        text = stream.readline()
        if not text:
            if not path.exists() or os.fstat(stream.fileno()).st_ino != path.stat().st_ino:
                return
            time.sleep(POLL_PAUSE)
            continue
        rest += text
        if rest.endswith("\n"):
            record, rest = parse(rest), ""
            if record is not None and passed <= 0:
                yield record
            passed -= record is not None
