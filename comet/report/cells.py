"""Formats cells and facts. Pure."""

from collections.abc import Mapping
from math import inf
from typing import Any

from comet.common.figures import figure
from comet.report.model import Cell


def text(cell: Cell) -> str:
    """Format a cell: counts in full, other figures with three significant digits."""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, int):
        return f"{cell:,}"
    return "never" if cell == inf else figure(cell)


def label(key: str) -> str:
    """Format a key of the JSON for readers."""
    return key.replace("_mib", " MiB").replace("_", " ")


def fact(value: Any) -> str:
    """Format a fact, which may have several parts."""
    if isinstance(value, Mapping):
        return ", ".join(f"{label(str(key))} {each}" for key, each in value.items())
    return str(value)
