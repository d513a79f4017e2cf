"""Which fault the n-th request gets (pure but for the random numbers it is given).

Rule 1: each draw takes exactly two random numbers, one for what happens and one for how long, whatever the settings: with a
seed the n-th accepted request gets the n-th draw.
Rule 2: the kinds share one number as intervals side by side (hang, reset, truncate, failure), so each has exactly its own
percentage; when they add up to more than 100, the earlier ones keep theirs.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from worker_app.distributions import DISTRIBUTIONS
from worker_app.faults import FaultPlan, FaultSettings, Override

KINDS = ("hang", "reset", "truncate", "failure")


@dataclass(frozen=True, slots=True)
class Draw:
    """One request's fate: `kind` is None for a plain success, `delay` in seconds, `settings` what was in force."""

    kind: str | None
    delay: float
    settings: FaultSettings

    def fails(self) -> bool:
        return self.kind == "failure"


def draw(settings: FaultSettings, chance: float, position: float) -> Draw:
    """The fate for two uniform numbers in [0, 1). Hangs, resets and failures come at once; the rest takes its delay."""
    percent = chance * 100.0
    edge = 0.0
    kind: str | None = None
    for name, rate in zip(KINDS, (settings.hang, settings.reset, settings.truncate, settings.failure), strict=True):
        edge += rate
        if percent < edge:
            kind = name
            break
    if kind in ("hang", "reset", "failure") or not settings.avg_delay:
        return Draw(kind, 0.0, settings)
    return Draw(kind, settings.avg_delay / 1000.0 * DISTRIBUTIONS[settings.delay_distribution](position), settings)


class Faults:
    """The plan in force with what is left of its counted overrides. Owned by one thread; `now` is CLOCK_BOOTTIME in seconds."""

    def __init__(self, plan: FaultPlan, *, started: float, boot_id: str = "", seed: int | None = None) -> None:
        self.plan = plan
        self._started = started
        self._boot_id = boot_id
        self._random = random.Random(seed)
        self._left: dict[str, int] = {}
        self.replace(plan)

    def replace(self, plan: FaultPlan) -> None:
        """Put a new plan in force. A counted override that was met before keeps what is left of it."""
        self.plan = plan
        known = self._left
        self._left = {item.id: known.get(item.id, item.count) for item in plan.overrides if item.count is not None}

    def next(self, now: float) -> Draw:
        """The draw of the next accepted request."""
        overrides = self.plan.overrides
        settings = self._apply(now, spend=True) if overrides else self.plan.base
        return draw(settings, self._random.random(), self._random.random())

    def current(self, now: float) -> FaultSettings:
        """What is in force, without using up a counted override."""
        return self._apply(now, spend=False) if self.plan.overrides else self.plan.base

    def _apply(self, now: float, *, spend: bool) -> FaultSettings:
        settings = self.plan.base
        for item in self.plan.overrides:
            if not self._active(item, now):
                continue
            if spend and item.count is not None:
                self._left[item.id] -= 1
            settings = replace(settings, **item.values)  # type: ignore[arg-type]
        return settings

    def _active(self, item: Override, now: float) -> bool:
        if item.boot_id is not None and self._boot_id and item.boot_id != self._boot_id:
            return False
        if item.until is not None and now >= item.until:
            return False
        if item.count is None:
            return True
        return item.since >= self._started and self._left.get(item.id, 0) > 0
