"""`bench.sh diff A B`: shows which differences between two result files of one bench exceed the noise.

Every result has repeated measurements (slices, rounds, kills). For each value that both files measured at least twice,
this computes the difference of the means and its 95 % interval (Welch's t, for noise that differs between the two). An
interval that contains zero means no difference. Only the noise within each run is considered, not what changes from run
to run (other load on the machine, a warm cache): repeat A after B to see that.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import mean, variance
from typing import Any

from comet.compare.results.figures import student
from comet.report import terminal
from comet.report.model import Cell, Report, Table
from scripts.bench.proc import BenchError
from scripts.bench.report import say

PARTS = ("settings", "versions", "machine")
"""The parts of a result that say how it was measured."""

LARGEST = 1e100
"""No measured value is as large; the variance of larger ones is no float. Neither NaN nor infinity is smaller."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", type=Path, metavar="A", help="a result (JSON), the one to compare with")
    parser.add_argument("b", type=Path, metavar="B", help="another result of the same bench")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table as JSON too")
    parser.add_argument("--fail-on-worse", action="store_true", help="exit 1 if something is worse beyond the noise")


@dataclass(frozen=True)
class Difference:
    """B's mean minus A's with its 95 % interval; None if one of them has fewer than two values, so that its noise is
    unknown.
    """

    a: float
    b: float
    low: float | None
    high: float | None

    @property
    def certain(self) -> bool:
        """Whether the difference exceeds the noise."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def welch(a: Sequence[float], b: Sequence[float]) -> Difference:
    """Compare the means; ValueError for no values."""
    if not a or not b:
        raise ValueError("nothing to compare")
    middle_a, middle_b = mean(a), mean(b)
    if len(a) < 2 or len(b) < 2:
        return Difference(middle_a, middle_b, None, None)
    own_a, own_b = variance(a) / len(a), variance(b) / len(b)
    error = own_a + own_b
    if not error:
        return Difference(middle_a, middle_b, middle_b - middle_a, middle_b - middle_a)
    freedom = error**2 / (own_a**2 / (len(a) - 1) + own_b**2 / (len(b) - 1))
    margin = student(max(1, int(freedom))) * sqrt(error)
    return Difference(middle_a, middle_b, middle_b - middle_a - margin, middle_b - middle_a + margin)


def verdict(difference: Difference, better: str) -> str:
    """Return the verdict in one or a few words."""
    if difference.low is None:
        return "noise unknown (one value)" if difference.a != difference.b else "the same"
    if not difference.certain:
        return "the same" if difference.low == difference.high else "within the noise"
    return "better" if (difference.b > difference.a) == (better == "more") else "WORSE"


def read(path: Path) -> dict[str, Any]:
    """Read a result file; BenchError if it is not one."""
    try:
        data = json.loads(path.read_text())
        json.dumps(data, ensure_ascii=False).encode()  # Half a surrogate pair cannot be printed.
        if not is_result(data):
            raise ValueError
    except OSError as error:
        raise BenchError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise BenchError(f"{path}: not a result of scripts/bench.sh (a JSON file that it wrote)") from None
    return dict(data)


def is_result(data: Any) -> bool:
    """Return whether all that is read of a result is there and of its type."""
    return (
        isinstance(data, dict)
        and all(isinstance(data.get(key), str) for key in ("bench", "at"))
        and all(isinstance(data.get(part, {}), dict) for part in PARTS)
        and isinstance(data.get("samples"), dict)
        and all(map(_is_sample, data["samples"].values()))
    )


def _is_sample(data: Any) -> bool:
    return (
        isinstance(data, dict)
        and isinstance(data.get("unit"), str)
        and data.get("better") in ("less", "more")
        and isinstance(data.get("values"), list)
        and all(type(value) in (int, float) and abs(value) < LARGEST for value in data["values"])
    )


def compare(a: dict[str, Any], b: dict[str, Any]) -> Table:
    """Return what both files measured, in A's order. BenchError if they are of different benches or share nothing."""
    if a["bench"] != b["bench"]:
        raise BenchError(f"one is a result of {a['bench']}, the other of {b['bench']}: compare two of the same bench")
    table = Table(
        "B against A (means; difference with its 95 % interval)",
        ["what", "unit", "A", "B", "B - A", "from", "to", "change %", "verdict"],
    )
    for name, of_a in a["samples"].items():
        of_b = b["samples"].get(name)
        if of_b is None or not of_a["values"] or not of_b["values"]:
            continue
        found = welch(of_a["values"], of_b["values"])
        change = (found.b / found.a - 1) * 100 if found.a else None
        row: list[Cell] = [name, of_a["unit"], found.a, found.b, found.b - found.a, found.low, found.high, change]
        table.rows.append([*row, verdict(found, of_a["better"])])
    if not table.rows:
        raise BenchError("the two results measured nothing in common")
    return table


def other_differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Return what else differs between the two results: it may explain differences."""
    found = []
    for part in PARTS:
        for key in dict.fromkeys([*a.get(part, {}), *b.get(part, {})]):
            one, other = a.get(part, {}).get(key), b.get(part, {}).get(key)
            if one != other and key not in ("load_before", "seed"):
                found.append(f"{key}: A {one}, B {other}")
    return found


def run(options: argparse.Namespace) -> int:
    paths = (options.a, options.b)
    a, b = map(read, paths)
    table = compare(a, b)
    words = [str(row[-1]) for row in table.rows]
    worse, better = words.count("WORSE"), words.count("better")
    report = Report("diff", parts=[table], notes=[f"not the same: {each}" for each in other_differences(a, b)])
    report.settings = {
        name: f"{of['bench']}, {of['at']}, {path}" for name, of, path in zip("AB", (a, b), paths, strict=True)
    }
    report.notes.append(
        f"beyond the noise: {better} better, {worse} worse, of {len(words)}; noise is that within the runs, not "
        "between them"
    )
    terminal.show(report)
    if options.json:
        try:
            options.json.write_text(json.dumps({"columns": list(table.columns), "rows": table.rows}, indent=1) + "\n")
        except OSError as error:
            say(f"{options.json}: {error.strerror}")
            return 1
    return 1 if worse and options.fail_on_worse else 0
