"""Listings in the manner of kubectl and docker: no frames, a heading, one line a thing.

Where there is not room for all columns the least important go; what is left is cut with an ellipsis. A line is never broken, and in a
pipe, where there is no width, nothing is left out or cut.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rich.text import Text

GAP = 2

Cell = str | Text


@dataclass(frozen=True)
class Column:
    """`rank` says how important it is: 0 stays to the last, the highest goes first."""

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
        """The heading and a line a row, each at most `width` cells wide; None: as wide as it takes, without styles being lost."""
        table = [[_text(cell) for cell in row] for row in self.rows]
        kept, widths = self._fitted(table, width)
        heading = self._line([Text(column.heading, style="bold") for column in self.columns], kept, widths)
        return [heading, *(self._line(row, kept, widths) for row in table)]

    def _fitted(self, table: Sequence[Sequence[Text]], width: int | None) -> tuple[list[int], list[int]]:
        """The columns that stay, and how wide each is."""
        widths = [max([len(column.heading), *(row[index].cell_len for row in table)]) for index, column in enumerate(self.columns)]
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
    """A listing with these headings; `right` are the columns of numbers, `ranks` say what goes first where it is narrow."""
    aligned = set(right)
    given = [*ranks, *[0] * (len(headings) - len(ranks))]
    return Listing([Column(heading, index in aligned, given[index]) for index, heading in enumerate(headings)])


def _text(cell: Cell) -> Text:
    return cell if isinstance(cell, Text) else Text(printable(cell))


def printable(told: str) -> str:
    """Without control characters: what somebody else's error says must not steer the terminal."""
    return told if told.isprintable() else "".join(character if character.isprintable() else " " for character in told)


def _total(widths: Sequence[int], kept: Sequence[int]) -> int:
    return sum(widths[index] for index in kept) + GAP * (len(kept) - 1)
