"""Writes results into docs/benchmarks.md, a section each, with the pictures next to it.

A section that no result is given for stays as it is, also that of a bench which is gone.
"""

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from comet.report.cells import label, text
from comet.report.model import Table
from scripts.bench.modes import BENCHES

OPENING = """# Benchmarks

Written by `scripts/bench.sh all`; each section says when, where, and how to repeat it.

Figures of one machine, shared with other work as it may be: compare within a table, which is always one run with its
rounds interleaved, never between tables.
"""
FAILED = "What failed"


def write(page: Path, folder: Path, results: Mapping[str, dict[str, Any]], failed: Sequence[str] = ()) -> None:
    """Write the sections of these results, and their pictures from `folder`; `failed` has a sentence for each bench
    that failed.
    """
    page.parent.mkdir(parents=True, exist_ok=True)
    kept = re.split(r"^## ", page.read_text() if page.exists() else "", flags=re.MULTILINE)[1:]
    sections = {each.partition("\n")[0]: f"## {each.rstrip()}\n" for each in kept}
    sections[FAILED] = "\n".join([f"## {FAILED}", "", *[f"- {each}" for each in failed], ""]) if failed else ""
    for bench in BENCHES:
        if bench.name in results:
            pictures = _pictures(bench.name, folder, page.parent)
            sections[bench.title] = section(bench.name, bench.title, results[bench.name], pictures)
    first = dict.fromkeys([FAILED, *(bench.title for bench in BENCHES)])
    page.write_text("\n".join([OPENING, *(sections[title] for title in first | sections if sections.get(title))]))
    print(f"written: {page}")


def _pictures(name: str, folder: Path, target: Path) -> list[str]:
    """Copy a bench's pictures next to the page, remove those of an earlier page, and return their names."""
    for old in [*target.glob(f"benchmarks-{name}.svg"), *target.glob(f"benchmarks-{name}-[0-9].svg")]:
        old.unlink()
    found = []
    for picture in [*folder.glob(f"{name}.svg"), *sorted(folder.glob(f"{name}-[0-9].svg"))]:
        shutil.copy(picture, target / f"benchmarks-{picture.name}")
        found.append(f"benchmarks-{picture.name}")
    return found


def section(bench: str, title: str, result: dict[str, Any], pictures: Sequence[str]) -> str:
    """Return one bench's part of the page."""
    machine = ", ".join(f"{label(key)} {value}" for key, value in result["machine"].items())
    lines = [f"## {title}", "", f"`{result.get('command', f'scripts/bench.sh {bench}')}`, {result['at']}.", ""]
    if not result.get("passed", True):
        lines += ["**It did not pass: see the notes below its tables.**", ""]
    lines += [f"- machine: {machine}", "- versions: " + ", ".join(map(" ".join, result["versions"].items()))]
    lines += [f"- {label(key)}: {value}" for key, value in result["settings"].items()]
    for table in result["tables"]:
        lines += ["", markdown(Table(table["title"], table["columns"], table["rows"]))]
    lines += ["", *[f"- {note}" for note in result["notes"]]]
    for picture in pictures:
        lines += ["", f"![{title}]({picture})"]
    return "\n".join([*lines, ""])


def markdown(table: Table) -> str:
    """Return the table as Markdown."""
    rules = ["---:" if table.is_right(index) and table.rows else "---" for index in range(len(table.columns))]
    lines = [f"**{table.title}**", ""] if table.title else []
    lines += ["| " + " | ".join(row) + " |" for row in (table.columns, rules)]
    lines += ["| " + " | ".join(text(cell) for cell in row) + " |" for row in table.rows]
    return "\n".join(lines)
