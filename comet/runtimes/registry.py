"""Loads the runtimes that `comet.config.runtimes` declares, and that of the load balancers, when they are needed.

The folder of a runtime has two modules: `finder` has its FINDER, unless it is composed of other runtimes, and `runtime`
has its RUNTIME. They are imported by name, so that a runtime can use everything that the supervisor does not provide,
and no room but this one knows which runtimes there are.
"""

import functools
import importlib
import importlib.util

from comet.config.runtimes import RUNTIMES
from comet.runtimes.finder import Finder
from comet.runtimes.interface import Runtime

FOLDERS = ("comet.balancers", *(f"comet.runtimes.{name}" for name in RUNTIMES))
"""Load balancers come first: they end before the workers that they forward to."""


@functools.cache
def finders() -> dict[str, Finder]:
    """Return the finders by the names of their drivers, in the order in which what they find is to end."""
    modules = [f"{folder}.finder" for folder in FOLDERS]
    found = [importlib.import_module(name).FINDER for name in modules if importlib.util.find_spec(name) is not None]
    return {finder.driver: finder for finder in found}


def runtime(name: str) -> type[Runtime]:
    """Return the runtime of this name."""
    found: type[Runtime] = importlib.import_module(f"comet.runtimes.{name}.runtime").RUNTIME
    return found


def finder_of_kind(kind: str) -> Finder:
    """Return the finder that reads the logs of this kind; where there is no such kind, that of processes."""
    every = list(finders().values())
    return next((finder for finder in every if finder.kind == kind), every[0])
