"""Turns the figures of a comparison into sentences, from nothing but the figures. Pure.

A difference whose interval contains zero is reported as within the noise.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from comet.common import figures
from comet.compare.results import grown
from comet.compare.results.figures import Paired, paired
from comet.compare.results.findings import GUARDS, HOST_NETWORK, KINDS, NETWORK, PLACES, WAYS, Findings, Measure
from comet.compare.results.verdicts import Neighbor, Verdict, verdicts
from comet.compare.results.waterfall import added, waterfall

LEADS = (
    ("cold start to ready", "A new replica is ready"),
    ("kill -9 to first answer", "After kill -9 it answers again"),
    ("graceful stop and removal", "A graceful stop, with removal, is done"),
    ("hang to noticed", "A hang is noticed"),
)
BUSY = 0.5
"""Load per core before the start above which the figures are not those of a quiet machine."""

FOREIGN = 0.5
"""Cores that other programs may use during a block under load before a warning."""

TITLES = {
    "memory": "memory and disk",
    "clients": "clients, during a fault of one of two workers",
    NETWORK: "network: the ways to a container",
}
"""Titles of sections whose own name says too little."""

PRICES = (
    "latency p50, 16 in flight",
    "latency p99, 16 in flight",
    "CPU of the machine, 16 in flight",
    "latency p50, 200 requests/s",
)

GROWTH = (
    (grown.SLOPES[grown.MEMORY], "in memory (PSS, a container with what the engine keeps for it)"),
    (grown.SLOPES[grown.TIME], "to the time until all are ready"),
)

CHANGES = (
    ("latency p50", WAYS, "An answer of 64 bytes (p50) from a container"),
    ("stream", WAYS, "A stream from a container"),
    ("database commits", PLACES, "A database (SQLite, each commit synced) of a container"),
)
"""Of what is measured in several places: the figure, the places, and how the sentence begins."""

MEMORY = (
    ("PSS of a worker", "A worker's memory (PSS)"),
    ("PSS with the engine's own processes for it", "A worker's memory (PSS) with the engine's own processes for it"),
)


def summary(findings: Findings) -> list[str]:
    """Return the findings as sentences, the most important first."""
    by_name = {measure.name: measure for measure in findings.measures}
    sentences = [_time(by_name[name], lead) for name, lead in LEADS if name in by_name]
    sentences += [_price(by_name[name], f"{name[0].upper()}{name[1:]}") for name in PRICES if name in by_name]
    sentences += list(_start(findings))
    sentences += list(_proxy(by_name))
    sentences += list(_changes(by_name))
    sentences += list(_guards(by_name))
    sentences += [_price(by_name[name], lead) for name, lead in MEMORY if name in by_name]
    sentences += list(_growth(findings, by_name))
    sentences += [*_held(findings), *_carried(findings)]
    sentences += list(_isolation(findings))
    sentences += list(_clients(findings))
    return [sentence for sentence in sentences if sentence]


def amount(value: float | None, unit: str) -> str:
    """Format a figure with its unit and three digits: 12.3 ms, 1.23 s, 456 MiB; "-" for None."""
    return figures.milliseconds(value) if unit == "ms" or value is None else f"{figures.figure(value)} {unit}"


def interval(found: Paired, unit: str) -> str:
    """Format the difference with its interval, or say that there is none."""
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
        return "within the noise"
    if not found.certain:
        return "the same"
    ratio = found.ratio
    return "" if ratio is None else f"{ratio:.2f} times"


def neighbor_text(neighbour: Neighbor) -> str:
    """Describe what a neighbor met during an attack.

    These are the medians of its p99 before and during the attack, and the mean change, or that it is noise.
    """
    change = neighbour.change
    if change is None:
        text = "-"
    else:
        text = f"{amount(change.process, 'ms')} -> {amount(change.container, 'ms')}"
        if change.low is not None:
            text += f", mean change {interval(change, 'ms')}" if change.certain else " (noise)" if change.noisy else ""
    failures = f", {neighbour.failures} failed" if neighbour.failures else ""
    return text + failures


def containment_text(verdict: Verdict) -> str:
    """Say whether an attack was contained, and in how many tries."""
    tried = verdict.tried
    if not tried:
        return "not tried"
    if verdict.by_neighbours:
        word = {True: "yes", False: "no", None: "unclear"}[verdict.contained]
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
    """End a sentence about both kinds: with the difference, container minus process, or that it is noise."""
    if found.low is None:
        return " (one round)"
    if found.noisy:
        return "; the difference is within the noise here"
    return f"; the difference is {interval(found, unit)}" if found.certain else ""


def _start(findings: Findings) -> Iterator[str]:
    """Say where the time of a start goes, for each kind, from medians."""
    for kind in KINDS:
        layers = added(waterfall(findings, kind))
        if len(layers) > 2:
            parts = ", ".join(f"{name} {amount(each, 'ms')}" for name, each in layers.items())
            yield f"The start of a {kind}, layer by layer (medians): {parts}."


def _proxy(by_name: dict[str, Measure]) -> Iterator[str]:
    """Say how much of the container's cost comes from its published port."""
    measure = by_name.get("latency p50, 1 in flight")
    if measure is None or not {HOST_NETWORK, "container"} <= measure.values.keys():
        return
    found = paired(measure.values[HOST_NETWORK], measure.values["container"])
    if found is not None:
        mean = ", mean of the rounds" if found.rounds > 1 else ""
        yield (
            f"{measure.name[0].upper()}{measure.name[1:]}{mean}: {amount(found.container_mean, measure.unit)} through "
            "the container's"
            f" published port, {amount(found.process_mean, measure.unit)} on the host's "
            f"network{_than(found, measure.unit)}."
        )


