"""The findings of a comparison as a report: sentences, tables and pictures. Pure."""

from collections.abc import Iterator
from statistics import median

from comet.compare import words
from comet.compare.results import grown
from comet.compare.results.findings import HOST_NETWORK, KINDS, NETWORK, Findings, Measure, Seen
from comet.compare.results.verdicts import verdicts
from comet.compare.results.waterfall import NAMES, waterfall
from comet.report.model import Cell, Lines, Picture, Report, Steps, Table, percentiles

RECOVERY = ("died", "noticed", "decided", "started", "listening", "ready", "first answer")
"""The steps of a recovery in their usual order."""

GROWTH = (
    (grown.MEMORY, "Memory (PSS) of all workers, for containers with the engine's own processes for them", "MiB", 1.0),
    (grown.TIME, "From one replica to all of them being ready", "s", 1000.0),
    (grown.CPU, "CPU of the machine meanwhile", "s", 1000.0),
)
"""The figures that are drawn over the number of replicas: name, title, unit, and divisor for that unit."""

MEASURES = """The columns of the kinds are medians over the rounds. The difference is container minus process within a
round: its mean and Student's interval, so that one round with an outlier moves it and not the medians; the sentences
above name the means. A process has no control group of its own, and no image: there it says "-"."""
COST = """A published port on loopback passes the engine's user-space proxy; on the host's network nothing stands
before the container. Load stays on loopback here: the section of the network has the other ways."""
WAYS = """One client asks one question of 64 bytes at a time, then for a stream of 128 MiB, on an engine that the
comparison starts in a network of its own. The process is asked on loopback, or by a UNIX socket of its own. The
published port is asked on loopback, where the engine's user-space proxy takes the connection, and at the bridge's
address, where the firewall translates it (NAT) and the proxy sees nothing. The CPU of the machine is all that client,
way and answer take."""
CLIENTS = "Strict clients through the load balancer, with the fault at one of two workers. All rounds together."
PROSE = {"cost": COST, NETWORK: WAYS}
"""What a section's table needs to be understood."""

GROWN = """Round by round each kind grew step by step from one replica while the other had one; times are those of all
steps so far. The engine's part of the memory are its shims and proxies. Disk is the replicas' own files (logs, faults,
a container's layer, and what the engine keeps for it where that may be read). The control group accounts the page
cache too. Medians; a process has no control group of its own, and the engine keeps nothing for it. Private pages are
mapped by one process alone (USS); those of files (libraries, the interpreter) are in the page cache once for all that
map the same file, and counted in parts. Counts of replicas beyond those of every round were reached once."""
ATTACKS = """Each attack was tried round by round from within a process of user nobody and from within a container made
as the workers' are: same image, limits and mounts; user nobody, except where it fills the workers' data folder, and no
published port. All were bounded by the comparison: at most 200 forks, 64 MiB on disk, 800 MiB of memory, a deadline;
the container's limit on processes, 2100 for workers, is lowered for the fork bomb, which could not meet it otherwise.
"Contained" counts tries. The CPU burner is judged by its neighbours alone, tries paired with a calm moment each: "no"
where the 95 % interval of the growth of a p99 is above zero or an answer failed, "yes" where all end below 5 ms.
Figures in an outcome are those of the first try. A change of a neighbour's p99 that no interval tells from noise is
marked so; else its mean stands with its 95 % interval."""


def made(findings: Findings, at: str = "") -> Report:
    """Return the report; `at` is the displayed time of its creation."""
    report = Report(
        "Process against container",
        "The same worker application as OS process and as container, behind the same load balancer: "
        f"{findings.rounds} round{'s' if findings.rounds != 1 else ''}, alternating, in {findings.seconds:.0f} s, by "
        "python supervisor.py compare. All raw values are in the file that compare --json FILE writes.",
        findings.machine,
        findings.versions,
        findings.settings,
        words.summary(findings),
        words.warnings(findings),
        at=at,
    )
    report.parts += _steps(findings)
    lead = MEASURES
    for section, measures in findings.sections():
        if section != "clients":  # Those of each round stand in the JSON.
            prose = f"{lead} {PROSE.get(section, '')}"
            report.parts.append(_measures(words.TITLES.get(section, section), measures, prose))
            lead = ""
    loads = list(dict.fromkeys(each.load for each in findings.spreads))
    report.parts += [_spread(findings, load) for load in loads[1:2] or loads]
    report.parts += [part for each in GROWTH if (part := _growth(findings, *each)) is not None]
    report.parts += [table for table in (_seen(findings), _grown(findings), _attempts(findings)) if table.rows]
    return report


