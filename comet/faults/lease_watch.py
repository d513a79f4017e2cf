"""Reports the end of leases. Workers and load balancers end them; the supervisor only says so, once.

A lease that is withdrawn has no end of its own: `faults_changed` says that. A lease with a count ends for each worker
by itself. What ended before the supervisor began, or was not known to be effective since, is not reported.
"""

from collections.abc import Callable, Mapping
from typing import Any

from comet.events.event import Event
from comet.faults.orders import BootTime, CountsLeft, Lease, Ordered, is_effective


class LeaseWatch:
    """Remembers the leases that are effective; `notify` gets an event for each that has ended since the last look."""

    def __init__(self, notify: Callable[[Event], None]) -> None:
        self._notify = notify
        self._began: BootTime | None = None
        self._effective: set[tuple[str, str]] = set()
        self._ended: set[tuple[str, str]] = set()

    def look(self, ordered: Mapping[str, Ordered], now: BootTime, left: CountsLeft) -> None:
        """Report what has ended; `left` is what remains of counts.

        Orders keep a lease beyond its end until the next change, so it is found here.
        """
        began = self._began = self._began or now
        targets: dict[str, list[str]] = {}
        leases: dict[str, Lease] = {}
        over: dict[str, list[str]] = {}
        for name, each in ordered.items():
            for lease in each.leases:
                key = name, lease.id
                leases[lease.id] = lease
                targets.setdefault(lease.id, []).append(name)
                # What was ordered since the beginning was effective, whether or not a look was in time to find it so.
                is_own = lease.boot_id == began.boot_id and lease.since >= began.seconds
                if is_effective(name, lease, now, left):
                    if key not in self._ended and (is_own or lease.count is None or key in left):
                        self._effective.add(key)
                elif key in self._effective or (is_own and key not in self._ended):
                    self._effective.discard(key)
                    self._ended.add(key)
                    over.setdefault(lease.id, []).append(name)
        known = {(name, identity) for identity, names in targets.items() for name in names}
        self._effective &= known
        self._ended &= known
        for identity, names in over.items():
            for group in [names] if names == targets[identity] else [[name] for name in names]:
                fields = _fields(leases[identity], group)
                self._notify(Event("faults_ended", group[0] if len(group) == 1 else None, fields))


def _fields(lease: Lease, names: list[str]) -> dict[str, Any]:
    owner = {} if lease.owner is None else {"scenario": lease.owner}
    return {"workers": names, "settings": dict(lease.settings), **owner}
