"""Derives figures from growth: the comparison at every count of replicas, the cost of one more, medians. Pure.

What an additional replica adds is the least-squares slope over all counts of one round, so that it is one figure a
round like every other.
"""

from collections.abc import Iterator, Sequence
from statistics import median

from comet.compare.results.figures import slope
from comet.compare.results.findings import KINDS, Findings, Grown, Kind

MEMORY, TIME, CPU, DISK = (
    "memory (PSS) with the engine's part",
    "time to all ready",
    "CPU of the machine to all ready",
    "disk without the image",
)
UNITS = {MEMORY: "MiB", TIME: "ms", CPU: "ms", DISK: "KiB"}
"""The compared figures and their units."""

SLOPES = {
    MEMORY: "memory (PSS) that a further replica adds",
    TIME: "time to ready that a further replica adds",
    CPU: "CPU of the machine that a further replica's start takes",
    DISK: "disk that a further replica adds",
}


LONGEST, MOST = 30_000.0, 0.5
"""Milliseconds that the growth of one kind beyond the usual may take, and the share of the available memory."""


def bound(last: Grown, replicas: int, available: int) -> str:
    """Return why not to grow to this number of replicas; empty where nothing speaks against it.

    Time and memory are expected to grow as they did up to `last`, the time from the first replica on.
    """
    if (last.ready_ms or 0) / last.replicas * replicas > LONGEST:
        return f"{replicas} would take longer than {LONGEST / 1000:g} s"
    if (last.pss + last.keeper) / last.replicas * (replicas - last.replicas) > MOST * available:
        return f"{replicas} would take more than {MOST:.0%} of the memory that is available"
    return ""


def value(name: str, of: Grown) -> float | None:
    """Return the figure in its unit; None where it was not measured."""
    known = {MEMORY: (of.pss + of.keeper) / 2**20, TIME: of.ready_ms, CPU: of.cpu_ms, DISK: of.disk / 2**10}
    return known[name]


def note(findings: Findings, round_: int, steps: Sequence[int]) -> None:
    """Enter one round's growth as measures.

    A round in which a kind did not complete all steps says nothing about what one more replica adds.
    """
    for name, title in SLOPES.items():
        for kind in KINDS:
            points = _points(findings, kind, round_, name)
            if name in (TIME, CPU):  # At the first step there was nothing to wait for.
                points.insert(0, (steps[0], 0.0))
            whole = len(_rows(findings, kind, round_)) == len(steps)
            findings.measure("growth", title, UNITS[name]).note(kind, round_, slope(points) if whole else None)
    for name, unit in UNITS.items():
        for replicas in steps:
            for kind in KINDS:
                if (found := dict(_points(findings, kind, round_, name)).get(replicas)) is not None:
                    words = f"{name}, {replicas} replica{'s' if replicas > 1 else ''}"
                    findings.measure("growth", words, unit).note(kind, round_, found)


def _rows(findings: Findings, kind: Kind, round_: int) -> list[Grown]:
    return [each for each in findings.growth if (each.kind, each.round) == (kind, round_)]


def _points(findings: Findings, kind: Kind, round_: int, name: str) -> list[tuple[int, float]]:
    return [
        (each.replicas, found) for each in _rows(findings, kind, round_) if (found := value(name, each)) is not None
    ]


def medians(growth: Sequence[Grown]) -> Iterator[Grown]:
    """Yield one row for each count and kind: the medians over the rounds, with 0 as the round."""
    for replicas in sorted({each.replicas for each in growth}):
        for kind in KINDS:
            if rows := [each for each in growth if (each.replicas, each.kind) == (replicas, kind)]:
                yield _median(kind, replicas, rows)


def _median(kind: Kind, replicas: int, rows: Sequence[Grown]) -> Grown:
    def middle(name: str) -> float | None:
        known = [found for each in rows if (found := getattr(each, name)) is not None]
        return median(known) if known else None

    sizes = {name: round(middle(name) or 0) for name in ("pss", "rss", "keeper", "disk", "private", "files")}
    cgroup = middle("cgroup")
    return Grown(
        kind,
        0,
        replicas,
        middle("ready_ms"),
        cgroup=None if cgroup is None else round(cgroup),
        cpu_ms=middle("cpu_ms"),
        **sizes,
    )
