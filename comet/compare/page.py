"""The comparison as one self-contained HTML page: no script, no other file, no address of another host."""

import json
from collections.abc import Mapping
from importlib.resources import files
from statistics import median
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from comet.compare import grown, svg, words
from comet.compare.findings import HOST_NETWORK, KINDS, Findings, Measure
from comet.compare.verdicts import verdicts


def render(findings: Findings, at: str) -> str:
    """The whole page; `at` is when it was made, in words."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("comet.compare").joinpath("report.html.j2").read_text())
    return template.render(
        at=at,
        findings=findings,
        summary=words.summary(findings),
        warnings=words.warnings(findings),
        sections={name: [_row(measure) for measure in measures] for name, measures in findings.sections()},
        timelines=_timelines(findings),
        spreads=[(load, _spread(findings, load)) for load in dict.fromkeys(each.load for each in findings.spreads)],
        growth=[(title, _growth(findings, name, unit, scale)) for name, title, unit, scale in GROWTH],
        grown=list(grown.medians(findings.growth)),
        verdicts=list(verdicts(findings.attempts)),
        seen=[(f, k, _of(findings, f, k)) for f in dict.fromkeys(each.fault for each in findings.seen) for k in KINDS],
        held=words.held,
        met=words.met,
        titles=words.TITLES,
        amount=words.amount,
        raw=json.dumps(words.document(findings), indent=1),
    )


def _row(measure: Measure) -> dict[str, Any]:
    found = measure.paired
    cells = {}
    ways = {way: measure.values[way] for way in (*KINDS, HOST_NETWORK) if way in measure.values}
    for way, values in ways.items():
        known = [value for value in values if value is not None]
        cells[way] = words.amount(median(known), measure.unit) if known else "-"
    return {
        "name": measure.name,
        "lead": measure.name in dict(words.LEADS),
        "cells": cells,
        "difference": words.interval(found, measure.unit) if found is not None else "",
        "verdict": words.verdict(found) if found is not None else "",
        "third": HOST_NETWORK in cells,
        "noisy": found is not None and found.noisy,
        "plot": Markup(svg.strip(ways, measure.unit)) if found is not None and any(map(any, ways.values())) else "",
    }


def _timelines(findings: Findings) -> Markup:
    """The median moment of each step after kill -9, by kind, calm and under load."""
    rows: dict[str, dict[str, float]] = {}
    for loaded, kind in ((loaded, kind) for loaded in (False, True) for kind in KINDS):
        recoveries = [each.steps for each in findings.recoveries if (each.kind, each.loaded) == (kind, loaded)]
        names = dict.fromkeys(name for steps in recoveries for name in steps)
        if recoveries:
            rows[f"{kind}, loaded" if loaded else kind] = {
                name: median([steps[name] for steps in recoveries if name in steps]) for name in names
            }
    return Markup(svg.steps(rows)) if rows else Markup("")


def _spread(findings: Findings, load: str) -> Markup:
    """The distribution of the latencies under one load: of each percentile the median over the rounds, by way."""
    ways: dict[str, dict[float, float]] = {}
    for way in dict.fromkeys(each.way for each in findings.spreads):
        rounds = [each.percentiles for each in findings.spreads if (each.load, each.way) == (load, way)]
        ways[way] = {percent: median([row[percent] for row in rounds if percent in row]) for row in rounds for percent in row}
    return Markup(svg.percentiles(ways, "ms"))


GROWTH = (
    (grown.MEMORY, "Memory (PSS) of all workers, for containers with the engine's own processes for them", "MiB", 1.0),
    (grown.TIME, "From one replica to all of them being ready", "s", 1000.0),
    (grown.CPU, "CPU of the machine meanwhile", "s", 1000.0),
)
"""What is drawn over the number of replicas: its name, title, unit, and what it is divided by for that."""


def _growth(findings: Findings, name: str, unit: str, scale: float) -> Markup:
    series: dict[str, list[tuple[float, float]]] = {}
    for each in grown.medians(findings.growth):
        if (y := grown.value(name, each)) is not None:
            series.setdefault(each.kind, []).append((float(each.replicas), y / scale))
    return Markup(svg.lines({kind: series[kind] for kind in KINDS if kind in series}, "replicas", unit)) if series else Markup("")


def _of(findings: Findings, fault: str, kind: str) -> Mapping[str, Any]:
    seen = [each for each in findings.seen if (each.fault, each.kind) == (fault, kind)]
    failed: dict[str, int] = {}
    for each in seen:
        for name, count in each.failed.items():
            failed[name] = failed.get(name, 0) + count
    return {
        "requests": sum(each.requests for each in seen),
        "failed": ", ".join(f"{name} {count}" for name, count in sorted(failed.items())) or "0",
        "repeated": sum(each.repeated for each in seen),
        "p99": max((each.p99_ms for each in seen if each.p99_ms is not None), default=None),
        "slowest": max((each.slowest_ms for each in seen if each.slowest_ms is not None), default=None),
    }
