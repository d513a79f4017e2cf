"""Begins the report of a bench, and prints and writes it: JSON, pictures (SVG and PNG), and one HTML page."""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import Any

from comet.report import page, svg, terminal
from comet.report.model import Cell, Report, Table
from scripts.bench import machine
from scripts.bench.proc import BenchError

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / ".comet" / "bench"


def say(text: str) -> None:
    """Print progress on stderr: stdout is for the result."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Samples:
    """Repeated measurements of one value, by which two results can be compared; `better` is "less" or "more"."""

    unit: str
    better: str
    values: list[float]


@dataclass
class Result(Report):
    """A report of a bench: `samples` by name are what two results are compared by, `data` is what the tables were made
    from.
    """

    samples: dict[str, Samples] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON document."""
        tables = [
            {"title": each.title, "columns": list(each.columns), "rows": [list(map(_plain, row)) for row in each.rows]}
            for each in self.tables
        ]
        whole = {name: getattr(self, name) for name in ("machine", "versions", "settings", "passed", "notes")}
        samples = {name: vars(each) for name, each in self.samples.items()}
        return {"bench": self.title, "at": self.at, **whole, "tables": tables, "samples": samples, "data": self.data}


def _plain(cell: Cell) -> Cell:
    """Replace infinity, which JSON does not have."""
    return "never" if cell == inf else cell


def begin(bench: str, versions: Mapping[str, str] | None = None) -> Result:
    """Return an empty report of this machine at this time."""
    known = {**(versions or {}), "commit": machine.commit(ROOT)}
    at = datetime.now(UTC).isoformat(timespec="seconds")
    return Result(bench, "scripts/bench.sh", machine.facts(), known, passed=True, at=at)


def finish(report: Result, target: Path | None, folder: Path = ROOT) -> int:
    """Print and write the result, and return the exit code.

    `target` is the JSON file; pictures and page are written next to it. Without one it is a new file, named after the
    time, in the folder of the cluster that was measured. BenchError if they cannot be written.
    """
    terminal.show(report)
    sys.stdout.flush()
    path = target or unused(folder / ".comet" / "bench", report)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report.as_dict(), indent=1) + "\n")
        written = [path, *_pictures(report, path), path.with_suffix(".html")]
        written[-1].write_text(page.render(report))
    except OSError as error:
        raise BenchError(f"the result cannot be written: {error.filename or path}: {error.strerror}") from None
    print("\nwritten: " + ", ".join(map(str, written)), flush=True)
    return 0 if report.passed else 1


def unused(folder: Path, report: Report) -> Path:
    """Return a file's path that no earlier result has."""
    stamp = datetime.fromisoformat(report.at).strftime("%Y%m%d-%H%M%S")
    names = (f"{stamp}-{report.title}{f'-{number}' if number else ''}.json" for number in range(1000))
    return next(folder / name for name in names if not (folder / name).exists())


def _pictures(report: Report, beside: Path) -> list[Path]:
    """Write each picture as SVG, and as PNG if librsvg's rsvg-convert is installed (scripts/bench.sh installs it)."""
    written = []
    pictures = [part for part in report.parts if not isinstance(part, Table)]
    for number, picture in enumerate(pictures):
        path = beside.with_name(f"{beside.stem}{f'-{number + 1}' if number else ''}.svg")
        path.write_text(svg.draw(picture))
        written.append(path)
        if shutil.which("rsvg-convert"):
            png = path.with_suffix(".png")
            subprocess.run(["rsvg-convert", "--width", "1800", "--output", str(png), str(path)], check=True)
            written.append(png)
    return written
