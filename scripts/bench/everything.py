"""`bench.sh all`: run all benches in turn, shortened, and write the page of their results; in under 20 minutes.

Each bench runs in its own process, so that one that fails, hangs or crashes does not affect the others. The page then
names it and the exit code is 1; the other benches run and report.
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
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from comet.report import terminal
from comet.report.model import Cell, Report, Table
from scripts.bench.modes import BENCHES, Bench
from scripts.bench.page import write
from scripts.bench.report import RESULTS, ROOT, say

END_TIMEOUT = 60.0  # seconds in which a bench that has to end removes its clusters
TOTAL_TIME = 20 * 60.0  # seconds that all may take; the last one has to end END_TIMEOUT before


def add_options(parser: argparse.ArgumentParser) -> None:
    names = [each.name for each in BENCHES]
    parser.add_argument(
        "--only",
        action="append",
        choices=names,
        metavar="BENCH",
        help=f"run only this bench (repeatable): {', '.join(names)}",
    )
    parser.add_argument(
        "--page", type=Path, default=ROOT / "docs" / "benchmarks.md", metavar="FILE", help="default docs/benchmarks.md"
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=RESULTS / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-all",
        metavar="DIR",
        help="folder for the results; default .comet/bench/TIME-all",
    )


@dataclass(frozen=True)
class Outcome:
    """The outcome of one bench: seconds, its result (None: none written), and the error ("": none)."""

    name: str
    seconds: float
    result: dict[str, Any] | None
    error: str


def run(options: argparse.Namespace) -> int:
    chosen = [each for each in BENCHES if not options.only or each.name in options.only]
    options.results.mkdir(parents=True, exist_ok=True)
    say(f"{len(chosen)} benches, planned for {sum(each.planned for each in chosen) / 60:.1f} minutes")
    began, outcomes = time.monotonic(), []
    for number, bench in enumerate(chosen):
        say(
            f"[{number + 1}/{len(chosen)}] {bench.name} {' '.join(bench.short)} "
            f"({(time.monotonic() - began) / 60:.1f} min so far)"
        )
        outcomes.append(run_bench(bench, options.results, began + TOTAL_TIME - END_TIMEOUT))
        say(f"[{number + 1}/{len(chosen)}] {bench.name}: {outcomes[-1].error or 'done'}, {outcomes[-1].seconds:.0f} s")
    return report(outcomes, options.page, options.results, time.monotonic() - began)


def run_bench(bench: Bench, folder: Path, deadline: float = float("inf")) -> Outcome:
    """Run a bench to its end, its time limit or `deadline` (monotonic), whichever comes first."""
    target = folder / f"{bench.name}.json"
    for old in folder.glob(f"{bench.name}[.-]*"):
        if old.is_file():
            old.unlink()
    command = [sys.executable, "-m", "scripts.bench", bench.mode or bench.name, *bench.short, "--json", str(target)]
    began, error = time.monotonic(), ""
    timeout = min(bench.limit, deadline - began)
    if timeout <= 0:
        return Outcome(bench.name, 0.0, None, f"left out: {TOTAL_TIME / 60:.0f} minutes have passed")
    with (folder / f"{bench.name}.log").open("w") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}
        )
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            error, status = f"ended after {timeout:.0f} s, for it did not end by itself", 1
            _end(process)
        except BaseException:
            _end(process)
            raise
    with suppress(OSError, ValueError):
        result = json.loads(target.read_text())
        result["command"] = bench.command
        if status and not error:
            error = "did not pass: " + ("; ".join(error_notes(result["notes"])) or f"exit code {status}")
        return Outcome(bench.name, time.monotonic() - began, result, error)
    return Outcome(
        bench.name,
        time.monotonic() - began,
        None,
        error or f"failed with exit code {status} and no result (its words stand above)",
    )


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_TIMEOUT)
    process.kill()
    process.wait()


def error_notes(notes: Sequence[str]) -> list[str]:
    """Return the notes that report errors."""
    return [note for note in notes if any(word in note for word in ("MISSED", "NOT ", "FAILED"))]


def report(outcomes: Sequence[Outcome], page: Path, folder: Path, seconds: float) -> int:
    """Write the page, print the times, return the exit code."""
    failed = [f"`{each.name}`: {each.error}" for each in outcomes if each.error]
    results = {each.name: each.result for each in outcomes if each.result is not None}
    write(page, folder, results, failed)
    rows: list[list[Cell]] = [[each.name, each.seconds, each.error or "done"] for each in outcomes]
    rows.append(["all", seconds, f"{len(failed)} of {len(outcomes)} failed"])
    terminal.show(Report("all", parts=[Table("Benches", ["bench", "seconds", "how it ended"], rows)]))
    return 1 if failed else 0
