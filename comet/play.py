"""Playing a scenario on the running cluster: orders go through its supervisor, clients come from here.

Every fault is a lease that is no longer than its step, so that it ends even if this process is killed; when the play is over, for
whatever reason but that, they are withdrawn at once.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from comet.cluster import Cluster
from comet.control import call
from comet.crowd import Book, Crowd, total
from comet.errors import UserError
from comet.faults import Change
from comet.scenario import Scenario, Step

BREAKS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

OVERLAP = 1.0
"""Seconds that a step's lease outlasts it, so that no gap opens before it is withdrawn."""


@dataclass
class Play:
    """One run of a scenario: what came of it is in `report`, also when it was broken off."""

    scenario: Scenario
    cluster: Cluster
    addresses: list[tuple[str, int]]
    workers: list[str]
    tell: Callable[[str], None]
    interrupted: int | None = None
    _books: list[tuple[Step, float, Book]] = field(default_factory=list)
    _owner: str = ""
    _ordered: bool = False
    _complete: bool = False

    def run(self) -> None:
        """Play it to its end, or until one of BREAKS (`interrupted` is its number then). UserError: the supervisor cannot be had."""
        name = os.path.basename(self.scenario.file)
        self._owner = f"{name} (PID {os.getpid()})"
        asyncio.run(self._run())

    def report(self) -> dict[str, Any]:
        """What clients saw, by step and in total."""
        steps = [{"step": step.name, "seconds": round(lasted, 1), **book.as_dict()} for step, lasted, book in self._books]
        seconds = round(sum(lasted for _, lasted, _ in self._books), 1)
        whole = {"seconds": seconds, **total([book for _, _, book in self._books]).as_dict()}
        return {
            "scenario": os.path.basename(self.scenario.file),
            "description": self.scenario.description,
            "complete": self._complete,
            "steps": steps,
            "total": whole,
        }

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        playing = loop.create_task(self._steps())

        def break_off(number: int) -> None:
            self.interrupted = number
            playing.cancel()
            for each in BREAKS:  # A second one ends us at once; the leases see to the rest.
                loop.remove_signal_handler(each)

        for number in BREAKS:
            loop.add_signal_handler(number, break_off, number)
        with contextlib.suppress(asyncio.CancelledError):
            await playing

    async def _steps(self) -> None:
        crowd = Crowd(self.addresses, self.scenario.path, self.scenario.timeout)
        try:
            for number, step in enumerate(self.scenario.steps, 1):
                self.tell(f"step {number} of {len(self.scenario.steps)}: {step.name} ({step.seconds:g} s)")
                await self._step(step, crowd)
            self._complete = True
        finally:
            # Faults first, so that what hangs on them may end.
            await asyncio.to_thread(self._withdraw)
            if self.interrupted is None:
                await crowd.disperse()
            crowd.end()

    async def _step(self, step: Step, crowd: Crowd) -> None:
        began = time.monotonic()
        book = crowd.gather(step.clients, step.pause)
        self._books.append((step, 0.0, book))
        try:
            beginning = asyncio.ensure_future(asyncio.to_thread(self._begin, step, began))
            try:
                await asyncio.shield(beginning)
            finally:
                await beginning  # Broken off or not: an order that is under way must not come after its withdrawal.
            await asyncio.sleep(max(0.0, began + step.seconds - time.monotonic()))
        finally:
            self._books[-1] = (step, time.monotonic() - began, book)

    def _begin(self, step: Step, began: float) -> None:
        orders = targets(step, self.workers) if step.faults or self._ordered else {}
        self._ordered = self._ordered or bool(step.faults)
        for target, settings in orders.items():
            left = max(0.1, began + step.seconds + OVERLAP - time.monotonic())
            change = Change(settings, seconds=left, owner=self._owner) if settings else Change(clear=True, owner=self._owner)
            self._call("faults", target=target, **change.as_dict())
        self._ordered = bool(step.faults)
        for name in step.kill:
            with contextlib.suppress(UserError):  # It is dead already: what is to be killed need not live.
                self._call("kill", name=name, signal="KILL")

    def _withdraw(self) -> None:
        if not self._ordered:
            return
        try:
            self._call("faults", target="all", **Change(clear=True, owner=self._owner).as_dict())
        except UserError as error:
            self.tell(f"{error.message}; the scenario's faults end with their leases")

    def _call(self, command: str, **fields: Any) -> Any:
        try:
            return call(self.cluster, command, timeout=20, **fields)
        except ConnectionError as error:
            raise UserError(f"the supervisor does not answer any more ({error})") from None


def targets(step: Step, workers: list[str]) -> Mapping[str, dict[str, Any]]:
    """The orders that a step takes: one for all where all are treated alike, else one for each worker."""
    wanted = {name: step.settings(name) for name in workers}
    alike = list(wanted.values())
    return {"all": alike[0]} if alike and all(each == alike[0] for each in alike) else wanted
