"""The load of a scenario: clients, or requests at a rate, from step to step.

Errors are booked to the step in which they happen, answers to the step in which their requests began.
"""

import asyncio
import contextlib
from collections.abc import Sequence

from comet.load.closed_model import ClosedModel, RequestSpec, ResultCounts
from comet.load.open_model import CompletedRequest, OpenModel, ramp
from comet.scenario.file import Step

RAMP_PAUSE = 0.1
"""Seconds between two changes of the number of clients during a ramp."""

MAX_OUTSTANDING = 1000
"""Requests that a rate may have in flight."""


class Load:
    """The load on these addresses; `start` begins that of a step, and returns its counts."""

    def __init__(self, addresses: Sequence[tuple[str, int]], request: RequestSpec, timeout: float) -> None:
        self._addresses, self._request, self._timeout = addresses, request, timeout
        self._clients = ClosedModel(addresses, request, timeout)
        self._counts = ResultCounts()
        self._rates: list[OpenModel] = []
        self._tasks: list[asyncio.Task[None]] = []

    def hold(self) -> None:
        """Let no request begin before `start`: it would belong to the step before, and meet faults of the next."""
        self._end_tasks()
        self._clients.hold()

    def start(self, step: Step) -> ResultCounts:
        self._end_tasks()
        self._counts = self._clients.start(step.clients, step.pause)
        if step.rate is not None:
            self._tasks.append(asyncio.create_task(self._send(step, step.rate, self._counts)))
        elif step.clients_to != step.clients:
            self._tasks.append(asyncio.create_task(self._ramp(step)))
        return self._counts

    def redirect(self, addresses: Sequence[tuple[str, int]]) -> None:
        """Send to these addresses from now on."""
        self._addresses = addresses
        self._clients.redirect(addresses)
        for rate in self._rates:
            rate.redirect(addresses)

    async def stop(self) -> None:
        """Send nothing more, and wait until every request has ended."""
        self._end_tasks()
        await self._clients.stop()
        for rate in self._rates:
            await rate.drained()

    async def end(self) -> None:
        """Cancel every request."""
        self._end_tasks()
        self._clients.end()
        for rate in self._rates:
            await rate.end()

    def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._tasks.clear()
        for rate in self._rates:
            rate.retire()

    async def _ramp(self, step: Step) -> None:
        clock = asyncio.get_running_loop().time
        begun = clock()
        while (share := (clock() - begun) / step.seconds) < 1:
            self._clients.resize(round(step.clients + (step.clients_to - step.clients) * share))
            await asyncio.sleep(RAMP_PAUSE)
        self._clients.resize(step.clients_to)

    async def _send(self, step: Step, rate: float, counts: ResultCounts) -> None:
        if not rate and not step.rate_to:
            return

        def note(ended: CompletedRequest) -> None:
            if ended.answer is None:
                self._counts.errors[ended.failure] += 1
            else:
                counts.note(ended.answer, ended.ended - ended.due, self._counts)

        due = ramp(rate, step.rate_to, step.seconds)
        model = OpenModel(self._addresses, [self._request], rate, note, MAX_OUTSTANDING, self._timeout, due)
        self._rates.append(model)
        with contextlib.suppress(asyncio.CancelledError):
            await model.send()
