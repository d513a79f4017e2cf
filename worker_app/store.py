"""What every database must do for the ledger; one implementation per dialect.

Rule: after `commit` returns, the tally is durable against the death of any process; when it raises `NotCommitted`, it surely
left no trace; when it raises `Undecided`, only `verify` knows. Nothing else may come out of it.
"""

from __future__ import annotations

from typing import Protocol

from worker_app.stats import StatsRow
from worker_app.tally import Tally


class Store(Protocol):
    """A connection that writes one worker's row; used by one thread at a time. `name` is the row's, known from `open` on."""

    name: str

    def open(self) -> None:
        """Prepare the database and register the worker. WorkerError: one line that says why not."""

    def commit(self, tally: Tally) -> None:
        """One transaction. Waits at most a fraction of a second for other writers."""

    def commit_at_once(self, tally: Tally) -> bool:
        """One transaction, if it needs no waiting for other writers or a network; False: it left no trace, and `commit` is the way.
        Raises `Undecided` alone."""

    def upkeep_due(self) -> bool:
        """Whether `tick` should be called soon although the worker is not idle."""

    def verify(self) -> bool:
        """Whether the commit that ended in `Undecided` took. Raises `Undecided` while that cannot be told."""

    def replaced(self) -> bool:
        """Whether the database that the last commit went to is no longer the one at its address."""

    def reopen(self) -> None:
        """Connect anew, making the database anew if need be, and register the worker there. NotCommitted: not possible now."""

    def tick(self, now: float) -> None:
        """Called about once a second, and when upkeep is due: keeps the worker's row present and its `updated` fresh."""

    def close(self) -> None: ...


class StatsReader(Protocol):
    def rows(self) -> list[StatsRow]:
        """All workers in order of first start. NotCommitted: the database does not answer."""

    def close(self) -> None: ...
