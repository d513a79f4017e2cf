"""Reports the end of leases. The workers end them; the supervisor only says so, once, within a second.

A lease that is withdrawn has no end of its own: `faults_changed` says that. One that is limited by a number of requests
ends in the worker, which alone knows when.
"""

from collections.abc import Callable, Mapping
from typing import Any

from comet.events.event import Event
from comet.faults.orders import Lease, Moment, Ordered, is_active


class LeaseWatch:
    """Remembers the leases that are effective; `notify` gets an event for each that has ended since the last look."""

    def __init__(self, notify: Callable[[Event], None]) -> None:
        self._notify = notify
        self._effective: set[str] = set()

    def look(self, ordered: Mapping[str, Ordered], moment: Moment) -> None:
        """Report what has ended. Orders keep a lease beyond its end until the next change, so it is found here."""
        leases: dict[str, tuple[Lease, list[str]]] = {}
        for name, each in ordered.items():
            for lease in each.leases:
                leases.setdefault(lease.id, (lease, []))[1].append(name)
        for identity, (lease, names) in leases.items():
            if is_active(lease, moment):
                self._effective.add(identity)
            elif identity in self._effective:
                self._effective.discard(identity)
                self._notify(Event("faults_ended", names[0] if len(names) == 1 else None, _fields(lease, names)))
        self._effective &= leases.keys()


def _fields(lease: Lease, names: list[str]) -> dict[str, Any]:
    owner = {} if lease.owner is None else {"scenario": lease.owner}
    return {"workers": names, "settings": dict(lease.settings), **owner}
