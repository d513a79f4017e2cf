"""What the user called this program at its start, so that help and messages say what to type."""

import sys
from pathlib import PurePath

IN_CHECKOUT = "python supervisor.py"
"""The name that texts have; `spoken` replaces it by the one that was used."""


def called() -> str:
    """Return what starts this program: `comet` where it is installed."""
    parts = PurePath(sys.argv[0] if sys.argv else "").parts
    if parts[-1:] == ("comet",):
        return "comet"
    return "python -m comet" if parts[-2:] == ("comet", "__main__.py") else IN_CHECKOUT


def spoken(text: str) -> str:
    """Return a text with the name under which this program was started."""
    return text.replace(IN_CHECKOUT, called())
