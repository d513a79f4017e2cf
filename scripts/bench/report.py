"""One result of one bench, and the forms it takes: tables in the terminal, JSON, pictures (SVG and PNG), and one page with all (HTML)."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scripts.bench import chart, curve, htmlpage, machine
from scripts.bench.chart import Chart
from scripts.bench.curve import Curve
from scripts.bench.proc import BenchError
from scripts.bench.table import Cell, Table, label, render, text

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / ".comet" / "bench"


def say(told: str) -> None:
    """Tell of progress, on stderr: stdout belongs to the result."""
    print(f"bench: {told}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Samples:
    """Repeated measurements of one thing, by which two results can be compared; `better` is "less" or "more"."""

    unit: str
    better: str
    values: list[float]


@dataclass
class Report:
    """`data` is what the tables were made from; `samples` by name are what `diff` compares; `notes` are sentences the reader must not miss;
    `passed` sets the exit code."""

    bench: str
    versions: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    charts: list[Chart | Curve] = field(default_factory=list)
    samples: dict[str, Samples] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    passed: bool = True
    machine: dict[str, Any] = field(default_factory=machine.describe)
    began: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def as_dict(self) -> dict[str, Any]:
        """The JSON document."""
        tables = [
            {"title": table.title, "columns": list(table.columns), "rows": [list(map(_plain, row)) for row in table.rows]}
            for table in self.tables
        ]
        return {
            "bench": self.bench,
            "at": self.began,
            "machine": self.machine,
            "versions": self.versions | {"commit": machine.commit(ROOT)},
            "settings": self.settings,
            "passed": self.passed,
            "notes": self.notes,
            "tables": tables,
            "samples": {name: vars(each) for name, each in self.samples.items()},
            "data": self.data,
        }

    def as_text(self) -> str:
        """What the terminal shows."""
        known = self.as_dict()
        facts = ", ".join(f"{label(key)} {value}" for key, value in self.machine.items())
        parts = [f"{self.bench}, {self.began}", f"machine: {facts}"]
        parts.append("versions: " + ", ".join(f"{key} {value}" for key, value in known["versions"].items()))
        parts.extend(f"{key}: {value}" for key, value in self.settings.items())
        parts.extend(f"\n{render(table)}" for table in self.tables)
        if self.notes:
            parts.append("\n" + "\n".join(f"* {note}" for note in self.notes))
        return "\n".join(parts)


def _plain(cell: Cell) -> Cell:
    """JSON knows no infinity."""
    return text(cell) if cell == float("inf") else cell


def drawn(picture: Chart | Curve) -> str:
    """As SVG."""
    return curve.svg(picture) if isinstance(picture, Curve) else chart.svg(picture)


def finish(report: Report, target: Path | None) -> int:
    """Print, write, and return the exit code. `target` names the JSON file; pictures and page go beside it. BenchError: they cannot."""
    print(report.as_text(), flush=True)
    path = target or RESULTS / f"{report.bench}.json"
    page = path.with_suffix(".html")
    pictures = [drawn(each) for each in report.charts]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report.as_dict(), indent=1) + "\n")
        written = [path, *_pictures(pictures, path)]
        page.write_text(htmlpage.page(report.as_dict(), report.tables, pictures))
    except OSError as error:
        raise BenchError(f"the result cannot be written: {error.filename or path}: {error.strerror}") from None
    print("\nwritten: " + ", ".join(map(str, [*written, page])), flush=True)
    return 0 if report.passed else 1


def _pictures(pictures: list[str], beside: Path) -> list[Path]:
    """Each as SVG, and as PNG where librsvg's rsvg-convert is there (scripts/bench.sh installs it)."""
    written = []
    for number, text_ in enumerate(pictures):
        svg = beside.with_name(f"{beside.stem}{f'-{number + 1}' if number else ''}.svg")
        svg.write_text(text_)
        written.append(svg)
        if shutil.which("rsvg-convert"):
            png = svg.with_suffix(".png")
            subprocess.run(["rsvg-convert", "--width", "1800", "--output", str(png), str(svg)], check=True)
            written.append(png)
    return written