def _changes(by_name: dict[str, Measure]) -> Iterator[str]:
    """Say of each list of CHANGES what a container has in place of a process."""
    for name, places, lead in CHANGES:
        measures = {each: by_name[f"{name}, {each}"] for each in places if f"{name}, {each}" in by_name}
        found = {each: pair for each, measure in measures.items() if (pair := measure.paired) is not None}
        if found:
            yield f"{lead}, and the difference to a process: {_listed(found, next(iter(measures.values())).unit)}."


def _guards(by_name: dict[str, Measure]) -> Iterator[str]:
    """Say what each guard that the engine has takes from a container's system calls."""
    for guard in GUARDS:
        end = f", {guard} off"
        found = {
            name: pair
            for name in (name.removesuffix(end) for name in by_name if name.endswith(end))
            if (pair := paired(*(by_name[each].values.get("container", []) for each in (name + end, name)))) is not None
        }
        if found:
            yield f"A container's system calls, and the difference to those with {guard} off: {_listed(found, 'µs')}."


def _listed(found: Mapping[str, Paired], unit: str) -> str:
    """List figures, means of the rounds, each with its difference to what it is compared with."""
    return ", ".join(f"{name} {amount(each.container_mean, unit)}{_more(each, unit)}" for name, each in found.items())


def _more(found: Paired, unit: str) -> str:
    if found.noisy:
        return " (within the noise)"
    return f" ({'+' if found.difference > 0 else ''}{amount(found.difference, unit)})" if found.difference else ""


def _growth(findings: Findings, by_name: dict[str, Measure]) -> Iterator[str]:
    """Say what an additional replica adds."""
    reached = sorted({each.replicas for each in findings.growth})
    for name, lead in GROWTH:
        if name in by_name and reached:
            yield _price(by_name[name], f"What each replica from {reached[0]} to {reached[-1]} adds {lead}")


def _held(findings: Findings) -> Iterator[str]:
    """Say what replicas share, where there are most of them in every round."""
    for kind, most in {each.kind: each for each in grown.medians(findings.growth) if each.private}.items():
        resident, once, private, files = (
            amount(size / 2**20, "MiB") for size in (most.rss, most.pss, most.private, most.files)
        )
        yield (
            f"{most.replicas} replicas as {kind} (medians): {resident} resident, {once} where a shared page counts "
            f"once; of that, {private} are private and {files} are pages of files."
        )


def _carried(findings: Findings) -> Iterator[str]:
    """Say how many replicas there were at most, and why not more."""
    reached = {each.kind: each for each in (*grown.medians(findings.growth), *findings.density)}
    for kind, why in findings.bounds.items():
        most = reached[kind]
        memory, ready = amount((most.pss + most.keeper) / 2**20, "MiB"), amount(most.ready_ms, "ms")
        yield f"{most.replicas} replicas as {kind} took {memory} and were ready after {ready}: {why}."


