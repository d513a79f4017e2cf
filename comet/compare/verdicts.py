"""What an attack came to over all of its tries: how often it was contained, and what the neighbours met. Pure.

Most attacks are judged try by try: k of n were contained. One that takes nothing but time is judged by its neighbours alone, and by all
tries together: their p99 before and during each try are a pair, as the two kinds are elsewhere, and the growth has an interval.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from comet.compare.figures import Paired, paired
from comet.compare.findings import KINDS, Attempt, Kind

BARELY = 5.0
"""ms: growth of a p99 that is surely smaller is no harm."""


@dataclass(frozen=True)
class Neighbour:
    """What a worker met over all tries: its p99 in ms before (in the process's place) and during them (in the container's); None: no try
    has both. And how many of its answers failed meanwhile."""

    change: Paired | None
    failures: int

    @property
    def felt(self) -> bool | None:
        """Whether it felt the attack: failures, or a growth whose interval lies above zero. Not felt: the interval ends below BARELY.
        None: noise, it reaches further and holds zero."""
        if self.failures:
            return True
        if self.change is None or self.change.low is None or self.change.high is None:
            return None
        return True if self.change.low > 0 else False if self.change.high < BARELY else None


@dataclass(frozen=True)
class Verdict:
    """Of one attack in one kind. `tried` counts the tries that came to something, `held` those of them that were contained (0 where
    neighbours decide). `outcomes`: of each way in which it went, what was told the first time."""

    name: str
    kind: Kind
    tried: int
    held: int
    by_neighbours: bool
    outcomes: tuple[str, ...]
    neighbours: dict[str, Neighbour]

    @property
    def contained(self) -> bool | None:
        """Whether it was contained, every time. None: not tried, or not told from noise."""
        if not self.tried:
            return None
        if not self.by_neighbours:
            return self.held == self.tried
        felt = [each.felt for each in self.neighbours.values()]
        return False if True in felt else None if None in felt else True


def verdicts(attempts: Sequence[Attempt]) -> Iterator[Verdict]:
    """One for each attack and kind, in order of appearance."""
    for name in dict.fromkeys(each.name for each in attempts):
        for kind in KINDS:
            tries = [each for each in attempts if (each.name, each.kind) == (name, kind)]
            if tries:
                yield _verdict(name, kind, tries)


def _verdict(name: str, kind: Kind, tries: Sequence[Attempt]) -> Verdict:
    by_neighbours = any(each.by_neighbours for each in tries)
    told = [each for each in tries if each.by_neighbours or each.contained is not None]
    first = {each.contained: each.outcome for each in reversed(tries)}
    names = dict.fromkeys(name for each in tries for name in each.neighbours)
    return Verdict(
        name,
        kind,
        tried=len(told),
        held=sum(bool(each.contained) for each in tries),
        by_neighbours=by_neighbours,
        outcomes=tuple(first[way] for way in dict.fromkeys(each.contained for each in tries)),
        neighbours={each: _neighbour(each, tries) for each in names},
    )


def _neighbour(name: str, tries: Sequence[Attempt]) -> Neighbour:
    rows = [each.neighbours[name] for each in tries if name in each.neighbours]
    change = paired([row["before_p99_ms"] for row in rows], [row["during_p99_ms"] for row in rows])
    return Neighbour(change, sum(int(row["failures"] or 0) for row in rows))
