"""The result of a race: medians of both forms, their intervals by order statistics, and the paired difference. Pure.

A time is that from death to ready, without the wait before a further attempt (backoff). An interval by order
statistics assumes no distribution: of six times, the median lies between the least and the most with 97 %.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from statistics import median
from typing import Any

from comet.events import recovery_groups

FORMS = ("process", "container")

COVERAGE = 0.95
"""The wanted probability that an interval holds the median; fewer than six times cannot reach it."""

Steps = Mapping[str, float]


@dataclass(frozen=True)
class Spread:
    """A median with an interval that holds the true median with probability `coverage`."""

    median: float
    low: float
    high: float
    coverage: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return the narrowest symmetric interval of ranks that reaches COVERAGE, else the whole range."""
        ordered, number = sorted(values), len(values)
        rank, outside = 1, 0.5**number
        while rank + 1 <= number // 2 and 1 - 2 * (further := outside + comb(number, rank) * 0.5**number) >= COVERAGE:
            rank, outside = rank + 1, further
        return cls(median(ordered), ordered[rank - 1], ordered[number - rank], max(0.0, 1 - 2 * outside))

    def as_dict(self) -> dict[str, float]:
        return {
            "median_ms": round(self.median, 1),
            "low_ms": round(self.low, 1),
            "high_ms": round(self.high, 1),
            "coverage": round(self.coverage, 4),
        }


@dataclass(frozen=True)
class Race:
    """The rounds of a race: for each form the name of its worker, and the steps of its recovery in every round."""

    names: Mapping[str, str]
    steps: Mapping[str, Sequence[Steps]]

    @property
    def rounds(self) -> int:
        return len(self.steps["process"])

    def times(self, form: str) -> list[float]:
        return [recovery_groups.own_ms(each) for each in self.steps[form]]

    def spread(self, form: str) -> Spread:
        return Spread.of(self.times(form))

    @property
    def difference(self) -> Spread:
        """How much longer the container took than the process in the same round."""
        pairs = zip(self.times("process"), self.times("container"), strict=True)
        return Spread.of([container - process for process, container in pairs])

    def middle_steps(self, form: str) -> dict[str, float]:
        """Return the median of every step, without the backoff, which moves what follows it back."""
        shifted = [_without_backoff(each) for each in self.steps[form]]
        names = [name for name in shifted[0] if all(name in each for each in shifted)]
        return {name: round(median(each[name] for each in shifted), 1) for name in names}

    def as_dict(self) -> dict[str, Any]:
        forms = {
            form: {
                "replica": self.names[form],
                "group": recovery_groups.group(self.names[form], form),
                **self.spread(form).as_dict(),
                "times_ms": self.times(form),
                "steps_ms": self.middle_steps(form),
            }
            for form in FORMS
        }
        raw = [{form: dict(self.steps[form][number]) for form in FORMS} for number in range(self.rounds)]
        return {"rounds": self.rounds, "forms": forms, "difference": self.difference.as_dict(), "raw_steps_ms": raw}


def _without_backoff(steps: Steps) -> dict[str, float]:
    waited = recovery_groups.backoff_ms(steps)
    before = ("died", "noticed")
    return {
        name: at if name in before else round(at - waited, 1)
        for name, at in steps.items()
        if name != recovery_groups.BACKOFF
    }
