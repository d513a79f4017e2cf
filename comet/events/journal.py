"""The journal: one JSON object per event and line in `.comet/events.jsonl`, flushed at once.

A journal that cannot be written (a full disk) never stops the supervisor: listeners still get the events, and the next
record that fits says how many were lost. Records are numbered from 1 on, across all supervisors of the cluster.
"""

import contextlib
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from comet.common.clock import iso
from comet.common.json_values import decode
from comet.common.redaction import concealed
from comet.events.event import Event, known
from comet.host import files
from comet.host.files import Directory

KEEP_BYTES = 8 << 20
"""Size at which the file is rotated to events.jsonl.1, replacing the previous one."""

RECENT = 500
"""Records kept in memory, including those of an earlier supervisor."""

TAIL_BYTES = 256 << 10
"""Bytes at the end of the file that are searched for them."""

LONGEST_LINE = 1 << 20
"""Bytes; a longer line is no record and is never held in memory as a whole."""

POLL_PAUSE = 0.1
"""Seconds between two polls of a journal that is followed."""

Record = dict[str, Any]


class Journal:
    """Adds time and number to events, writes them, and passes them to listeners."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._file = files.append(path, flags=os.O_RDWR | os.O_APPEND)
        _end_unfinished_line(self._file)
        self._lost = 0
        self.recent: deque[Record] = deque(
            [*last(files.rotated_path(path), RECENT), *last(path, RECENT)], maxlen=RECENT
        )
        self._number = max((number(record) for record in self.recent), default=0)
        self.listeners: list[Callable[[Record], None]] = []

    def write(self, event: Event) -> None:
        self._number += 1
        record: Record = {"at": iso(self._clock()), "event": event.name, "number": self._number}
        if event.replica is not None:
            record["replica"] = event.replica
        record.update(
            {name: concealed(value) if isinstance(value, str) else value for name, value in event.fields.items()}
        )
        if self._lost:
            record["lost_events"] = self._lost
        self._keep(record)
        self.recent.append(record)
        for listener in list(self.listeners):
            try:
                listener(record)
            except Exception:  # A faulty listener must not break the supervisor during a tick.
                self.listeners.remove(listener)

    def repair(self) -> bool:
        """If the open file was removed or replaced, go on in the new one; return whether it was.

        It gets the records in memory that it lacks.
        """
        try:
            here = os.path.samestat(os.fstat(self._file), os.lstat(self._path))
        except OSError:
            here = False
        if here:
            return False
        fresh = files.append(self._path, flags=os.O_RDWR | os.O_APPEND)
        os.close(self._file)
        self._file = fresh
        _end_unfinished_line(fresh)
        kept = max((number(record) for record in last(self._path, RECENT)), default=0)
        for record in self.recent:
            if number(record) > kept:
                self._keep(record | {"again": True})  # Followers may already have it.
        return True

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
        with Directory.of(self._path.parent) as directory:
            directory.replace(self._path.name, files.rotated_path(self._path).name)
            fresh = directory.append(self._path.name)
        os.close(self._file)
        self._file = fresh


def _end_unfinished_line(file: int) -> None:
    """End a line that a power failure has torn, since it would swallow the next record."""
    with contextlib.suppress(OSError):
        size = os.fstat(file).st_size
        if size and os.pread(file, 1, size - 1) != b"\n":
            os.write(file, b"\n")


def read(path: Path) -> Iterator[Record]:
    """Yield the records of a journal file in order; skip lines that are no records (a torn write)."""
    try:
        with os.fdopen(files.open_read(path), "rb") as stream:
            # A file far larger than a journal is none, and may be endless.
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - 4 * KEEP_BYTES))
            yield from (record for line in _lines(stream) if (record := parse(line)) is not None)
    except FileNotFoundError:
        return


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a file; of a line longer than LONGEST_LINE only the beginning, which is no record."""
    whole = True
    while piece := stream.readline(LONGEST_LINE):
        if whole:
            yield piece
        whole = piece.endswith(b"\n")


def last(path: Path, count: int) -> list[Record]:
    """Return up to `count` records from the last TAIL_BYTES of a journal file."""
    try:
        with os.fdopen(files.open_read(path), "rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - TAIL_BYTES))
            lines = stream.read(TAIL_BYTES).split(b"\n")
    except OSError:
        return []
    return [record for line in lines if (record := parse(line)) is not None][-count:]


def number(record: Record) -> int:
    """Return a record's number, or 0 without one."""
    given = record.get("number", 0)
    return given if isinstance(given, int) else 0


class Tail:
    """Reads what is written to a journal from now on; nothing is read twice, whatever becomes of the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode, self._offset = self._end()
        self._unfinished = b""
        self._last = next(iter(last(path, 1)), None)

    @classmethod
    def after(cls, path: Path, record: Record | None) -> "Tail":
        """Return one that begins with what follows `record`; None: with the first record of the file."""
        tail = cls(path)
        tail._inode, tail._offset, tail._last = 0, 0, record
        return tail

    def fresh(self) -> list[Record]:
        """Return the records written since the last call, also where the file was rotated, replaced or truncated."""
        try:
            with os.fdopen(files.open_read(self._path), "rb") as stream:
                status = os.fstat(stream.fileno())
                rest = [] if status.st_ino == self._inode else self._rest_of_rotated()
                is_new = status.st_ino != self._inode or status.st_size < self._offset  # It may get a used inode.
                if is_new:
                    start = max(0, status.st_size - 4 * KEEP_BYTES)
                    self._inode, self._offset, self._unfinished = status.st_ino, start, b""
                records = self._read(stream)
        except OSError:
            return []
        self._last = rest[-1] if rest else self._last
        found = rest + (self._unread(records) if is_new else [each for each in records if not each.get("again")])
        self._last = found[-1] if found else self._last
        return found

    def _read(self, stream: BinaryIO) -> list[Record]:
        stream.seek(self._offset)
        data = stream.read()
        self._offset += len(data)
        *lines, self._unfinished = (self._unfinished + data).split(b"\n")
        self._unfinished = self._unfinished[: LONGEST_LINE + 1]
        return [record for line in lines if (record := parse(line)) is not None]

    def _rest_of_rotated(self) -> list[Record]:
        """Return what was written to the file between the last call and its rotation."""
        with contextlib.suppress(OSError), os.fdopen(files.open_read(files.rotated_path(self._path)), "rb") as stream:
            if os.fstat(stream.fileno()).st_ino == self._inode:
                return self._read(stream)
        return []

    def _unread(self, records: list[Record]) -> list[Record]:
        """Return those of a new file that come after the last one that was read: it may begin with earlier ones."""
        plain = [{name: value for name, value in record.items() if name != "again"} for record in records]
        if self._last in plain:
            return plain[len(plain) - plain[::-1].index(self._last) :]
        return [record for record in records if not record.get("again")]

    def _end(self) -> tuple[int, int]:
        try:
            status = self._path.stat()
        except OSError:
            return 0, 0
        return status.st_ino, status.st_size


def parse(line: bytes) -> Record | None:
    """Return the record in a line, without known fields of wrong types; None if it is no record."""
    try:
        record = decode(line.decode(errors="replace"), LONGEST_LINE)
    except ValueError:
        return None
    name = record.get("event") if isinstance(record, dict) else None
    return known(record) if isinstance(name, str) and name.strip() else None


def follow(path: Path, record: Record | None) -> Iterator[Record]:
    """Yield the records after this one (None: all), endlessly, as they are written."""
    tail = Tail.after(path, record)
    while True:
        yield from tail.fresh()
        time.sleep(POLL_PAUSE)
