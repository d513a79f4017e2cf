"""Decides which fault each request gets (pure except for the random numbers).

Each sample takes exactly two random numbers, one for the kind and one for the delay, whatever the settings are.
So with a seed the n-th accepted request gets the n-th sample.
"""

from __future__ import annotations

import random

from fault_rules import Override, Sample, sample
from worker_app.faults.plan import FaultPlan, FaultSettings


class FaultSampler:
    """Samples faults from the current plan and keeps the remaining counts of its overrides.

    One thread owns it. `now` and `started` are seconds of CLOCK_BOOTTIME.
    """

    def __init__(self, plan: FaultPlan, *, started: float, boot_id: str = "", seed: int | None = None) -> None:
        self.plan = plan
        self._started = started
        self._boot_id = boot_id
        self._random = random.Random(seed)
        self._remaining: dict[str, int] = {}
        self.replace(plan)

    def replace(self, plan: FaultPlan) -> None:
        """Switch to a new plan; a counted override that was in the previous plan keeps its remaining count."""
        self.plan = plan
        known = self._remaining
        self._remaining = {item.id: known.get(item.id, item.count) for item in plan.overrides if item.count is not None}

    def next(self, now: float) -> Sample:
        """Return the sample of the next accepted request."""
        overrides = self.plan.overrides
        settings = self._apply(now, spend=True) if overrides else self.plan.base
        return sample(settings, self._random.random(), self._random.random())

    def current(self, now: float) -> FaultSettings:
        """Return the effective settings without using up a counted override."""
        return self._apply(now, spend=False) if self.plan.overrides else self.plan.base

    def counts_left(self) -> dict[str, int]:
        """Return how many requests each counted override still applies to, by its id; may be called by any thread."""
        return {
            item.id: max(0, self._remaining.get(item.id, 0)) if item.since >= self._started else 0
            for item in self.plan.overrides
            if item.count is not None
        }

    def _apply(self, now: float, *, spend: bool) -> FaultSettings:
        settings = self.plan.base
        for item in self.plan.overrides:
            if not self._active(item, now):
                continue
            if spend and item.count is not None:
                self._remaining[item.id] -= 1
            settings = settings.having(item.values)
        return settings

    def _active(self, item: Override, now: float) -> bool:
        if item.boot_id is not None and self._boot_id and item.boot_id != self._boot_id:
            return False
        if item.until is not None and now >= item.until:
            return False
        if item.count is None:
            return True
        return item.since >= self._started and self._remaining.get(item.id, 0) > 0
