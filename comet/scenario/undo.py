"""Remembers what a scenario's steps drained, stopped and paused, and how that is undone.

A worker that the user had drained is drained again, where a step ended that. A pause that the user had ordered before
goes on for the time that it has left. A pause of a step that is over by then needs nothing: one that holds at the end
is the user's.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Order = tuple[str, dict[str, Any]]


class Undo:
    """What one scenario has to undo."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._orders: list[Order] = []
        self._drains: dict[str, str] = {}
        """The command that gives each worker back what it was before, by its name."""
        self._users_pause_ends = self._own_pause_ends = 0.0

    def changed_drain(self, command: str, name: str) -> None:
        """Note that a step has changed this with `drain` or `undrain`."""
        if self._drains.pop(name, None) != command:  # Else it is again what it was.
            self._drains[name] = "undrain" if command == "drain" else "drain"

    def stopped(self, name: str) -> None:
        self._add(("kill", {"name": name, "signal": "CONT"}))

    def paused(self, seconds: float, before: Mapping[str, Any]) -> None:
        """Note a pause of a step; `before` is the cluster's `total` from just before it."""
        now = self._clock()
        if before["paused"] and self._own_pause_ends <= now:
            left = before["paused_s"]
            self._users_pause_ends = math.inf if left is None else now + left
        self._own_pause_ends = now + seconds

    def resumed(self) -> None:
        self._users_pause_ends = self._own_pause_ends = 0.0

    def _add(self, order: Order) -> None:
        if order not in self._orders:
            self._orders.append(order)

    def orders(self) -> Iterator[Order]:
        """Yield the commands that undo it all."""
        yield from self._orders
        yield from ((command, {"name": name}) for name, command in self._drains.items())
        now = self._clock()
        if self._users_pause_ends > now:
            left = self._users_pause_ends - now
            yield "pause", {"for": None if math.isinf(left) else round(left, 3)}
        elif self._own_pause_ends > now:
            yield "resume", {}