def _steps(findings: Findings) -> Iterator[Picture]:
    """Draw when each layer of a start is done, and the steps after kill -9, by kind: medians."""
    rows: dict[str, dict[str, float]] = {kind: found for kind in KINDS if (found := waterfall(findings, kind))}
    if rows:
        note = "median moment at which each layer is done: the same start with ever more around it"
        yield Steps("A start, layer by layer", note, rows, NAMES)
    ends: dict[str, dict[str, float]] = {}
    for loaded, kind in ((loaded, kind) for loaded in (False, True) for kind in KINDS):
        recoveries = [each.steps for each in findings.recoveries if (each.kind, each.loaded) == (kind, loaded)]
        if recoveries:
            names = dict.fromkeys(name for steps in recoveries for name in steps)
            ends[f"{kind}, loaded" if loaded else kind] = {
                name: median([steps[name] for steps in recoveries if name in steps]) for name in names
            }
    if ends:
        note = "median moment of every step since the order to kill, while nobody asks and under load"
        yield Steps("After kill -9", note, ends, RECOVERY)


def _measures(title: str, measures: list[Measure], prose: str) -> Table:
    third = [HOST_NETWORK] if any(HOST_NETWORK in each.values for each in measures) else []
    columns = ["Measure", "Process", "Container", *third, "Mean difference (95 %)", "Ratio"]
    table = Table(title, columns, prose=" ".join(prose.split()), right=range(1, 3 + len(third)))
    for each in measures:
        found = each.paired
        row: list[Cell] = [each.name, *(_middle(each, way) for way in (*KINDS, *third))]
        compared = (words.interval(found, each.unit), words.verdict(found)) if found is not None else ("", "")
        table.rows.append([*row, *compared])
    return table


def _middle(measure: Measure, way: str) -> str:
    known = [value for value in measure.values.get(way, []) if value is not None]
    return words.amount(median(known), measure.unit) if known else "-" if way in KINDS else ""


def _spread(findings: Findings, load: str) -> Lines:
    """Draw the distribution of the latencies under one load: the median of each percentile over the rounds, by path."""
    ways: dict[str, list[tuple[float, float]]] = {}
    for way in dict.fromkeys(each.way for each in findings.spreads):
        rounds = [each.percentiles for each in findings.spreads if (each.load, each.way) == (load, way)]
        known = sorted({percent for row in rounds for percent in row if percent < 100})
        ways[way] = [(percent, median([row[percent] for row in rounds if percent in row])) for percent in known]
    return percentiles("Distribution of latency", f"{load}; at every percentile the median over the rounds", ways)


def _growth(findings: Findings, name: str, title: str, unit: str, scale: float) -> Lines | None:
    series: dict[str, list[tuple[float, float]]] = {}
    for each in grown.medians(findings.growth):
        if (y := grown.value(name, each)) is not None:
            series.setdefault(each.kind, []).append((float(each.replicas), y / scale))
    ticks = {x: f"{x:g} replica{'s' if x > 1 else ''}" for line in series.values() for x, _ in line}
    lines: dict[str, list[tuple[float, float]]] = {kind: series[kind] for kind in KINDS if kind in series}
    return Lines(title, "medians, by number of replicas", unit, lines, ticks) if series else None


def _seen(findings: Findings) -> Table:
    columns = ["While one of two", "Kind", "Requests", "Failed", "Repeated", "p99, worst round", "Slowest"]
    table = Table("what clients saw, all rounds together", columns, prose=CLIENTS, right=(5, 6))
    for fault in dict.fromkeys(each.fault for each in findings.seen):
        for kind in KINDS:
            seen = [each for each in findings.seen if (each.fault, each.kind) == (fault, kind)]
            counts: list[Cell] = [sum(each.requests for each in seen), _failed(seen)]
            worst = [max((v for each in seen if (v := getattr(each, of)) is not None), default=None) for of in TIMES]
            repeated = sum(each.repeated for each in seen)
            table.rows.append([fault, kind, *counts, repeated, *(words.amount(each, "ms") for each in worst)])
    return table


TIMES = ("p99_ms", "slowest_ms")


def _failed(seen: list[Seen]) -> str:
    failed: dict[str, int] = {}
    for each in seen:
        for name, count in each.failed.items():
            failed[name] = failed.get(name, 0) + count
    return ", ".join(f"{name} {count}" for name, count in sorted(failed.items())) or "0"


def _grown(findings: Findings) -> Table:
    columns = [
        "Replicas",
        "Kind",
        "RSS",
        "Private",
        "Of files",
        "The engine's part of the PSS",
        "Accounted by the cgroup",
    ]
    table = Table("growth, medians", columns, prose=" ".join(GROWN.split()), right=range(2, 7))
    for each in grown.medians([*findings.growth, *findings.density]):
        kept = each.keeper if each.kind == "container" else None
        held = (each.rss, each.private, each.files, kept, each.cgroup)
        amounts = (words.amount(None if size is None else size / 2**20, "MiB") for size in held)
        table.rows.append([each.replicas, each.kind, *amounts])
    return table


def _attempts(findings: Findings) -> Table:
    columns = [
        "Attack",
        "Kind",
        "Contained",
        "Outcome (the first try's figures)",
        "A neighbour's p99, before -> during",
    ]
    table = Table("isolation", columns, prose=" ".join(ATTACKS.split()))
    for each in verdicts(findings.attempts):
        met = "\n".join(f"{kind}: {words.neighbor_text(one)}" for kind, one in each.neighbours.items())
        outcome = "; or: ".join(each.outcomes)
        table.rows.append([each.name, each.kind, words.containment_text(each), outcome, met])
    return table
