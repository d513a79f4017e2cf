"""What one transaction adds to a worker's row (pure).

A `Record` is one answered request; a `Tally` is the sum of many. Requests that get no answer (hang, reset) and connections that
were found dead are no records: they change the side counters alone, never the contract's totals.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from worker_app.latency import bucket_of


@dataclass(frozen=True, slots=True)
class Record:
    """One request to be counted. `duration_us` is its time in the worker, from its last byte read to its answer made. `id` is what it is
    kept by, one by one; None: not at all."""

    failed: bool
    duration_us: int
    unplanned: bool = False
    injected: tuple[str, ...] = ()
    id: str | None = None


@dataclass(slots=True)
class Tally:
    """Sums over records and notes; empty means that nothing needs to be written."""

    successful: int = 0
    failed: int = 0
    unplanned: int = 0
    disconnected: int = 0
    duration_us: int = 0
    buckets: Counter[int] = field(default_factory=Counter)
    injections: Counter[str] = field(default_factory=Counter)
    requests: list[tuple[str, bool]] = field(default_factory=list)  # id, and whether it failed

    def add(self, record: Record) -> None:
        if record.failed:
            self.failed += 1
            self.unplanned += record.unplanned
        else:
            self.successful += 1
        self.duration_us += record.duration_us
        self.buckets[bucket_of(record.duration_us)] += 1
        for kind in record.injected:
            self.injections[kind] += 1
        if record.id is not None:
            self.requests.append((record.id, record.failed))

    def empty(self) -> bool:
        return not (self.buckets or self.disconnected or self.injections)


def tally(records: Iterable[Record], notes: Tally | None = None) -> Tally:
    """The sum of the records, on top of `notes` (side counters that belong to no record)."""
    result = Tally()
    if notes is not None:
        result.disconnected = notes.disconnected
        result.injections.update(notes.injections)
    for record in records:
        result.add(record)
    return result
