"""Judges an attack over all of its tries: how often it was contained, and what the neighbors met. Pure.

Most attacks are judged try by try: k of n were contained. An attack that takes only time is judged by its neighbors
alone, and by all tries together: their p99 before and during each try are a pair, as the two kinds are elsewhere, and
the growth has an interval.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from comet.compare.results.figures import Paired, paired
from comet.compare.results.findings import KINDS, Attempt, Kind

BARELY = 5.0
"""Growth of a p99 in ms below which an attack did no harm."""


@dataclass(frozen=True)
class Neighbor:
    """What a worker met over all tries.

    `change` pairs its p99 in ms before (in the process's place) and during the tries (in the container's); it is None
    where no try has both. `failures` counts its failed answers meanwhile.
    """

    change: Paired | None
    failures: int

    @property
    def felt(self) -> bool | None:
        """Whether the worker felt the attack; None where that is within the noise.

        It did after failures, or where the interval of the growth is above zero. It did not where the interval ends
        below BARELY. Else the interval reaches further and contains zero: noise.
        """
        if self.failures:
            return True
        if self.change is None or self.change.low is None or self.change.high is None:
            return None
        return True if self.change.low > 0 else False if self.change.high < BARELY else None


@dataclass(frozen=True)
class Verdict:
    """The verdict on one attack in one kind.

    `tried` counts the tries that had an outcome, `held` those of them that were contained (0 where neighbors decide).
    `outcomes` has the first description of each kind of outcome.
    """

    name: str
    kind: Kind
    tried: int
    held: int
    by_neighbours: bool
    outcomes: tuple[str, ...]
    neighbours: dict[str, Neighbor]

    @property
    def contained(self) -> bool | None:
        """Whether the attack was contained every time; None where it was not tried or is within the noise."""
        if not self.tried:
            return None
        if not self.by_neighbours:
            return self.held == self.tried
        felt = [each.felt for each in self.neighbours.values()]
        return False if True in felt else None if None in felt else True


def verdicts(attempts: Sequence[Attempt]) -> Iterator[Verdict]:
    """Yield one verdict for each attack and kind, in order of appearance."""
    for name in dict.fromkeys(each.name for each in attempts):
        for kind in KINDS:
            tries = [each for each in attempts if (each.name, each.kind) == (name, kind)]
            if tries:
                yield _verdict(name, kind, tries)


def _verdict(name: str, kind: Kind, tries: Sequence[Attempt]) -> Verdict:
    by_neighbours = any(each.by_neighbours for each in tries)
    decided = [each for each in tries if each.by_neighbours or each.contained is not None]
    first = {each.contained: each.outcome for each in reversed(tries)}
    names = dict.fromkeys(name for each in tries for name in each.neighbours)
    return Verdict(
        name,
        kind,
        tried=len(decided),
        held=sum(bool(each.contained) for each in tries),
        by_neighbours=by_neighbours,
        outcomes=tuple(first[way] for way in dict.fromkeys(each.contained for each in tries)),
        neighbours={each: _neighbour(each, tries) for each in names},
    )


def _neighbour(name: str, tries: Sequence[Attempt]) -> Neighbor:
    rows = [each.neighbours[name] for each in tries if name in each.neighbours]
    change = paired([row["before_p99_ms"] for row in rows], [row["during_p99_ms"] for row in rows])
    return Neighbor(change, sum(int(row["failures"] or 0) for row in rows))
