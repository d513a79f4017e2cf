"""What the figures say, in sentences: made of the figures and of nothing else. Pure.

A difference whose interval holds zero is called what it is: not told from noise.
"""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from comet.compare import grown
from comet.compare.figures import Paired, paired
from comet.compare.findings import HOST_NETWORK, KINDS, Findings, Measure
from comet.compare.verdicts import Neighbour, Verdict, verdicts

LEADS = (
    ("cold start to ready", "A new replica is ready"),
    ("kill -9 to first answer", "After kill -9 it answers again"),
    ("graceful stop and removal", "A graceful stop, with removal, is done"),
    ("hang to noticed", "A hang is noticed"),
)
BUSY = 0.5
"""Load per core before the start from which on the figures are not those of a quiet machine."""

FOREIGN = 0.5
"""Cores that others than the comparison may use during a block under load before it is told."""

TITLES = {"memory": "memory and disk", "clients": "clients, while one of two workers met a fault"}
"""Of sections whose own name says too little."""

PRICES = ("latency p50, 16 in flight", "latency p99, 16 in flight", "CPU of the machine, 16 in flight", "latency p50, 200 requests/s")

GROWTH = (
    (grown.SLOPES[grown.MEMORY], "in memory (PSS, a container with what the engine keeps for it)"),
    (grown.SLOPES[grown.TIME], "to the time until all are ready"),
)

MEMORY = (
    ("PSS of a worker", "A worker's memory (PSS)"),
    ("PSS with the engine's own processes for it", "A worker's memory (PSS) with the engine's own processes for it"),
)


def summary(findings: Findings) -> list[str]:
    """The findings as sentences, the largest matters first."""
    by_name = {measure.name: measure for measure in findings.measures}
    told = [_time(by_name[name], lead) for name, lead in LEADS if name in by_name]
    told += [_price(by_name[name], f"{name[0].upper()}{name[1:]}") for name in PRICES if name in by_name]
    told += list(_proxy(by_name))
    told += [_price(by_name[name], lead) for name, lead in MEMORY if name in by_name]
    told += list(_growth(findings, by_name))
    told += list(_isolation(findings))
    told += list(_clients(findings))
    return [sentence for sentence in told if sentence]


def amount(value: float | None, unit: str) -> str:
    """A figure with its unit, three digits: 12.3 ms, 1.23 s, 456 MiB; - for none."""
    if value is None:
        return "-"
    if unit == "ms" and abs(value) >= 1000:
        return amount(value / 1000, "s")
    size = abs(value)
    digits = 0 if size >= 100 or size == 0 else 1 if size >= 10 else 2
    return f"{value:,.{digits}f} {unit}"


def interval(found: Paired, unit: str) -> str:
    """The difference with its interval, or that there is none."""
    if found.low is None:
        return f"{amount(found.difference, unit)} (one round: no interval)"
    low, high = amount(found.low, unit), amount(found.high, unit)
    if low.partition(" ")[2] == high.partition(" ")[2]:
        low = low.partition(" ")[0]
    return f"{amount(found.difference, unit)} (95 %: {low} to {high})"


def verdict(found: Paired) -> str:
    if found.low is None:
        return "one round only"
    if found.noisy:
        return "not told from noise"
    if not found.certain:
        return "the same"
    ratio = found.ratio
    return "" if ratio is None else f"{ratio:.2f} times"


def met(neighbour: Neighbour) -> str:
    """What a neighbour met of an attack: the medians of its p99 before and during it, and the mean change, or that it is noise."""
    change = neighbour.change
    if change is None:
        told = "-"
    else:
        told = f"{amount(change.process, 'ms')} -> {amount(change.container, 'ms')}"
        if change.low is not None:
            told += f", mean change {interval(change, 'ms')}" if change.certain else " (noise)" if change.noisy else ""
    failures = f", {neighbour.failures} failed" if neighbour.failures else ""
    return told + failures


def held(verdict: Verdict) -> str:
    """Whether an attack was contained, and in how many tries."""
    tried = verdict.tried
    if not tried:
        return "not tried"
    if verdict.by_neighbours:
        word = {True: "yes", False: "no", None: "not told"}[verdict.contained]
        return f"{word} ({tried} pair{'s' if tried > 1 else ''})"
    word = "yes" if verdict.contained else "not always" if verdict.held else "no"
    return f"{word} ({verdict.held} of {tried})"


def _time(measure: Measure, lead: str) -> str:
    found = measure.paired
    if found is None:
        return ""
    process, container = (amount(each, measure.unit) for each in (found.process_mean, found.container_mean))
    average = " on average" if found.rounds > 1 else ""
    return f"{lead} after {process}{average} as a process and {container} as a container{_than(found, measure.unit)}."


def _price(measure: Measure, lead: str) -> str:
    found = measure.paired
    if found is None:
        return ""
    process, container = (amount(each, measure.unit) for each in (found.process_mean, found.container_mean))
    mean = ", mean of the rounds" if found.rounds > 1 else ""
    return f"{lead}{mean}: {process} for the process, {container} for the container{_than(found, measure.unit)}."


def _than(found: Paired, unit: str) -> str:
    """How a sentence about both kinds ends: with their difference, container less process, or that it is not told."""
    if found.low is None:
        return " (one round)"
    if found.noisy:
        return "; the difference is not told from noise here"
    return f"; the difference is {interval(found, unit)}" if found.certain else ""


