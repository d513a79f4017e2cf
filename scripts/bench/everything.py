"""`bench.sh all`: every bench one after the other, briefer than by itself, and the page of their results; under 20 minutes.

Each runs as a process of its own, so that one that fails, hangs or crashes takes no other with it. It is then named in the page and the
exit code is 1; the others still run and their tables still stand.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.bench.modes import BENCHES, Bench
from scripts.bench.page import write
from scripts.bench.report import RESULTS, ROOT, say
from scripts.bench.table import Cell, Table, render

GRACE = 60.0  # seconds in which a bench that is told to end takes its clusters down
WHOLE = 20 * 60.0  # seconds that all may take; the last one to run is told to end a GRACE before


def add_options(parser: argparse.ArgumentParser) -> None:
    names = [each.name for each in BENCHES]
    parser.add_argument("--only", action="append", choices=names, metavar="BENCH", help=f"only this one (repeatable): {', '.join(names)}")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmarks.md", metavar="FILE", help="default docs/benchmarks.md")
    parser.add_argument(
        "--results", type=Path, default=RESULTS / "all", metavar="DIR", help="where the results go; default .comet/bench/all"
    )


@dataclass(frozen=True)
class Ended:
    """One bench: seconds, its result (None: it wrote none), and what was wrong with it, in words ("": nothing)."""

    name: str
    seconds: float
    result: dict[str, Any] | None
    wrong: str


def run(options: argparse.Namespace) -> int:
    chosen = [each for each in BENCHES if not options.only or each.name in options.only]
    options.results.mkdir(parents=True, exist_ok=True)
    began, ended = time.monotonic(), []
    for number, bench in enumerate(chosen):
        say(f"[{number + 1}/{len(chosen)}] {bench.name} {' '.join(bench.short)} ({(time.monotonic() - began) / 60:.1f} min so far)")
        ended.append(one(bench, options.results, began + WHOLE - GRACE))
        say(f"[{number + 1}/{len(chosen)}] {bench.name}: {ended[-1].wrong or 'done'}, {ended[-1].seconds:.0f} s")
    return report(ended, options.page, options.results, time.monotonic() - began)


def one(bench: Bench, folder: Path, deadline: float = float("inf")) -> Ended:
    """Run a bench to its end, or for so long as it may take; to `deadline` (of the monotonic clock) at most."""
    target = folder / f"{bench.name}.json"
    for old in folder.glob(f"{bench.name}[.-]*"):
        if old.is_file():
            old.unlink()
    command = [sys.executable, "-m", "scripts.bench", bench.mode or bench.name, *bench.short, "--json", str(target)]
    began, wrong = time.monotonic(), ""
    patience = min(bench.limit, deadline - began)
    if patience <= 0:
        return Ended(bench.name, 0.0, None, f"left out: {WHOLE / 60:.0f} minutes were over")
    with (folder / f"{bench.name}.log").open("w") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)})
        try:
            status = process.wait(patience)
        except subprocess.TimeoutExpired:
            wrong, status = f"ended after {patience:.0f} s, for it did not end by itself", 1
            _end(process)
        except BaseException:
            _end(process)
            raise
    with suppress(OSError, ValueError):
        result = json.loads(target.read_text())
        result["command"] = bench.command
        if status and not wrong:
            wrong = "did not pass: " + ("; ".join(alarms(result["notes"])) or f"exit code {status}")
        return Ended(bench.name, time.monotonic() - began, result, wrong)
    return Ended(
        bench.name, time.monotonic() - began, None, wrong or f"failed with exit code {status} and no result (its words stand above)"
    )


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)
    process.kill()
    process.wait()


def alarms(notes: Sequence[str]) -> list[str]:
    """The notes that say what was wrong."""
    return [note for note in notes if any(word in note for word in ("MISSED", "NOT ", "FAILED"))]


def report(ended: Sequence[Ended], page: Path, folder: Path, seconds: float) -> int:
    """Write the page, show the times, return the exit code."""
    failed = [f"`{each.name}`: {each.wrong}" for each in ended if each.wrong]
    results = {each.name: each.result for each in ended if each.result is not None}
    write(
        page,
        folder,
        results,
        f"Written by `scripts/bench.sh all` in {seconds / 60:.0f} minutes; each section says how to repeat it",
        failed,
    )
    rows: list[list[Cell]] = [[each.name, each.seconds, each.wrong or "done"] for each in ended]
    print(render(Table("", ["bench", "seconds", "how it ended"], [*rows, ["all", seconds, f"{len(failed)} of {len(ended)} failed"]])))
    return 1 if failed else 0
