"""Manages the deadlines of many connections with one coarse timer.

An entry only stores `deadline`. To move it later costs nothing, because the wheel checks it again when its slot is due.
To move it earlier is safe down to `reach` seconds ahead, because every entry is checked at least that often. So an
exchange sets its deadlines by plain assignment, and 10,000 idle connections cost one check each per `reach`. A nearer
deadline, which is rare, needs a call of `schedule_earlier`.
"""

import asyncio
from time import monotonic
from typing import Final, Protocol

TICK: Final = 0.1
"""Seconds per slot."""

UNSCHEDULED: Final = -1
"""Slot of an entry that is not on the wheel."""

_NEVER: Final = 1 << 60
"""Slot that is never due."""

_CHECKING: Final = 0
"""Slot of an entry that is being checked."""


class Entry(Protocol):
    """An entry of the wheel, which alone uses `slot`; `expire` is called after `deadline` (time.monotonic())."""

    deadline: float
    slot: int

    def expire(self, now: float) -> None:
        """Handle the passed deadline; a new deadline, also `inf`, keeps the entry on the wheel."""


class TimerWheel:
    """The timer; `reach` is the shortest timeout in use, in seconds."""

    def __init__(self, loop: asyncio.AbstractEventLoop, reach: float) -> None:
        self._loop = loop
        self.reach = reach
        self._slots: dict[int, set[Entry]] = {}
        self._handle: asyncio.TimerHandle | None = None
        self._next = _NEVER  # the slot that the timer is set for

    def add(self, entry: Entry, now: float) -> None:
        """Check the deadline of `entry` until `remove`."""
        entry.slot = self.place(entry, entry.deadline, now)

    def place(self, entry: Entry, deadline: float, now: float) -> int:
        """Do as `add` for an entry that reads and sets its own attributes, which costs less; return its slot."""
        slot = int(min(max(deadline, now), now + self.reach) / TICK) + 1
        entries = self._slots.get(slot)
        if entries is None:
            self._slots[slot] = {entry}
            if slot < self._next:
                self._schedule(slot, now)
        else:
            entries.add(entry)
        return slot

    def schedule_earlier(self, entry: Entry, now: float) -> None:
        """Check `entry` in time for a deadline that may be nearer than `reach`."""
        if entry.slot > 0 and entry.deadline < entry.slot * TICK:
            self.remove(entry)
            self.add(entry, now)

    def remove(self, entry: Entry) -> None:
        """Stop checking `entry`."""
        self.take_out(entry, entry.slot)
        entry.slot = UNSCHEDULED

    def take_out(self, entry: Entry, slot: int) -> None:
        """Do as `remove` for an entry that reads and sets its own attributes."""
        entries = self._slots.get(slot)
        if entries is not None:
            entries.discard(entry)

    def close(self) -> None:
        """Stop the timer."""
        if self._handle is not None:
            self._handle.cancel()
        self._next = _NEVER
        self._slots.clear()

    def _schedule(self, slot: int, now: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._next = slot
        self._handle = self._loop.call_later(max(slot * TICK - now, 0.0) + 0.001, self._check_due)

    def _check_due(self) -> None:
        self._next = _NEVER
        now = monotonic()
        reached = int(now / TICK)
        for slot in sorted(slot for slot in self._slots if slot <= reached):
            for entry in self._slots.pop(slot):
                if entry.slot == slot:  # The expiry of another entry may have removed it.
                    entry.slot = _CHECKING
                    if entry.deadline <= now:
                        entry.expire(now)
                    if entry.slot == _CHECKING:
                        self.add(entry, now)
        self._slots = {slot: entries for slot, entries in self._slots.items() if entries}
        if self._slots and (first := min(self._slots)) < self._next:
            self._schedule(first, now)
