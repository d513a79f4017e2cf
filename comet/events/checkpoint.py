"""The checkpoint of the restart history, for the next supervisor: a metric that is a counter must never decrease.

The journal logs everything that is counted; `.comet/run/recoveries.json` is a checkpoint with the counts and the number
of the last record in them. The next supervisor reads the checkpoint and counts the records after it. So most deaths
cost no write: a checkpoint is written at the start, every RECORDS_PER_CHECKPOINT records, and when records were lost to
a full disk. Where it is missing or broken the counts begin at zero. They end with the cluster.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from comet.common.errors import os_error_text
from comet.common.json_values import decode, mapping, require_shape
from comet.events.journal import RECENT, Record, number
from comet.events.restart_history import RestartHistory
from comet.host import files

VERSION = 1

NAME = "recoveries.json"

RECORDS_PER_CHECKPOINT = RECENT // 4
"""Records between two checkpoints; never more than the next supervisor finds in the journal."""


class Checkpoint:
    """The counts of one cluster, in `folder`. `damage` is why the file could not be read, if so."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._after = 0
        self._latest = 0
        self.recoveries = RestartHistory()
        self.damage: str | None = None
        self.due = True
        """Whether a checkpoint should be written."""

    def restore(self, journal: Iterable[Record]) -> None:
        """Continue the counts of an earlier supervisor, from the checkpoint and the later records of the journal.

        Without a checkpoint the counts begin at zero: the journal may be of an earlier cluster in this folder.
        """
        records, known = list(journal), self._read()
        for record in records if known else ():
            if number(record) > self._after:
                self.recoveries.add(record)
        # A journal that was lost begins at 1 again: then this is less than the number in the checkpoint.
        self._latest = max(map(number, records), default=0)

    def add(self, record: Record) -> None:
        """Count one more record of the journal."""
        self.recoveries.add(record)
        self._latest = number(record)
        self.due = self.due or self._latest - self._after >= RECORDS_PER_CHECKPOINT or "lost_events" in record

    def write(self) -> None:
        """Write the checkpoint; OSError if the disk is full (it then stays due)."""
        content = (
            json.dumps({"version": VERSION, "number": self._latest, **self.recoveries.kept()}, separators=(",", ":"))
            + "\n"
        )
        files.write(self._path, content)
        self._after, self.due = self._latest, False

    def _read(self) -> bool:
        try:
            self._restore_content(mapping(decode(files.read(self._path))))
        except FileNotFoundError:
            return False
        except (OSError, ValueError) as error:
            self.damage = os_error_text(error) if isinstance(error, OSError) else "not understood"
            return False
        return True

    def _restore_content(self, content: dict[str, Any]) -> None:
        if content.get("version") != VERSION:
            raise ValueError("another version's")
        restored = RestartHistory.restored(require_shape(content, {"number": int}))
        self._after = self._latest = int(content["number"])
        self.recoveries = restored
