"""Acting as another user of this machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

STRANGER = 12345
"""A user who has nothing to do with the cluster."""

USER = 23456
"""An ordinary user who runs a cluster."""

as_root = pytest.mark.root
"""Needs root, to act as other users."""


def argv_as(uid: int, *argv: str) -> list[str]:
    """The command line that runs `argv` as this user. It may pass and read, but not write, everything: the interpreter
    of the tests can lie in a folder of root's.
    """
    if os.geteuid() == uid:
        return list(argv)
    ids = (f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--no-new-privs")
    rights = (
        "--inh-caps=-all,+dac_read_search",
        "--ambient-caps=+dac_read_search",
        "--bounding-set=-all,+dac_read_search",
    )
    return ["setpriv", *ids, *rights, "--", *argv]


def python_as(uid: int, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python code as this user."""
    root = str(Path(__file__).resolve().parents[2])
    argv = argv_as(uid, sys.executable, "-c", code, *arguments)
    return subprocess.run(
        argv, cwd="/", env=os.environ | {"PYTHONPATH": root}, capture_output=True, text=True, timeout=480, check=False
    )
