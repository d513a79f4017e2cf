"""How a life ended, told in the log between its output and that of the next: `-- worker-0 exited by SIGKILL at 2026-…Z --`.

The log of a process is a file that its lives append to: the supervisor adds the line when it hears of the death, before it starts the
next one. The log of a container is the engine's, and nobody can add to it: there the line is put in while it is read, by the engine's
times and those of the journal.
"""

import contextlib
import os
from collections import deque
from collections.abc import Iterable, Iterator
from math import inf

from comet import journal
from comet.cluster import Cluster
from comet.wallclock import parse


def text(record: journal.Record) -> str:
    """The line for a record of `replica_exited`."""
    died = record.get("died_at") or record.get("at")
    code, signal = record.get("code"), record.get("signal")
    if signal is None and code is None:
        return f"-- {record.get('replica')} exited at {died}, nobody could read how --"
    how = f"by {signal}" if signal else f"with code {code}"
    return f"-- {record.get('replica')} exited {how}{' (out of memory)' if record.get('oom') else ''} at {died} --"


def note(cluster: Cluster, record: journal.Record) -> None:
    """Add the line to a process's log. A log that cannot be written (a full disk) goes without."""
    if record.get("event") != "replica_exited" or record.get("kind") != "process":
        return
    path = cluster.path("logs", f"{record['replica']}.log")
    with contextlib.suppress(OSError), path.open("a+b", buffering=0) as log:
        size = log.seek(0, os.SEEK_END)
        log.seek(max(0, size - 1))
        torn = log.read(1) not in (b"", b"\n")  # What was killed while it wrote a line.
        log.write(b"\n" * torn + text(record).encode() + b"\n")


class Farewells:
    """The ends of one replica's lives as the journal tells them, each once, in order."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._name = name
        path = cluster.path("events.jsonl")
        self._tail = journal.Tail(path)
        self._known = 0
        self._ends: deque[tuple[float, str]] = deque()
        for past in (journal.aside(path), path):
            self._take(journal.read(past))

    def forget_before(self, moment: float, but_last: bool) -> None:
        """Pass over what ended before `moment`; with `but_last`, the last of these stays."""
        while self._ends and self._ends[0][0] < moment and not (but_last and (len(self._ends) == 1 or self._ends[1][0] >= moment)):
            self._ends.popleft()

    def until(self, moment: float) -> Iterator[str]:
        """The lines of what had ended by `moment` (seconds since the epoch)."""
        while self._ends and self._ends[0][0] <= moment:
            yield self._ends.popleft()[1]

    def now(self) -> Iterator[str]:
        """Those of all that has ended, also since the last look at the journal."""
        self.look()
        yield from self.until(inf)

    def look(self) -> None:
        """Read what the journal has got since the last look."""
        self._take(self._tail.fresh())

    def _take(self, records: Iterable[journal.Record]) -> None:
        for record in records:
            if journal.number(record) <= self._known:
                continue
            self._known = journal.number(record)
            if record.get("event") == "replica_exited" and record.get("replica") == self._name:
                # By when it was noticed: the next life begins after that, and all that the former printed has arrived.
                self._ends.append((parse(str(record.get("at"))) or 0.0, text(record)))
