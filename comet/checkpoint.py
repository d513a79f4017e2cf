"""The counts of deaths and returns, kept for the supervisor after this one: what is scraped as a counter must never go back.

The journal is the log of all that is counted, `.comet/run/recoveries.json` a checkpoint: the counts, and the number of the last record
that is in them. A successor reads the checkpoint and counts the records after it. So most deaths cost no write of their own: a checkpoint
is made at the start, every EVERY records, and when records were lost to a full disk. As of state.json there is a spare copy; where both
are missing or broken the counts begin anew. They end with the cluster, like the load balancers' counters beside them.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from comet.cluster import write_atomically
from comet.journal import RECENT, Record, number
from comet.recoveries import Recoveries

VERSION = 1

NAME = "recoveries.json"

EVERY = RECENT // 4
"""Records between two checkpoints: never more than the journal has at hand when a successor reads it."""


class Checkpoint:
    """The counts of one cluster, in `folder`. `damage` tells what kept the file from being understood."""

    def __init__(self, folder: Path) -> None:
        self._paths = (folder / NAME, folder / f"{NAME}.spare")
        self._after = 0
        self._latest = 0
        self.recoveries = Recoveries()
        self.damage: str | None = None
        self.due = True
        """Whether it is time to write."""

    def restore(self, journal: Iterable[Record]) -> None:
        """Go on where an earlier supervisor ended, by the checkpoint and what the journal has of the time after it. Of a cluster
        without a checkpoint nothing is known; the journal may tell of others that were in this folder before."""
        records, known = list(journal), self._read()
        for record in records if known else ():
            if number(record) > self._after:
                self.recoveries.add(record)
        # A journal that was lost, or its end, counts anew: then this is less than what the checkpoint had.
        self._latest = max(map(number, records), default=0)

    def add(self, record: Record) -> None:
        """Count one more record of the journal."""
        self.recoveries.add(record)
        self._latest = number(record)
        self.due = self.due or self._latest - self._after >= EVERY or "lost_events" in record

    def write(self) -> None:
        """OSError where the disk is full; it stays due then."""
        content = json.dumps({"version": VERSION, "number": self._latest, **self.recoveries.kept()}, separators=(",", ":")) + "\n"
        for path in reversed(self._paths):  # The spare one is never older.
            write_atomically(path, content)
        self._after, self.due = self._latest, False

    def _read(self) -> bool:
        for path in self._paths:
            try:
                content = json.loads(path.read_text())
                self._take(content)
                return True
            except FileNotFoundError:
                continue
            except OSError as error:
                self.damage = self.damage or error.strerror
            except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError):
                self.damage = self.damage or "not understood"
        return False

    def _take(self, content: dict[str, Any]) -> None:
        if content["version"] != VERSION:
            raise ValueError("another version's")
        restored = Recoveries.restored(content)
        self._after = self._latest = int(content["number"])
        self.recoveries = restored
