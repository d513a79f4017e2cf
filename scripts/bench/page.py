"""`bench.sh page`: docs/benchmarks.md from the latest result of every bench, with the pictures beside it."""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from scripts.bench.report import RESULTS, ROOT, say
from scripts.bench.table import Table, markdown

ORDER = {"lb": "What a request costs", "idle": "Idle connections", "recovery": "Recovery", "chaos": "Chaos", "load": "A cluster under load"}
ORDER |= {"stats": "What exact statistics cost", "inflight": "Thousands in flight", "swarm": "A node dies"}
OPENING = """# Benchmarks

Written by `scripts/bench.sh page` from the results of the benches named below; each section says how to repeat it. Figures of one machine,
shared with other work as it may be: compare within a table, which is always one run with its rounds interleaved, never between tables.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where the results lie; default .comet/bench")


def run(options: argparse.Namespace) -> int:
    parts, target = [OPENING], ROOT / "docs"
    for bench, title in ORDER.items():
        path: Path = options.results / f"{bench}.json"
        if not path.exists():
            say(f"no result of {bench}: left out (scripts/bench.sh {bench} makes one)")
            continue
        picture = path.with_suffix(".svg")
        if picture.exists():
            shutil.copy(picture, target / f"benchmarks-{bench}.svg")
        parts.append(section(bench, title, json.loads(path.read_text()), picture.exists()))
    (target / "benchmarks.md").write_text("\n".join(parts))
    print(f"written: {target / 'benchmarks.md'}")
    return 0


def section(bench: str, title: str, result: dict[str, Any], picture: bool) -> str:
    """One bench's part of the page."""
    machine = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in result["machine"].items())
    lines = [f"## {title}", "", f"`scripts/bench.sh {bench}`, {result['at']}. {machine}.", ""]
    lines += [f"- {key}: {value}" for key, value in (result["versions"] | result["settings"]).items()]
    for table in result["tables"]:
        lines += ["", markdown(Table(table["title"], table["columns"], table["rows"]))]
    lines += ["", *[f"- {note}" for note in result["notes"]]]
    if picture:
        lines += ["", f"![{title}](benchmarks-{bench}.svg)"]
    return "\n".join([*lines, ""])
