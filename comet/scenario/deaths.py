"""Follows in the journal how long killed replicas take to be ready again."""

from comet.common.clock import parse
from comet.events import journal


class Deaths:
    """The deaths that were ordered, and their recoveries, in order."""

    def __init__(self, tail: journal.Tail) -> None:
        self._tail = tail
        self._ordered: list[str] = []
        self._died: dict[str, float] = {}
        self._back: list[tuple[str, float]] = []

    def expect(self, name: str) -> None:
        """Note that a replica was killed."""
        self._ordered.append(name)

    def forget(self) -> None:
        """Begin again, for another step; what is still away then counts there no more."""
        self._read()
        self._ordered.clear()
        self._back.clear()

    def recoveries(self) -> list[tuple[str, float | None]]:
        """Return each killed replica with the milliseconds from its death until it was ready; None: it is not yet."""
        self._read()
        left = list(self._back)
        found: list[tuple[str, float | None]] = []
        for name in dict.fromkeys(self._ordered):
            mine = [ms for other, ms in left if other == name]
            found += [(name, ms) for ms in mine]
            if name in self._died or not mine:
                found.append((name, None))
        return found

    def _read(self) -> None:
        for record in self._tail.fresh():
            name, at = str(record.get("replica")), parse(str(record.get("at"))) or 0.0
            if record["event"] == "replica_exited":
                self._died[name] = parse(str(record.get("died_at"))) or at
            elif record["event"] == "replica_ready" and name in self._died:
                steps = record.get("timeline_ms") or {}
                since = (at - self._died.pop(name)) * 1000
                self._back.append((name, float(steps.get("ready", since))))
