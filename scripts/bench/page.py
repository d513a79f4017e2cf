"""`bench.sh page`: docs/benchmarks.md from the latest result of every bench, with the pictures beside it."""

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from scripts.bench.modes import BENCHES
from scripts.bench.proc import BenchError
from scripts.bench.report import RESULTS, ROOT, say
from scripts.bench.table import Table, label, markdown

OPENING = """# Benchmarks

{how}.

Figures of one machine, shared with other work as it may be: compare within a table, which is always one run with its rounds interleaved,
never between tables.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where the results lie; default .comet/bench")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmarks.md", metavar="FILE", help="default docs/benchmarks.md")


def run(options: argparse.Namespace) -> int:
    results = {}
    for bench in BENCHES:
        path: Path = options.results / f"{bench.name}.json"
        if path.exists():
            results[bench.name] = json.loads(path.read_text())
        else:
            say(f"no result of {bench.name}: left out ({bench.command} --json {path} makes one)")
    if not results:
        raise BenchError(f"no result lies in {options.results}: scripts/bench.sh all makes all of them")
    write(options.page, options.results, results, "Written by `scripts/bench.sh page` from the latest results")
    return 0


def write(page: Path, folder: Path, results: Mapping[str, dict[str, Any]], how: str, failed: Sequence[str] = ()) -> None:
    """The page, and beside it the pictures of these results that lie in `folder`; `failed` says of each bench that failed why."""
    parts = [OPENING.format(how=how)]
    parts += [_machine(next(iter(results.values())))] if results else []
    if failed:
        parts.append("\n".join(["## What failed", "", *[f"- {each}" for each in failed], ""]))
    page.parent.mkdir(parents=True, exist_ok=True)
    for bench in BENCHES:
        if bench.name in results:
            parts.append(section(bench.name, bench.title, results[bench.name], _pictures(bench.name, folder, page.parent)))
    page.write_text("\n".join(parts))
    print(f"written: {page}")


def _pictures(name: str, folder: Path, target: Path) -> list[str]:
    """Copy a bench's pictures beside the page, remove what an earlier page had of it; their names."""
    for old in [*target.glob(f"benchmarks-{name}.svg"), *target.glob(f"benchmarks-{name}-[0-9].svg")]:
        old.unlink()
    found = []
    for picture in [*folder.glob(f"{name}.svg"), *sorted(folder.glob(f"{name}-[0-9].svg"))]:
        shutil.copy(picture, target / f"benchmarks-{picture.name}")
        found.append(f"benchmarks-{picture.name}")
    return found


def _machine(result: dict[str, Any]) -> str:
    told = {key: value for key, value in result["machine"].items() if key != "load_average_before"}
    facts = [f"| {label(key)} | {value} |" for key, value in told.items()]
    day = datetime.fromisoformat(result["at"]).date()
    return "\n".join(
        ["| machine | |", "| --- | --- |", f"| date | {day} |", *facts, f"| commit | {result['versions'].get('commit', '')} |", ""]
    )


def section(bench: str, title: str, result: dict[str, Any], pictures: Sequence[str]) -> str:
    """One bench's part of the page."""
    load = result["machine"].get("load_average_before")
    lines = [
        f"## {title}",
        "",
        f"`{result.get('command', f'scripts/bench.sh {bench}')}`, {result['at']}, load average before it {load}.",
        "",
    ]
    if not result.get("passed", True):
        lines += ["**It did not pass: see the notes below its tables.**", ""]
    versions = ", ".join(f"{key} {value}" for key, value in result["versions"].items() if key != "commit")
    lines += [f"- versions: {versions}"] if versions else []
    lines += [f"- {label(key)}: {value}" for key, value in result["settings"].items()]
    for table in result["tables"]:
        lines += ["", markdown(Table(table["title"], table["columns"], table["rows"]))]
    lines += ["", *[f"- {note}" for note in result["notes"]]]
    for picture in pictures:
        lines += ["", f"![{title}]({picture})"]
    return "\n".join([*lines, ""])
