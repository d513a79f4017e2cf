"""The comparison as tables in a terminal."""

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from comet.compare import words
from comet.compare.findings import HOST_NETWORK, KINDS, Findings, Measure
from comet.compare.grown import medians
from comet.compare.verdicts import verdicts


def show(findings: Findings) -> None:
    """Print it all; as wide as it needs to be where the output is no terminal."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=160)
    for section, measures in findings.sections():
        console.print(f"\n[bold]{words.TITLES.get(section, section)}[/bold]")
        console.print(_measures(measures))
    others = {
        "what clients saw, all rounds together": _seen(findings),
        "growth, medians": _growth(findings),
        "isolation": _attempts(findings),
    }
    for title, table in others.items():
        if table.row_count:
            console.print(f"\n[bold]{title}[/bold]")
            console.print(table)
    console.print("\n[bold]in words[/bold]")
    for sentence in words.summary(findings):
        console.print(f"- {sentence}")
    for warning in words.warnings(findings):
        console.print(f"! {warning}")
    console.print(f"\n{findings.rounds} round{'s' if findings.rounds != 1 else ''} in {findings.seconds:.0f} s")


def _measures(measures: Iterable[Measure]) -> Table:
    asked = list(measures)
    beside = ["HOST NETWORK"] if any(HOST_NETWORK in each.values for each in asked) else []
    table = _table("MEASURE", "PROCESS", "CONTAINER", *beside, "MEAN DIFFERENCE (95 %)", "", right=range(1, 3 + len(beside)))
    for each in asked:
        found = each.paired
        third = Measure("", "", "", {"process": each.values.get(HOST_NETWORK, []), "container": each.values.get(HOST_NETWORK, [])}).paired
        other = [words.amount(third.container, each.unit) if third is not None else ""][: len(beside)]
        if found is None:
            one = [Measure("", "", "", {k: each.values.get(kind, []) for k in KINDS}).paired for kind in KINDS]
            cells = [words.amount(p.process if p else None, each.unit) for p in one]
            table.add_row(each.name, *cells, *other, "", "")
        else:
            medians = (words.amount(found.process, each.unit), words.amount(found.container, each.unit))
            table.add_row(each.name, *medians, *other, words.interval(found, each.unit), words.verdict(found))
    return table


def _seen(findings: Findings) -> Table:
    table = _table("WHILE ONE OF TWO", "KIND", "REQUESTS", "FAILED", "REPEATED", "P99", "SLOWEST", right=(2, 4, 5, 6))
    for fault in dict.fromkeys(each.fault for each in findings.seen):
        for kind in KINDS:
            seen = [each for each in findings.seen if (each.fault, each.kind) == (fault, kind)]
            failed: dict[str, int] = {}
            for each in seen:
                for name, count in each.failed.items():
                    failed[name] = failed.get(name, 0) + count
            told = ", ".join(f"{name} {count}" for name, count in sorted(failed.items())) or "0"
            p99 = max((each.p99_ms or 0 for each in seen), default=0)
            slowest = max((each.slowest_ms or 0 for each in seen), default=0)
            counts = (f"{sum(each.requests for each in seen):,}", told, str(sum(each.repeated for each in seen)))
            table.add_row(fault, kind, *counts, words.amount(p99, "ms"), words.amount(slowest, "ms"))
    return table


def _growth(findings: Findings) -> Table:
    table = _table("REPLICAS", "KIND", "RSS", "THE ENGINE'S PART OF THE PSS", "ACCOUNTED BY THE CGROUP", right=(0, *range(2, 5)))
    for each in medians(findings.growth):
        cgroup = "-" if each.cgroup is None else words.amount(each.cgroup / 2**20, "MiB")
        table.add_row(str(each.replicas), each.kind, *(words.amount(size / 2**20, "MiB") for size in (each.rss, each.keeper)), cgroup)
    return table


def _attempts(findings: Findings) -> Table:
    table = _table("ATTACK", "KIND", "CONTAINED", "OUTCOME (THE FIRST TRY'S FIGURES)", "NEIGHBOURS' P99, BEFORE -> DURING")
    for each in verdicts(findings.attempts):
        neighbours = "\n".join(f"{kind}: {words.met(met)}" for kind, met in each.neighbours.items())
        table.add_row(each.name, each.kind, words.held(each), "; or: ".join(each.outcomes), neighbours)
    return table


def _table(*headings: str, right: Iterable[int] = ()) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index in right else "left", overflow="fold")
    return table
