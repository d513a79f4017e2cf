"""Shows a report in a terminal: its tables and sentences, without the pictures."""

from rich.table import Table as Grid
from rich.text import Text

from comet.report.cells import fact, label, text
from comet.report.console import OutputConsole
from comet.report.model import Report, Table

WIDTH = 200
"""Columns of output that is no terminal."""


def show(report: Report) -> None:
    """Print a report; its tables fit the terminal."""
    console = OutputConsole(highlight=False, markup=False, soft_wrap=False)
    if not console.is_terminal:
        console = OutputConsole(highlight=False, markup=False, width=WIDTH)
    console.print(f"{report.title}{', ' if report.at else ''}{report.at}")
    for name, value in report.facts.items():
        console.print(f"{label(name)}: {fact(value)}", soft_wrap=True)
    for table in report.tables:
        console.print(f"\n{table.title}", style="bold")
        console.print(grid(table))
    console.print()
    for mark, lines in (("*", report.notes), ("!", report.warnings)):
        for line in lines:
            console.print(f"{mark} {line}", soft_wrap=True)


def grid(table: Table) -> Grid:
    """Return the table with aligned columns: text left, numbers right."""
    made = Grid(box=None, pad_edge=False, show_edge=False, header_style="bold")
    for index, name in enumerate(table.columns):
        made.add_column(Text(name), justify="right" if table.is_right(index) else "left", overflow="fold")
    for row in table.rows:
        made.add_row(*(Text(text(cell)) for cell in row))
    return made
