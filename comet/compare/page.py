"""The comparison as one self-contained HTML page: no script, no other file, no address of another host."""

import json
from collections.abc import Mapping
from importlib.resources import files
from statistics import median
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from comet.compare import svg, terminal, words
from comet.compare.findings import KINDS, Findings, Measure


def render(findings: Findings, at: str) -> str:
    """The whole page; `at` is when it was made, in words."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("comet.compare").joinpath("report.html.j2").read_text())
    return template.render(
        at=at,
        findings=findings,
        summary=words.summary(findings),
        warnings=words.warnings(findings),
        sections=[(name, [_row(measure) for measure in measures]) for name, measures in findings.sections()],
        timelines=_timelines(findings),
        growth=_growth(findings),
        seen=[(f, k, _of(findings, f, k)) for f in dict.fromkeys(each.fault for each in findings.seen) for k in KINDS],
        neighbours=terminal.neighbours,
        amount=words.amount,
        raw=json.dumps(findings.as_dict(), indent=1),
    )


def _row(measure: Measure) -> dict[str, Any]:
    found = measure.paired
    cells = {}
    for way, values in measure.values.items():
        known = [value for value in values if value is not None]
        cells[way] = words.amount(median(known), measure.unit) if known else "-"
    return {
        "name": measure.name,
        "lead": measure.name in dict(words.LEADS),
        "cells": cells,
        "difference": words.interval(found, measure.unit) if found is not None else "",
        "verdict": words.verdict(found) if found is not None else "",
        "noisy": found is not None and found.low is not None and not found.certain,
        "plot": Markup(svg.strip(measure.values, measure.unit)) if found is not None and any(map(any, measure.values.values())) else "",
    }


def _timelines(findings: Findings) -> Markup:
    """The median moment of each step after kill -9, by kind."""
    rows: dict[str, dict[str, float]] = {}
    for kind in KINDS:
        recoveries = [each.steps for each in findings.recoveries if each.kind == kind]
        names = dict.fromkeys(name for steps in recoveries for name in steps)
        if recoveries:
            rows[kind] = {name: median([steps[name] for steps in recoveries if name in steps]) for name in names}
    return Markup(svg.steps(rows)) if rows else Markup("")


def _growth(findings: Findings) -> Markup:
    series: dict[str, list[tuple[float, float]]]
    series = {k: [(float(g.replicas), (g.pss + g.keeper) / 2**20) for g in findings.growth if g.kind == k] for k in KINDS}
    return Markup(svg.lines(series, "replicas", "MiB")) if findings.growth else Markup("")


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
