"""Locates the folder that holds Comet's sources.

Every module that starts or watches a source file takes the folder from here, so that a module can move without changing
it.
"""

import os
from pathlib import Path

import comet

SOURCES = Path(comet.__path__[0]).resolve().parent
"""The folder that holds the packages comet, fault_rules, lb and worker_app, and in a checkout supervisor.py."""

WORKER_SOURCES = ("fault_rules", "worker_app")
"""The packages that a worker runs."""

_DATA = SOURCES / "comet" / "data"
"""Where an installed package has what a checkout has next to its packages (setup.py)."""


def resource(name: str) -> Path:
    """Return a file or folder that is no package: `docker`, `scenarios`, `setup.cfg`."""
    return (_DATA if is_installed() else SOURCES) / name


def is_installed() -> bool:
    """Return whether these sources are those of an installed package, and no checkout."""
    return _DATA.is_dir()


def environment(cluster: str | None) -> dict[str, str]:
    """Return our environment with the path of our packages, and the mark by which a cluster's processes are found."""
    sources = str(SOURCES)
    known = os.environ.get("PYTHONPATH", "")
    path = known if sources in known.split(os.pathsep) else os.pathsep.join(filter(None, (sources, known)))
    return os.environ | {"PYTHONPATH": path, "COMET_CLUSTER": cluster or "", "SPT_NOENV": "1"}
