"""Lays out the report of `inspect`: a row per fact, a column per replica, and a mark where they differ.

Nothing is cut off: what does not fit into a column continues on the next line. Where the terminal is too narrow for a
column with the rows' meanings, a meaning stands below its row's name. A pipe gets one line for each row.
"""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.text import Text

from comet.report.console import OutputConsole
from comet.terminal.table_layout import GAP, Column, Listing, printable

MARK = "≠"
LEAST = 22
"""Cells that a replica's column has at least, if the terminal has them."""

UNKNOWN_STYLE = "yellow"


def show(report: Mapping[str, Any]) -> None:
    """Print the report."""
    console = OutputConsole(highlight=False)
    for line in lines(report, console.width if console.is_terminal else None):
        console.print(line, soft_wrap=True, end="\n")


def lines(report: Mapping[str, Any], width: int | None) -> list[Text]:
    """Return the lines of the report, each at most `width` cells wide (None: as wide as needed)."""
    names = [each["name"] for each in report["replicas"]]
    rows = report["rows"]
    meanings = max(len(row["meaning"]) for row in rows)
    left = len(MARK) + GAP + max(len(row["heading"]) for row in rows)
    apart = width is None or width - left - GAP - meanings >= len(names) * (LEAST + GAP)
    first = left - len(MARK) - GAP
    room = None if width is None else width - len(MARK) - GAP - first - (GAP + meanings if apart else 0)
    share = None if room is None else max(1, room // len(names) - GAP)
    headings = ["", "ROW", *(["MEANING"] if apart else []), *names]
    table = Listing([Column(heading) for heading in headings])
    group = ""
    for row in rows:
        if row["group"] != group:
            group = row["group"]
            table.add_row(*_padded([Text("")], headings))
            table.add_row(*_padded([Text(""), Text(group, style="bold")], headings))
        for cells in _lines_of(row, share, None if apart else first):
            table.add_row(*cells)
    return table.lines(width)


def _padded(cells: Sequence[Text], headings: Sequence[str]) -> list[Text]:
    return [*cells, *(Text("") for _ in headings[len(cells) :])]


def _lines_of(row: Mapping[str, Any], share: int | None, below: int | None) -> Iterator[list[Text]]:
    """Yield the lines of one row, as cells; each replica's column has `share` cells.

    The meaning has a column of its own, or stands below the name in a column of `below` cells.
    """
    style = "bold" if row["differs"] else ""
    columns = [[Text(MARK if row["differs"] else "", style="magenta")], [Text(row["heading"], style=style)]]
    meaning = [Text(part, style="dim") for part in _wrapped(row["meaning"], below)]
    if below is None:
        columns.append(meaning)
    else:
        columns[1] += meaning
    for value in row["values"]:
        missing = value["remedy"] is not None
        columns.append([Text(part, style=UNKNOWN_STYLE if missing else "") for part in _wrapped(value["text"], share)])
    for index in range(max(map(len, columns))):
        yield [column[index] if index < len(column) else Text("") for column in columns]


def _wrapped(text: str, width: int | None) -> list[str]:
    line = printable(text)
    return [line] if width is None else textwrap.wrap(line, width, break_on_hyphens=False) or [""]
