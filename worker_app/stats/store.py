"""Defines what the commit queue needs from a database; each dialect has one implementation.

After `commit` returns, the batch survives the death of any process. After it raises `NotCommitted`, the batch has left
no trace. After it raises `Undecided`, only `verify` knows the outcome. No other exception leaves it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from worker_app.stats.batch import Batch
from worker_app.stats.rows import StatsRow

ChooseName = Callable[[set[str]], str]
"""Returns the name of a worker's row, given the names of the existing rows."""


class Store(Protocol):
    """Writes the row of one worker; used by one thread at a time. `name` is the row's name, set by `open`."""

    name: str

    def open(self) -> None:
        """Prepare the database and register the worker; raise WorkerError with a one-line reason."""

    def commit(self, batch: Batch) -> None:
        """Commit the batch in one transaction; wait at most a fraction of a second for other writers."""

    def try_commit(self, batch: Batch) -> bool:
        """Commit the batch if that needs no waiting for other writers or a network; raise only `Undecided`.

        Return False if it left no trace: the caller then uses `commit`.
        """

    def maintenance_due(self) -> bool:
        """Return whether `tick` is to be called soon although the worker is not idle."""

    def verify(self) -> bool:
        """Return whether the commit that raised `Undecided` took effect; raise `Undecided` while that is unknown."""

    def replaced(self) -> bool:
        """Return whether the database of the last commit is no longer the one at its address."""

    def reopen(self) -> None:
        """Reconnect, recreate a missing database, and register the worker; NotCommitted: not possible now."""

    def tick(self, now: float) -> None:
        """Keep the worker's row present and `updated` recent; called every second and when maintenance is due."""

    def close(self) -> None: ...


class StatsReader(Protocol):
    """Reads the rows of all workers."""

    def rows(self) -> list[StatsRow]:
        """Return all workers in order of first start; raise NotCommitted if the database does not respond."""

    def close(self) -> None: ...
