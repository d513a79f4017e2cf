"""Reads the events of a running cluster from its journal, and waits for one.

A command marks its place among the events (`mark`), and a wait begins at the last mark. So an event that the command
causes is found, even if it came before the wait, and never an older one.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

from comet.common.errors import UserError
from comet.common.values import shown
from comet.common.wording import hint
from comet.events import journal
from comet.events.event import NAMES, line, visible
from comet.state.directory import Cluster

Event = dict[str, Any]
"""An event as in `.comet/events.jsonl`: `at`, `event`, `number`, and the fields of its kind (docs/api.md)."""

POLL_PAUSE = 0.01
"""Seconds between two looks at the journal."""

QUOTED = 12
"""Events that the error of a wait quotes."""


class EventLog:
    """The events of one cluster since this object was made."""

    def __init__(self, cluster: Cluster) -> None:
        self._tail = journal.Tail(cluster.path("events.jsonl"))
        self._records: list[Event] = []
        self._mark = 0

    def read(self) -> list[Event]:
        """Return all events so far."""
        self._records += self._tail.fresh()
        return list(self._records)

    @property
    def last_number(self) -> int:
        """The number of the last mark's event."""
        return self._mark

    def mark(self) -> None:
        """Let later waits begin here."""
        records = self.read()
        self._mark = journal.number(records[-1]) if records else self._mark

    def wait(self, matches: Callable[[Event], bool], what: str, timeout: float, since: int | None) -> Event:
        """Return the first event after the last mark, or after the event number `since`, that matches.

        Raise TimeoutError with the last events if none comes within `timeout` seconds.
        """
        after, deadline = self._mark if since is None else since, time.monotonic() + timeout
        while True:
            for record in self.read():
                if journal.number(record) > after and matches(record):
                    return record
            if time.monotonic() > deadline:
                last = "".join(f"\n  {line(record)}" for record in self._records[-QUOTED:])
                raise TimeoutError(f"no event {what} within {timeout:g} s; the last events were:{last or ' none'}")
            time.sleep(POLL_PAUSE)


def require_known(event: str) -> None:
    """Raise UserError for a name that no event has: one that is waited for would never come."""
    if event not in NAMES:
        raise UserError(f"{visible(str(event))}: no event has this name ({hint(str(event), sorted(NAMES))})")


def event_number(since: Event | int | None) -> int | None:
    """Return the number after which a wait begins; UserError for what is no event and no number."""
    number = since.get("number") if isinstance(since, dict) else since
    if isinstance(number, bool) or not isinstance(number, int | None) or (isinstance(since, dict) and number is None):
        raise UserError(f"wait_for: since: {shown(since)} is neither an event nor its number")
    return number


def require_seconds(method: str, timeout: float) -> None:
    """Raise UserError for a timeout that is no number from 0."""
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout >= 0:
        raise UserError(f"{method}: timeout: {shown(timeout)} is not usable (allowed: seconds from 0)")


def named(event: str, fields: Mapping[str, Any]) -> tuple[Callable[[Event], bool], str]:
    """Return whether an event has this name and these fields, and a description of that; None fields do not matter."""
    wanted = {"event": event, **{name: value for name, value in fields.items() if value is not None}}
    what = " ".join([event, *(f"{name}={value}" for name, value in wanted.items() if name != "event")])
    return lambda record: all(record.get(name) == value for name, value in wanted.items()), what
