"""Says how many requests each counted lease still applies to.

Load balancers count in a file that they share, one byte for each request (`lb.faults.leases`). A worker counts in its
memory. It says what is left in its answer to health checks, and the load balancers pass that on: an upper bound that is
as old as the last check. What a worker says concerns its own leases and is only shown; no order depends on it.
"""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from comet.config.fault_settings import FRONT
from comet.faults.orders import CountsLeft, Ordered
from fault_rules import tickets_name


class Counts:
    """What workers have said of their counted leases, and what is left of all."""

    def __init__(self) -> None:
        self._reported: dict[tuple[str, str], int] = {}

    def report(self, reported: Mapping[str, Mapping[str, int]]) -> None:
        """Note numbers by worker and lease. They only fall: the lowest one is the latest, whichever check it is of."""
        for worker, numbers in reported.items():
            for lease, number in numbers.items():
                key = (worker, lease)
                self._reported[key] = min(number, self._reported.get(key, number))

    def left(self, ordered: Mapping[str, Ordered], fault_point: str, tickets: Path) -> CountsLeft:
        """Return what is left by target and lease, as far as it is known, and forget leases that are not ordered.

        `tickets` is the folder in which the load balancers count.
        """
        counts = {
            (name, lease.id): lease.count
            for name, each in ordered.items()
            for lease in each.leases
            if lease.count is not None
        }
        self._reported = {key: number for key, number in self._reported.items() if key in counts}
        found: dict[tuple[str, str], int] = {}
        for key, count in counts.items():
            if key[0] == FRONT or fault_point == "lb":
                taken = _size(tickets / tickets_name(*key))
                number = None if taken is None else count - taken
            else:
                number = self._reported.get(key) if fault_point == "worker" else None
            if number is not None:
                found[key] = min(max(number, 0), count)
        return found


def _size(path: Path) -> int | None:
    """Return the size of a ticket file, 0 where there is none; None for what is no such file."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return 0
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
