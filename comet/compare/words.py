"""What the figures say, in sentences: made of the figures and of nothing else. Pure.

A difference whose interval holds zero is called what it is: not told from noise.
"""

from collections.abc import Iterator

from comet.compare.figures import Paired, slope
from comet.compare.findings import HOST_NETWORK, KINDS, Findings, Measure

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

PRICES = ("latency p50, 16 in flight", "latency p99, 16 in flight", "CPU of the machine, 16 in flight", "latency p50, 200 requests/s")

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
    told += list(_growth(findings))
    told += list(_isolation(findings))
    told += list(_clients(findings))
    return [sentence for sentence in told if sentence]


def amount(value: float | None, unit: str) -> str:
    """A figure with its unit, three digits: 12.3 ms, 1.23 s, 456 MiB; - for none."""
    if value is None:
        return "-"
    if unit == "ms" and abs(value) >= 1000:
        return f"{value / 1000:.2f} s"
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
    if not found.certain:
        return "not told from noise"
    ratio = found.ratio
    return "" if ratio is None else f"{ratio:.2f} times"


def _time(measure: Measure, lead: str) -> str:
    found = measure.paired
    if found is None:
        return ""
    process, container = (amount(each, measure.unit) for each in (found.process_mean, found.container_mean))
    both = f"{lead} after {process} on average as a process and {container} as a container"
    if found.low is None:
        return f"{both} (one round)."
    if not found.certain:
        return f"{both}; the difference is not told from noise here."
    return f"{both}: {interval(found, measure.unit)} more." if found.difference > 0 else f"{both}: {interval(found, measure.unit)}."


def _price(measure: Measure, lead: str) -> str:
    found = measure.paired
    if found is None:
        return ""
    process, container = (amount(each, measure.unit) for each in (found.process_mean, found.container_mean))
    both = f"{lead}, mean of the rounds: {process} for the process, {container} for the container"
    if found.low is None:
        return f"{both} (one round)."
    return f"{both}, a difference of {interval(found, measure.unit)}." if found.certain else f"{both}; not told from noise here."


def _proxy(by_name: dict[str, Measure]) -> Iterator[str]:
    """How much of the container's price is its published port's."""
    measure = by_name.get("latency p50, 1 in flight")
    found = measure.paired if measure is not None else None
    if measure is None or found is None or HOST_NETWORK not in measure.values:
        return
    third = Measure("", "", "", {"process": measure.values["process"], "container": measure.values[HOST_NETWORK]}).paired
    if third is not None:
        yield (
            f"With one request in flight the published port takes {amount(found.container, 'ms')} at the median, the host's network"
            f" {amount(third.container, 'ms')}, the process {amount(found.process, 'ms')}."
        )


def _growth(findings: Findings) -> Iterator[str]:
    """What a further replica adds, from the numbers of replicas that both kinds reached."""
    points = {kind: {g.replicas: (g.pss + g.keeper) / 2**20 for g in findings.growth if g.kind == kind} for kind in KINDS}
    both = sorted(points["process"].keys() & points["container"].keys())
    process, container = (slope([(number, points[kind][number]) for number in both]) for kind in KINDS)
    if process is not None and container is not None:
        yield (
            f"From {both[0]} to {both[-1]} replicas (measured once, at {', '.join(map(str, both))}) each one adds"
            f" {amount(process, 'MiB')} of memory (PSS) as a process and {amount(container, 'MiB')} as a container with what the engine"
            " keeps for it."
        )


def _isolation(findings: Findings) -> Iterator[str]:
    for kind in KINDS:
        tried = [each for each in findings.attempts if each.kind == kind and each.contained is not None]
        let = [each.name for each in tried if not each.contained]
        if tried:
            rest = f"; not: {', '.join(let)}" if let else ""
            unsure = [each.name for each in findings.attempts if each.kind == kind and each.contained is None]
            rest += f"; not told: {', '.join(unsure)}" if unsure else ""
            yield f"Of {len(tried) + len(unsure)} attacks on its neighbours the {kind} contained {len(tried) - len(let)}{rest}."


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


def warnings(findings: Findings) -> list[str]:
    """Where the noise is larger than the effect, and whatever else a reader must know."""
    noisy = [m.name for m in findings.measures if (found := m.paired) is not None and found.low is not None and not found.certain]
    told = [f"the noise is larger than the effect in: {'; '.join(noisy)}"] if noisy else []
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
