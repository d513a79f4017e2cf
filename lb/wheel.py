"""Deadlines of many connections on one coarse timer.

An entry only stores `deadline`; moving it later costs nothing, because the wheel looks again when its slot comes up. Moving it
earlier is safe down to `reach` seconds ahead: no entry is left unseen for longer. So an exchange sets its deadlines by plain
assignment, and 10,000 idle connections cost one look each per `reach`. The rare nearer deadline is announced by `hasten`.
"""

import asyncio
from time import monotonic
from typing import Final, Protocol

TICK: Final = 0.1
_NOWHERE: Final = -1
_NEVER: Final = 1 << 60
_BETWEEN: Final = 0


class Entry(Protocol):
    """What the wheel holds. `slot` is the wheel's own; `expire` is called when `deadline` (time.monotonic) has passed."""

    deadline: float
    slot: int

    def expire(self, now: float) -> None:
        """Act; a deadline set anew keeps the entry on the wheel, `inf` too."""


class Wheel:
    """The timer. `reach` is the shortest timeout in use, seconds."""

    def __init__(self, loop: asyncio.AbstractEventLoop, reach: float) -> None:
        self._loop = loop
        self.reach = reach
        self._slots: dict[int, set[Entry]] = {}
        self._handle: asyncio.TimerHandle | None = None
        self._next = _NEVER  # the slot that the timer is set for

    def add(self, entry: Entry, now: float) -> None:
        """Watch `entry` from now on, until `remove`."""
        slot = int(min(max(entry.deadline, now), now + self.reach) / TICK) + 1
        entry.slot = slot
        entries = self._slots.get(slot)
        if entries is None:
            self._slots[slot] = {entry}
            if slot < self._next:
                self._schedule(slot, now)
        else:
            entries.add(entry)

    def hasten(self, entry: Entry, now: float) -> None:
        """Watch `entry` in time for a deadline that may be nearer than `reach`."""
        if entry.slot > 0 and entry.deadline < entry.slot * TICK:
            self.remove(entry)
            self.add(entry, now)

    def remove(self, entry: Entry) -> None:
        """Watch `entry` no longer."""
        entries = self._slots.get(entry.slot)
        if entries is not None:
            entries.discard(entry)
        entry.slot = _NOWHERE

    @property
    def resting(self) -> bool:
        """Say that no timer is set: nothing is watched."""
        return self._next == _NEVER

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
        self._handle = self._loop.call_later(max(slot * TICK - now, 0.0) + 0.001, self._turn)

    def _turn(self) -> None:
        self._next = _NEVER
        now = monotonic()
        reached = int(now / TICK)
        for slot in sorted(slot for slot in self._slots if slot <= reached):
            for entry in self._slots.pop(slot):
                if entry.slot == slot:  # Not removed by the expiry of another one.
                    entry.slot = _BETWEEN
                    if entry.deadline <= now:
                        entry.expire(now)
                    if entry.slot == _BETWEEN:
                        self.add(entry, now)
        self._slots = {slot: entries for slot, entries in self._slots.items() if entries}
        if self._slots and (first := min(self._slots)) < self._next:
            self._schedule(first, now)
