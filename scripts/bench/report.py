"""One result of one bench, and the three forms it takes: tables in the terminal, JSON, a picture (SVG)."""

import json
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scripts.bench import machine
from scripts.bench.chart import Chart, svg
from scripts.bench.table import Cell, Table, render, text

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / ".comet" / "bench"


def say(told: str) -> None:
    """Tell of progress, on stderr: stdout belongs to the result."""
    print(f"bench: {told}", file=sys.stderr, flush=True)


@dataclass
class Report:
    """`data` is what the tables were made from; `notes` are sentences the reader must not miss; `passed` sets the exit code."""

    bench: str
    versions: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
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
            "versions": self.versions | {"comet": machine.commit(ROOT)},
            "settings": self.settings,
            "passed": self.passed,
            "notes": self.notes,
            "tables": tables,
            "data": self.data,
        }

    def as_text(self) -> str:
        """What the terminal shows."""
        known = self.as_dict()
        facts = ", ".join(f"{key} {value}" for key, value in self.machine.items())
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


def finish(report: Report, target: Path | None) -> int:
    """Print, write, and return the exit code. `target` names the JSON file; the picture goes beside it."""
    print(report.as_text(), flush=True)
    path = target or RESULTS / f"{report.bench}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report.as_dict(), indent=1) + "\n")
    written = [str(path)]
    for number, chart in enumerate(report.charts):
        picture = path.with_name(f"{path.stem}{f'-{number + 1}' if number else ''}.svg")
        picture.write_text(svg(chart))
        written.append(str(picture))
    print("\nwritten: " + ", ".join(written), flush=True)
    return 0 if report.passed else 1
