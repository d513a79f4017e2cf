"""Leases of faults: settings with a limit, as the supervisor writes them, and which of them are active.

A lease ends at `until`, in seconds of CLOCK_BOOTTIME of the boot with the id `boot-id`, or after `count`, the next N
requests. All load balancers share a count through a file, to which each appends a byte per request. With O_APPEND the
position of that byte is the number of the ticket (open(2)), so no two processes take the same ticket, and none is lost
when a process dies. A malformed value is ignored: the supervisor checks what users write.

Pure except for the ticket files.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from random import Random
from typing import Any

from fault_rules import Override, tickets_name
from lb.system.regular_files import opened

_ID = re.compile(r"[0-9A-Za-z\-]{1,64}").fullmatch


def decode(text: str) -> dict[str, Any]:
    """Return a file's JSON object; raise ValueError if it has none."""
    try:
        document = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")
    return document


def overrides(
    document: Mapping[str, Any], values: Callable[[Mapping[str, Any]], dict[str, Any]]
) -> tuple[Override, ...]:
    """Return the leases of a document, with the valid `values` of each."""
    given = document.get("overrides")
    listed = [each for each in given if isinstance(each, dict)] if isinstance(given, list) else []
    return tuple(_override(number, each, values(each)) for number, each in enumerate(listed))


def is_number(value: Any) -> bool:
    """Return whether this is a finite number; the bounds also exclude integers that are too large for a float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e15 < value < 1e15


def _override(number: int, lease: Mapping[str, Any], values: dict[str, Any]) -> Override:
    until, count, boot = lease.get("until"), lease.get("count"), lease.get("boot-id")
    return Override(
        id=_identity(lease.get("id"), number),
        values=values,
        until=until if is_number(until) else None,
        count=count if isinstance(count, int) and not isinstance(count, bool) else None,
        boot_id=None if boot is None else str(boot),
    )


def _identity(given: Any, number: int) -> str:
    """Return a lease's id if it is safe as part of a file name, else its number."""
    return given if isinstance(given, str) and _ID(given) is not None else str(number)


class Leases:
    """Says which leases of one name are active, and takes their tickets.

    `tickets` returns the path of the folder with the ticket files.
    """

    def __init__(self, name: str, tickets: Callable[[], str], boot_id: str) -> None:
        self._name = name
        self._tickets = tickets
        self._boot_id = boot_id
        self._spent: set[str] = set()

    def active(self, given: Iterable[Override], now: float) -> list[Override]:
        """Return the leases that have not ended; `now` is in seconds of CLOCK_BOOTTIME."""
        return [each for each in given if self._is_active(each, now)]

    def _is_active(self, item: Override, now: float) -> bool:
        of_this_boot = item.boot_id is None or item.boot_id == self._boot_id
        return of_this_boot and (item.until is None or now < item.until) and item.id not in self._spent

    def take(self, item: Override) -> bool:
        """Take one of the lease's tickets, if it has a count; return False if none is left."""
        if item.count is None:
            return True
        path = os.path.join(self._tickets(), tickets_name(self._name, item.id))
        try:
            file = opened(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        except OSError:
            return False
        try:
            os.write(file, b"x")
            number = os.lseek(file, 0, os.SEEK_CUR)
        except OSError:
            return False
        finally:
            os.close(file)
        if number >= item.count:
            self._spent.add(item.id)
        return number <= item.count


class Draws:
    """Uniform numbers for one stream of requests: by chance, or repeatable where there is a seed.

    With a seed the n-th request gets the n-th numbers, whatever else is set. `stream` keeps the streams of several load
    balancers and workers apart.
    """

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self._begun: Any = None
        self._random = Random()

    def begin(self, seed: int | None, lease: str = "") -> None:
        """Begin again, if another seed, or the same in another lease, applies from now on."""
        if (seed, lease) != self._begun:
            self._begun = seed, lease
            self._random = Random() if seed is None else Random(f"{seed} {self._stream}")

    def next(self) -> float:
        return self._random.random()
