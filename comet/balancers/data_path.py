"""Says whether the load balancers' data path is compiled, and what compiles it."""

import os
import shutil
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from comet.host import checkout
from lb.system.compiled import ENV_VARIABLE, INTERPRETED, found

COST = "it runs interpreted, at about a quarter more CPU"


@dataclass(frozen=True)
class Absence:
    """Why the data path is not compiled, and what the user may do."""

    reason: str
    advice: str


def absence() -> Absence | None:
    """Return why load balancers run interpreted; None where they run the compiled data path."""
    if found() is not None:
        return None
    compiler = shutil.which("cc") or shutil.which("gcc")
    headers = Path(sysconfig.get_path("include"), "Python.h").exists()
    lacks = " and ".join(([] if compiler else ["a C compiler"]) + ([] if headers else ["Python's headers"]))
    command = (
        "pip install 'comet-cluster[compiled]' and python -m lb.build" if checkout.is_installed() else "scripts/up.sh"
    )
    if lacks:
        advice = f"Debian: apt install gcc python3-dev, then {command}"
        return Absence(f"not compiled, as {lacks} is missing: {COST}", advice)
    return Absence(f"not compiled: {COST}", f"run {command}")


def is_chosen() -> bool:
    """Return whether the user has disabled the compiled data path."""
    return os.environ.get(ENV_VARIABLE) == INTERPRETED