def _isolation(findings: Findings) -> Iterator[str]:
    found = list(verdicts(findings.attempts))
    tries = sorted({each.tried for each in found if each.tried and not each.by_neighbours})
    often = (
        f", each tried {' to '.join(map(str, (tries[0], tries[-1])[: len(tries)]))} times,"
        if tries and tries[-1] > 1
        else ""
    )
    for kind in KINDS:
        rows = [each for each in found if each.kind == kind]
        kept = [each for each in rows if each.contained]
        lists = {
            "not": [each.name for each in rows if each.contained is False and not each.held],
            "not always": [
                f"{each.name} ({each.held} of {each.tried})" for each in rows if each.contained is False and each.held
            ],
            "within the noise": [each.name for each in rows if each.contained is None and each.tried],
            "not tried": [each.name for each in rows if not each.tried],
        }
        rest = "".join(f"; {word}: {', '.join(names)}" for word, names in lists.items() if names)
        every = " every time" if often and kept else ""
        if rows:
            attacks = f"{len(rows)} attack{'s' if len(rows) > 1 else ''}"
            yield f"Of {attacks} on its neighbours{often} the {kind} contained {len(kept)}{every}{rest}."


def _clients(findings: Findings) -> Iterator[str]:
    for fault in dict.fromkeys(each.fault for each in findings.seen):
        by_kind = {
            kind: [each for each in findings.seen if each.kind == kind and each.fault == fault] for kind in KINDS
        }
        if not all(by_kind.values()):
            continue
        parts = []
        for kind, seen in by_kind.items():
            failed = sum(sum(each.failed.values()) for each in seen)
            slowest = max((each.slowest_ms for each in seen if each.slowest_ms is not None), default=None)
            parts.append(
                f"{kind} {failed:,} of {sum(each.requests for each in seen):,} requests failed, slowest "
                f"{amount(slowest, 'ms')}"
            )
        yield f"Clients, {fault} of one of two workers: {'; '.join(parts)}."


def _noisy(findings: Findings) -> Iterator[tuple[str, str, list[str]]]:
    """Yield for each section how many of its pairs are within the noise, and their names."""
    for section, measures in findings.sections():
        found = {each.name: pair for each in measures if (pair := each.paired) is not None}
        if names := [name for name, pair in found.items() if pair.noisy]:
            yield section, f"{len(names)} of {len(found)}", names


def document(findings: Findings) -> dict[str, Any]:
    """Return the JSON document: all raw values, the verdicts, the sentences and the warnings."""
    sentences = {"summary": summary(findings), "warnings": warnings(findings)}
    return findings.as_dict() | {"verdicts": [_verdict_dict(each) for each in verdicts(findings.attempts)]} | sentences


def _verdict_dict(verdict: Verdict) -> dict[str, Any]:
    neighbours = {}
    for name, each in verdict.neighbours.items():
        row: dict[str, Any] = {"failures": each.failures, "felt": each.felt}
        if (change := each.change) is not None:
            row |= {"before_p99_ms": change.process, "during_p99_ms": change.container, "tries": change.rounds}
            row |= {"change_ms": change.difference, "low": change.low, "high": change.high, "certain": change.certain}
        neighbours[name] = row
    return asdict(verdict) | {"contained": verdict.contained, "neighbours": neighbours}


def warnings(findings: Findings) -> list[str]:
    """Return warnings: where the noise is larger than the effect, and whatever else a reader must know."""
    found = [
        f"{section}: the noise is larger than the effect in {of}: {'; '.join(names)}"
        for section, of, names in _noisy(findings)
    ]
    met = [each.change for verdict in verdicts(findings.attempts) for each in verdict.neighbours.values()]
    changes = [change for change in met if change is not None and change.low is not None]
    if noisy := sum(change.noisy for change in changes):
        of = f"{noisy} of {len(changes)} changes of a neighbour's p99"
        found.append(f"isolation: the noise is larger than the effect in {of}: the table marks them")
    load, cores = findings.machine.get("load_before"), findings.machine.get("cores")
    if load is not None and cores and load > BUSY * cores:
        found.append(
            f"the machine was busy before it began (load {load:.1f} on {cores} cores): times and CPU are larger than "
            "on a quiet one"
        )
    disturbed = [cores for cores in findings.foreign if cores > FOREIGN]
    if disturbed:
        found.append(
            f"other programs used the machine meanwhile: in {len(disturbed)} of {len(findings.foreign)} blocks under "
            "load more than"
            f" {FOREIGN:g} cores, at most {max(disturbed):.1f}"
        )
    if findings.rounds < 3:
        found.append(
            f"{findings.rounds} round{'s' if findings.rounds != 1 else ''}: too few for intervals that mean much"
        )
    return [*found, *findings.notes]
