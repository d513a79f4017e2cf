"""Finds the data path's modules that were compiled ahead of time from exactly these sources.

mypyc compiles each module that a request passes through to an extension module: the same code and types without the
interpreter. The result is in the Python environment for which it was compiled, or comes with the package (a platform
wheel), in a folder that is named by the digest of the sources. After a change of any source it is not used, and the
sources run interpreted until they are compiled again. Nothing else depends on it.
"""

import os
import sys
import warnings
from collections.abc import Sequence
from hashlib import blake2b
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Final

MODULES: Final = (
    "lb.process.admission",
    "lb.proxy.access_log",
    "lb.proxy.tracing",
    "lb.proxy.request_body",
    "lb.http.chunked",
    "lb.proxy.connection_end",
    "lb.proxy.refusal_log",
    "lb.proxy.upstream_connection",
    "lb.interface.counters",
    "lb.proxy.client_connection",
    "lb.http.fields",
    "lb.proxy.dispatcher",
    "lb.proxy.retries",
    "lb.http.error_responses",
    "lb.http.request",
    "lb.http.request_head",
    "lb.http.trust",
    "lb.http.response",
    "lb.http.head_templates",
    "lb.balance.upstream",
    "lb.balance.policies",
    "lb.balance.ejection",
    "lb.proxy.upstream_pool",
    "lb.proxy.deadlines",
)
"""The modules that a connection and its requests pass through, and those derived from them."""

ENV_VARIABLE: Final = "COMET_LB"
INTERPRETED: Final = "interpreted"
"""Environment variable, and the value with which no compiled module is used."""

CACHE: Final = Path(sys.prefix, "lib", "comet-lb")
THROW_WARNING: Final = r"the \(type, exc, tb\) signature of throw\(\) is deprecated"

SOURCES: Final = Path(__file__).parents[1]

IN_PACKAGE: Final = "compiled"
"""The folder in `lb/` where a platform wheel has what is elsewhere in CACHE."""


def found() -> Path | None:
    """Return the folder of the present sources compiled for this interpreter, None where they are not compiled."""
    places = [place for place in (SOURCES / IN_PACKAGE, CACHE) if place.is_dir()]
    name = folder_name() if places else ""
    return next((place / name for place in places if (place / name).is_dir()), None)


def folder_name() -> str:
    """Return the name that the folder of the present sources compiled for this interpreter has."""
    digest = blake2b(digest_size=10)
    for path in sorted(SOURCES.rglob("*.py")):
        text = path.read_bytes()
        digest.update(b"%s %d\n" % (os.fsencode(path.relative_to(SOURCES)), len(text)))
        digest.update(text)
    return f"{digest.hexdigest()}{EXTENSION_SUFFIXES[0]}"


def prefer_compiled(search: list[str]) -> None:
    """Put the compiled modules, if they exist, first into the search path of `lb` or of a package in it."""
    within = os.path.relpath(search[0], SOURCES)
    if within != os.curdir:
        if in_use():
            search.insert(0, os.path.join(_search()[0], within))
        return
    folder = None if os.environ.get(ENV_VARIABLE) == INTERPRETED else found()
    if folder is not None:
        search.insert(0, str(folder / "lb"))
        sys.path.append(str(folder))  # For the library that the modules share.
        # What mypyc makes of `await` calls throw() in the manner that Python 3.12 deprecates. Where warnings are errors
        # (-W error), each failed connection would become a request without an end.
        warnings.filterwarnings("ignore", THROW_WARNING, DeprecationWarning)


def in_use() -> bool:
    """Say whether this process runs the compiled modules."""
    return _search()[0] != str(SOURCES)


def _search() -> Sequence[str]:
    return sys.modules["lb"].__path__
