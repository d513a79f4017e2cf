"""What a report consists of. Pure.

A report is a list of tables and pictures with sentences before them; the terminal, a page and JSON show the same one.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import log10
from typing import Any

Cell = str | int | float | None

MARKS = (0.0, 50.0, 90.0, 99.0, 99.9, 99.99)
"""The percentiles that an axis names."""


@dataclass(frozen=True)
class Table:
    """`rows` have one cell per column; None is shown as a dash.

    A column of numbers stands on the right, as do those listed in `right`. `prose` explains the table on a page.
    """

    title: str
    columns: Sequence[str]
    rows: list[list[Cell]] = field(default_factory=list)
    prose: str = ""
    right: Collection[int] = ()

    def is_right(self, column: int) -> bool:
        return column in self.right or not all(isinstance(row[column], str) for row in self.rows)


@dataclass(frozen=True)
class Bars:
    """Groups of horizontal bars: `values[group][series]`, None for no value.

    The bars of a group share one scale; with a single series, all bars do.
    """

    title: str
    note: str
    series: Sequence[str]
    groups: Sequence[str]
    values: Sequence[Sequence[float | None]]


@dataclass(frozen=True)
class Lines:
    """One line of points for each name; `ticks` are the labels of places on the x axis."""

    title: str
    note: str
    unit: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    ticks: Mapping[float, str]


@dataclass(frozen=True)
class Steps:
    """One row for each name: its steps on a common scale, each ending at its time; `order` gives steps their colors."""

    title: str
    note: str
    rows: Mapping[str, Mapping[str, float]]
    order: Sequence[str]
    unit: str = "ms"


Picture = Bars | Lines | Steps


def nines(percent: float) -> float:
    """Return a percentile's place on an axis on which 90, 99 and 99.9 % are equally far apart: 1, 2, 3."""
    return -log10(max(1e-4, 1 - percent / 100))


def percentiles(title: str, note: str, lines: Mapping[str, Sequence[tuple[float, float]]]) -> Lines:
    """Return how latency (ms) grows towards the slowest requests, from pairs of percent and ms."""
    most = max((nines(percent) for line in lines.values() for percent, _ in line), default=0.0)
    placed = {name: [(nines(percent), value) for percent, value in line] for name, line in lines.items()}
    return Lines(
        title, note, "ms", placed, {nines(mark): f"{mark:g} %" for mark in MARKS if nines(mark) <= most + 0.01}
    )


@dataclass
class Report:
    """A report. `notes` are sentences that the reader must not miss, `warnings` what limits their meaning.

    `passed` is None where nothing is judged.
    """

    title: str
    about: str = ""
    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    parts: list[Table | Picture] = field(default_factory=list)
    passed: bool | None = None
    at: str = ""

    @property
    def tables(self) -> list[Table]:
        return [each for each in self.parts if isinstance(each, Table)]

    @property
    def facts(self) -> dict[str, Any]:
        """How it was measured: settings, versions, machine."""
        rest = {"versions": self.versions, "machine": self.machine}
        return self.settings | {name: value for name, value in rest.items() if value}
