"""Tables as text: for the terminal, and as Markdown for docs. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field

Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    """`rows` hold one cell per column; None is shown as a dash."""

    title: str
    columns: Sequence[str]
    rows: list[list[Cell]] = field(default_factory=list)


def text(cell: Cell) -> str:
    """A cell as people read it: three significant digits, thousands apart."""
    if cell is None:
        return "-"
    if isinstance(cell, str):
        return cell
    if cell == float("inf"):
        return "never"
    if isinstance(cell, int) or abs(cell) >= 1000:
        return f"{round(cell):,}"
    if cell == 0:
        return "0"
    digits = max(0, 2 - _exponent(abs(cell)))
    return f"{cell:.{min(digits, 4)}f}"


def label(key: str) -> str:
    """A key of the JSON as people read it."""
    return key.replace("_mib", " MiB").replace("_", " ")


def _exponent(value: float) -> int:
    return int(f"{value:.2e}".partition("e")[2])


def render(table: Table) -> str:
    """The table with aligned columns: words to the left, figures to the right."""
    lines = [list(table.columns), *([text(cell) for cell in row] for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    words = [all(isinstance(row[index], str) for row in table.rows) for index in range(len(widths))]
    out = [table.title] if table.title else []
    for number, line in enumerate(lines):
        padded = [cell.ljust(width) if word else cell.rjust(width) for cell, width, word in zip(line, widths, words, strict=True)]
        out.append("  ".join(padded).rstrip())
        if number == 0:
            out.append("  ".join("-" * width for width in widths))
    return "\n".join(out)


def markdown(table: Table) -> str:
    """The table for a page of docs."""
    words = [all(isinstance(row[index], str) for row in table.rows) for index in range(len(table.columns))]
    lines = [f"**{table.title}**", ""] if table.title else []
    lines.append("| " + " | ".join(table.columns) + " |")
    lines.append("| " + " | ".join("---" if word else "---:" for word in words) + " |")
    lines.extend("| " + " | ".join(text(cell) for cell in row) + " |" for row in table.rows)
    return "\n".join(lines)
