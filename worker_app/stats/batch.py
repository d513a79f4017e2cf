"""Defines what one transaction adds to a worker's row (pure).

A `Record` is one answered request; a `Batch` is the sum of many. Requests without a response (hang, reset) and
connections that were found closed have no record: they change the side counters alone, never the totals of
`/worker/stats`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from worker_app.stats.latency import bucket_of


@dataclass(frozen=True, slots=True)
class Record:
    """One request to be counted.

    `duration_us` is its time in the worker, from its last byte received to its response made. `id` is the request id to
    store with it; None stores no id.
    """

    failed: bool
    duration_us: int
    unplanned: bool = False
    injected: tuple[str, ...] = ()
    id: str | None = None


@dataclass(slots=True)
class Batch:
    """Sums over records and side counters; an empty batch needs no transaction."""

    successful: int = 0
    failed: int = 0
    unplanned: int = 0
    disconnected: int = 0
    duration_us: int = 0
    buckets: Counter[int] = field(default_factory=Counter)
    injections: Counter[str] = field(default_factory=Counter)
    requests: list[tuple[str, bool]] = field(default_factory=list)  # pairs of id and whether the request failed

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


def batch_of(records: Iterable[Record], notes: Batch | None = None) -> Batch:
    """Return the sum of the records, plus the side counters of `notes`."""
    result = Batch()
    if notes is not None:
        result.disconnected = notes.disconnected
        result.injections.update(notes.injections)
    for record in records:
        result.add(record)
    return result