def _proxy(by_name: dict[str, Measure]) -> Iterator[str]:
    """How much of the container's price is its published port's."""
    measure = by_name.get("latency p50, 1 in flight")
    if measure is None or not {HOST_NETWORK, "container"} <= measure.values.keys():
        return
    found = paired(measure.values[HOST_NETWORK], measure.values["container"])
    if found is not None:
        mean = ", mean of the rounds" if found.rounds > 1 else ""
        yield (
            f"{measure.name[0].upper()}{measure.name[1:]}{mean}: {amount(found.container_mean, measure.unit)} through the container's"
            f" published port, {amount(found.process_mean, measure.unit)} on the host's network{_than(found, measure.unit)}."
        )


def _growth(findings: Findings, by_name: dict[str, Measure]) -> Iterator[str]:
    """What a further replica adds."""
    reached = sorted({each.replicas for each in findings.growth})
    for name, lead in GROWTH:
        if name in by_name and reached:
            yield _price(by_name[name], f"What each replica from {reached[0]} to {reached[-1]} adds {lead}")


def _isolation(findings: Findings) -> Iterator[str]:
    found = list(verdicts(findings.attempts))
    tries = sorted({each.tried for each in found if each.tried and not each.by_neighbours})
    often = f", each tried {' to '.join(map(str, (tries[0], tries[-1])[: len(tries)]))} times," if tries and tries[-1] > 1 else ""
    for kind in KINDS:
        rows = [each for each in found if each.kind == kind]
        kept = [each for each in rows if each.contained]
        lists = {
            "not": [each.name for each in rows if each.contained is False and not each.held],
            "not always": [f"{each.name} ({each.held} of {each.tried})" for each in rows if each.contained is False and each.held],
            "not told from noise": [each.name for each in rows if each.contained is None and each.tried],
            "not tried": [each.name for each in rows if not each.tried],
        }
        rest = "".join(f"; {word}: {', '.join(names)}" for word, names in lists.items() if names)
        every = " every time" if often and kept else ""
        if rows:
            attacks = f"{len(rows)} attack{'s' if len(rows) > 1 else ''}"
            yield f"Of {attacks} on its neighbours{often} the {kind} contained {len(kept)}{every}{rest}."


def _clients(findings: Findings) -> Iterator[str]:
    for fault in dict.fromkeys(each.fault for each in findings.seen):
        by_kind = {kind: [each for each in findings.seen if each.kind == kind and each.fault == fault] for kind in KINDS}
        if not all(by_kind.values()):
            continue
        parts = []
        for kind, seen in by_kind.items():
            failed = sum(sum(each.failed.values()) for each in seen)
            slowest = max((each.slowest_ms for each in seen if each.slowest_ms is not None), default=None)
            parts.append(f"{kind} {failed:,} of {sum(each.requests for each in seen):,} requests failed, slowest {amount(slowest, 'ms')}")
        yield f"Clients while one of two workers met {fault}: {'; '.join(parts)}."


def _noisy(findings: Findings) -> Iterator[tuple[str, str, list[str]]]:
    """By section, how much of what was asked in pairs is not told from noise, and the names of it."""
    for section, measures in findings.sections():
        found = {each.name: pair for each in measures if (pair := each.paired) is not None}
        if names := [name for name, pair in found.items() if pair.noisy]:
            yield section, f"{len(names)} of {len(found)}", names


def document(findings: Findings) -> dict[str, Any]:
    """The JSON: everything raw, what was made of it, and what is said of it."""
    told = {"summary": summary(findings), "warnings": warnings(findings)}
    return findings.as_dict() | {"verdicts": [_judged(each) for each in verdicts(findings.attempts)]} | told


def _judged(verdict: Verdict) -> dict[str, Any]:
    met_ = {}
    for name, each in verdict.neighbours.items():
        row: dict[str, Any] = {"failures": each.failures, "felt": each.felt}
        if (change := each.change) is not None:
            row |= {"before_p99_ms": change.process, "during_p99_ms": change.container, "tries": change.rounds}
            row |= {"change_ms": change.difference, "low": change.low, "high": change.high, "certain": change.certain}
        met_[name] = row
    return asdict(verdict) | {"contained": verdict.contained, "neighbours": met_}


def warnings(findings: Findings) -> list[str]:
    """Where the noise is larger than the effect, and whatever else a reader must know."""
    told = [f"{section}: the noise is larger than the effect in {of}: {'; '.join(names)}" for section, of, names in _noisy(findings)]
    met_ = [each.change for verdict in verdicts(findings.attempts) for each in verdict.neighbours.values()]
    changes = [change for change in met_ if change is not None and change.low is not None]
    if noisy := sum(change.noisy for change in changes):
        of = f"{noisy} of {len(changes)} changes of a neighbour's p99"
        told.append(f"isolation: the noise is larger than the effect in {of}: the table marks them")
    load, cores = findings.machine.get("load_before"), findings.machine.get("cores")
    if load is not None and cores and load > BUSY * cores:
        told.append(
            f"the machine was busy before it began (load {load:.1f} on {cores} cores): times and CPU are larger than on a quiet one"
        )
    disturbed = [cores for cores in findings.foreign if cores > FOREIGN]
    if disturbed:
        told.append(
            f"other programs used the machine meanwhile: in {len(disturbed)} of {len(findings.foreign)} blocks under load more than"
            f" {FOREIGN:g} cores, at most {max(disturbed):.1f}"
        )
    if findings.rounds < 3:
        told.append(f"{findings.rounds} round{'s' if findings.rounds != 1 else ''}: too few for intervals that mean much")
    return [*told, *findings.notes]
