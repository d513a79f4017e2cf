"""Exit markers: a line in the log where one instance ended: `-- worker-0 exited by SIGKILL at 2026-…Z --`.

All instances of a process append to one log file: the supervisor adds the marker when it notices the death, before the
next start. The log of a container belongs to the engine and cannot be added to: there the marker is inserted while the
log is read, by the times of the engine and of the journal.
"""

import contextlib
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator
from math import inf

from comet.common.clock import parse
from comet.events import journal
from comet.host import files
from comet.state.directory import Cluster

MAX_MARKER_BYTES = 4096
"""Bytes; a marker is shorter."""


def text(record: journal.Record) -> str:
    """Return the marker for a record of `replica_exited`."""
    died = record.get("died_at") or record.get("at")
    code, signal = record.get("code"), record.get("signal")
    if signal is None and code is None:
        return f"-- {record.get('replica')} exited at {died}, exit status unknown --"
    how = f"by {signal}" if signal else f"with code {code}"
    return f"-- {record.get('replica')} exited {how}{' (out of memory)' if record.get('oom') else ''} at {died} --"


def note(cluster: Cluster, record: journal.Record) -> None:
    """Append the marker to the log of a process, if that can be written (the disk may be full)."""
    if record.get("event") != "replica_exited" or record.get("kind") != "process":
        return
    path = cluster.path("logs", f"{record['replica']}.log")
    with (
        contextlib.suppress(OSError),
        os.fdopen(files.append(path, flags=os.O_RDWR | os.O_APPEND), "ab", buffering=0) as log,
    ):
        size = os.fstat(log.fileno()).st_size
        is_unfinished = (
            size > 0 and os.pread(log.fileno(), 1, size - 1) != b"\n"
        )  # It was killed while it wrote a line.
        log.write(b"\n" * is_unfinished + text(record).encode() + b"\n")


def append_unobserved(cluster: Cluster, name: str) -> None:
    """Append a marker to the log of a process whose end was not observed, before its next start."""
    path = cluster.path("logs", f"{name}.log")
    with contextlib.suppress(OSError), os.fdopen(files.open_read(path), "rb") as log:
        size = log.seek(0, os.SEEK_END)
        log.seek(max(0, size - MAX_MARKER_BYTES))
        last = log.read(MAX_MARKER_BYTES).removesuffix(b"\n").rpartition(b"\n")[2]
        if not size or _marker(name).fullmatch(last):
            return
        note(cluster, {"event": "replica_exited", "kind": "process", "replica": name, "at": "an unknown time"})


def last_life(printed: bytes, name: str, is_over: bool) -> bytes:
    """Return the output of the last instance; if `is_over`, of the last one that has ended."""
    *lines, rest = printed.split(b"\n")
    ends = [index for index, line in enumerate(lines) if _marker(name).fullmatch(line)]
    if not ends:
        return printed
    if is_over or (ends[-1] == len(lines) - 1 and not rest):
        before = ends[-2] + 1 if len(ends) > 1 else 0
        return b"".join(line + b"\n" for line in lines[before : ends[-1]])
    return b"\n".join([*lines[ends[-1] + 1 :], rest])


def _marker(name: str) -> "re.Pattern[bytes]":
    return re.compile(rb"-- %s exited .+ --" % re.escape(name.encode()))


class ExitMarkers:
    """The exit markers of one replica by the journal, each once, in order."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._name = name
        path = cluster.path("events.jsonl")
        self._tail = journal.Tail(path)
        self._known = 0
        self._ends: deque[tuple[float, str]] = deque()
        for past in (files.rotated_path(path), path):
            self._add_records(journal.read(past))

    def skip_before(self, moment: float, keep_last: bool) -> None:
        """Skip markers before `moment`; with `keep_last`, keep the last of them."""
        while (
            self._ends
            and self._ends[0][0] < moment
            and not (keep_last and (len(self._ends) == 1 or self._ends[1][0] >= moment))
        ):
            self._ends.popleft()

    def until(self, moment: float) -> Iterator[str]:
        """Yield the markers up to `moment` (seconds since the epoch)."""
        while self._ends and self._ends[0][0] <= moment:
            yield self._ends.popleft()[1]

    def now(self) -> Iterator[str]:
        """Read new records and yield all markers."""
        self.update()
        yield from self.until(inf)

    def update(self) -> None:
        """Read the records that the journal got since the last call."""
        self._add_records(self._tail.fresh())

    def _add_records(self, records: Iterable[journal.Record]) -> None:
        for record in records:
            if journal.number(record) <= self._known:
                continue
            self._known = journal.number(record)
            if record.get("event") == "replica_exited" and record.get("replica") == self._name:
                # The time when it was noticed: by then all of its output has arrived, and the next instance starts
                # later.
                self._ends.append((parse(str(record.get("at"))) or 0.0, text(record)))
