"""Follows in the journal how long killed replicas take to be ready again.

A replica that ends because a command stops, replaces or scales it does not die: only an exit that nobody ordered is a
death. A command may also end a replica that is dead; its death then has no recovery.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from comet.common.clock import parse
from comet.events import journal


@dataclass
class _Kill:
    """A kill: when the replica died of it, and the milliseconds until it was ready again, where that is known.

    `stopped`: a command has stopped the replica before it was ready again.
    """

    name: str
    died: float | None = None
    recovery_ms: float | None = None
    stopped: bool = False


class Deaths:
    """The kills of replicas, and their recoveries, in order."""

    def __init__(self, tail: journal.Tail) -> None:
        self._tail = tail
        self._kills: list[_Kill] = []

    @contextlib.contextmanager
    def killing(self, name: str) -> Iterator[None]:
        """Kill a replica in this block; where it raises, nothing was killed."""
        self._read()  # An earlier crash is not of this kill.
        yield
        self._kills.append(_Kill(name))

    def forget(self) -> None:
        """Begin again, for another step; what is still away then counts there no more."""
        self._read()
        self._kills.clear()

    def recoveries(self) -> list[tuple[str, float | None]]:
        """Return each kill's replica with the milliseconds from its death until it was ready; None: it is not yet."""
        self._read()
        return [(each.name, each.recovery_ms) for each in self._kills if not each.stopped]

    def stopped(self) -> list[str]:
        """Return the killed replicas that a command has stopped before they were ready again."""
        self._read()
        return list(dict.fromkeys(each.name for each in self._kills if each.stopped))

    def _read(self) -> None:
        for record in self._tail.fresh():
            away = [each for each in self._kills if each.name == record.get("replica") and each.recovery_ms is None]
            at = parse(str(record.get("at"))) or 0.0
            if record["event"] == "replica_exited" and not record.get("ordered"):
                for each in away:
                    if each.died is None:
                        each.died, each.stopped = parse(str(record.get("died_at"))) or at, False
            elif record["event"] == "replica_stopped":
                for each in away:
                    each.stopped = True
            elif record["event"] == "replica_ready":
                _note_ready([each for each in away if each.died is not None], at, record.get("timeline_ms") or {})


def _note_ready(away: list[_Kill], at: float, steps: dict[str, float]) -> None:
    """Note that a replica is ready; `steps` are those since its first death, none where it is a new one's first start.

    Two replicas have one name while one takes over from the other: the stop of the former ends no recovery of the
    latter. A new replica in place of a stopped one is no recovery.
    """
    for each in away:
        if not each.stopped or steps:
            since = (at - (each.died or at)) * 1000
            each.recovery_ms = float(steps.get("ready", since)) if each.died == away[0].died else since
            each.stopped = False
