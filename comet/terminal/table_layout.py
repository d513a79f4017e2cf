"""Lays out listings like those of kubectl and docker: no frames, a heading, one line per row.

Where the columns do not all fit, the least important are dropped and the rest are truncated with an ellipsis. A line
never wraps. In a pipe, which has no width, nothing is dropped or truncated.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rich.text import Text

GAP = 2

Cell = str | Text


@dataclass(frozen=True)
class Column:
    """A column of a listing; columns of the highest rank are dropped first, those of rank 0 never."""

    heading: str
    right: bool = False
    rank: int = 0


@dataclass
class Listing:
    columns: Sequence[Column]
    rows: list[Sequence[Cell]] = field(default_factory=list)

    def add_row(self, *cells: Cell) -> None:
        self.rows.append(cells)

    def lines(self, width: int | None) -> list[Text]:
        """Return the heading and one line per row, each at most `width` cells wide.

        None means as wide as needed. Styles are kept.
        """
        table = [[_text(cell) for cell in row] for row in self.rows]
        kept, widths = self._fitted(table, width)
        heading = self._line([Text(column.heading, style="bold") for column in self.columns], kept, widths)
        return [heading, *(self._line(row, kept, widths) for row in table)]

    def _fitted(self, table: Sequence[Sequence[Text]], width: int | None) -> tuple[list[int], list[int]]:
        """Return the columns that are kept, and the width of each column."""
        widths = [
            max([len(column.heading), *(row[index].cell_len for row in table)])
            for index, column in enumerate(self.columns)
        ]
        kept = list(range(len(self.columns)))
        while width is not None and _total(widths, kept) > width and len(kept) > 1:
            last = max(kept, key=lambda index: (self.columns[index].rank, index))
            if self.columns[last].rank == 0:
                break
            kept.remove(last)
        while width is not None and _total(widths, kept) > width and max(widths[index] for index in kept) > 1:
            widest = max(kept, key=lambda index: widths[index])
            widths[widest] -= 1
        return kept, widths

    def _line(self, cells: Sequence[Text], kept: Sequence[int], widths: Sequence[int]) -> Text:
        line = Text(no_wrap=True, overflow="crop", end="")
        for index in kept:
            if index != kept[0]:
                line.append(" " * GAP)
            cell = cells[index].copy()
            cell.truncate(widths[index], overflow="ellipsis")
            padding = " " * (widths[index] - cell.cell_len)
            if self.columns[index].right:
                line.append(padding)
                line.append_text(cell)
            else:
                line.append_text(cell)
                line.append(padding)
        line.rstrip()
        return line


def listing(*headings: str, right: Iterable[int] = (), ranks: Sequence[int] = ()) -> Listing:
    """Return a listing with these headings.

    `right` are the indexes of right-aligned columns (numbers). `ranks` decide which columns are dropped first where
    space is short.
    """
    aligned = set(right)
    given = [*ranks, *[0] * (len(headings) - len(ranks))]
    return Listing([Column(heading, index in aligned, given[index]) for index, heading in enumerate(headings)])


def _text(cell: Cell) -> Text:
    return cell if isinstance(cell, Text) else Text(printable(cell))


def printable(text: str) -> str:
    """Replace control characters by blanks: the text of a foreign error must not control the terminal."""
    return text if text.isprintable() else "".join(character if character.isprintable() else " " for character in text)


def _total(widths: Sequence[int], kept: Sequence[int]) -> int:
    return sum(widths[index] for index in kept) + GAP * (len(kept) - 1)
