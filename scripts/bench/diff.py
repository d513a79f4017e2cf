"""`bench.sh diff A B`: two result files of one bench, and which of their differences exceed the noise.

Every result holds repeated measurements (slices, rounds, kills). For each thing that both measured at least twice, the difference of the
means and its 95 % interval (Welch's t, for noise that differs between the two): an interval that holds zero is no difference. It knows the
noise within each run only; what changes from run to run (other work on the machine, a warm cache) it cannot see, so repeat A after B.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import mean, variance
from typing import Any

from comet.compare.figures import student
from scripts.bench.proc import BenchError
from scripts.bench.report import say
from scripts.bench.table import Cell, Table, render


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", type=Path, metavar="A", help="a result (JSON), the one to compare with")
    parser.add_argument("b", type=Path, metavar="B", help="another result of the same bench")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table as JSON too")
    parser.add_argument("--fail-on-worse", action="store_true", help="exit 1 when something is worse beyond the noise")


@dataclass(frozen=True)
class Difference:
    """B's mean less A's with its 95 % interval; None: one of them has fewer than two values, so that its noise is unknown."""

    a: float
    b: float
    low: float | None
    high: float | None

    @property
    def certain(self) -> bool:
        """Whether it exceeds the noise."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def welch(a: Sequence[float], b: Sequence[float]) -> Difference:
    """Compare means. ValueError: no values."""
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


def verdict(of: Difference, better: str) -> str:
    """In one word or few."""
    if of.low is None:
        return "noise unknown (one value)" if of.a != of.b else "the same"
    if not of.certain:
        return "the same" if of.low == of.high else "within the noise"
    return "better" if (of.b > of.a) == (better == "more") else "WORSE"


def read(path: Path) -> dict[str, Any]:
    """A result. BenchError: it is none."""
    try:
        told = json.loads(path.read_text())
        if not isinstance(told["samples"], dict) or not isinstance(told["bench"], str):
            raise ValueError
    except OSError as error:
        raise BenchError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise BenchError(f"{path}: not a result of scripts/bench.sh (a JSON file that it wrote)") from None
    return dict(told)


def compare(a: dict[str, Any], b: dict[str, Any]) -> Table:
    """What both measured, in A's order. BenchError: they are not of one bench, or share nothing."""
    if a["bench"] != b["bench"]:
        raise BenchError(f"one is a result of {a['bench']}, the other of {b['bench']}: compare two of the same bench")
    table = Table(
        "B against A (means; difference with its 95 % interval)", ["what", "unit", "A", "B", "B - A", "from", "to", "change %", "verdict"]
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


def unlike(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """What was not the same in the two but for the measurements: differences may come from it."""
    found = []
    for part in ("settings", "versions", "machine"):
        for key in dict.fromkeys([*a.get(part, {}), *b.get(part, {})]):
            one, other = a.get(part, {}).get(key), b.get(part, {}).get(key)
            if one != other and key not in ("load_average_before", "seed"):
                found.append(f"{key}: A {one}, B {other}")
    return found


def run(options: argparse.Namespace) -> int:
    a, b = read(options.a), read(options.b)
    table = compare(a, b)
    print(f"A: {a['bench']}, {a['at']}, {options.a}\nB: {b['bench']}, {b['at']}, {options.b}\n")
    print(render(table))
    print()
    for told in unlike(a, b):
        print(f"* not the same: {told}")
    words = [str(row[-1]) for row in table.rows]
    worse, better = words.count("WORSE"), words.count("better")
    print(f"* beyond the noise: {better} better, {worse} worse, of {len(words)}; noise is that within the runs, not between them")
    if options.json:
        try:
            options.json.write_text(json.dumps({"columns": list(table.columns), "rows": table.rows}, indent=1) + "\n")
        except OSError as error:
            say(f"{options.json}: {error.strerror}")
            return 1
    return 1 if worse and options.fail_on_worse else 0
