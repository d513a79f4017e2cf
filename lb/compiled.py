"""The data path compiled ahead of time: where it lies, and whether it is of these very sources.

mypyc makes an extension module of each module that a request passes through: the same code with the same types, without the
interpreter between its lines. What is compiled lies in the Python environment it was compiled for, in a folder named by the sources'
digest, so that a change of any source leaves it aside, and the sources run as they are until they are compiled anew. Nothing else
depends on it.
"""

import os
import sys
from hashlib import blake2b
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Final

MODULES: Final = (
    "access", "body", "chunked", "connection", "counters", "downstream", "fields", "proxy", "recovery", "replies", "request", "response",
    "template", "upstream", "wheel",
)  # fmt: skip
"""What a request passes through, and what is derived from that."""

SWITCH: Final = "COMET_LB"
"""Environment variable; `interpreted` leaves what is compiled aside."""

HOUSE: Final = Path(sys.prefix, "lib", "comet-lb")
SOURCES: Final = Path(__file__).parent


def folder() -> Path:
    """Return where the sources as they are now, compiled for this interpreter, lie or would lie."""
    digest = blake2b(digest_size=10)
    for path in sorted(SOURCES.glob("*.py")):
        text = path.read_bytes()
        digest.update(b"%s %d\n" % (path.name.encode(), len(text)))
        digest.update(text)
    return HOUSE / f"{digest.hexdigest()}{EXTENSION_SUFFIXES[0]}"


def use(search: list[str]) -> None:
    """Let the package with the search path `search` find its compiled modules first, where there are any."""
    if os.environ.get(SWITCH) == "interpreted" or not HOUSE.is_dir():
        return
    found = folder()
    if found.is_dir():
        search.insert(0, str(found / "lb"))
        sys.path.append(str(found))  # The library that the modules share is imported by a name of its own.


def in_use() -> bool:
    """Say whether this process runs the compiled modules."""
    import lb

    return lb.__path__[0] != str(SOURCES)
