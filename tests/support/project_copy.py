"""A copy of the project, and its scripts run in it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.support.waiting import PATIENCE

PROJECT = Path(__file__).resolve().parents[2]
PARTS = (
    "scripts",
    ".ci",
    "comet",
    "fault_rules",
    "lb",
    "worker_app",
    "docker",
    "setup.cfg",
    "setup.py",
    "supervisor.py",
    "config.yaml",
    "README.md",
)
COMPILERS = ("cc", "gcc", "c99", "c89", "clang", "gcc-12", "x86_64-linux-gnu-gcc", "x86_64-linux-gnu-gcc-12")


def copy_project(folder: Path) -> Path:
    """What a clone has, and nothing that git ignores."""
    folder.mkdir(parents=True)
    for part in PARTS:
        source = PROJECT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / part)
    return folder


def bash(clone: Path, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a piece of shell with the library read in."""
    library = "".join(f". 'scripts/lib/{name}.sh'; " for name in ("common", "venv", "engine", "needs"))
    command = ["bash", "-euo", "pipefail", "-c", library + script]
    return subprocess.run(command, cwd=clone, env=os.environ | environment, capture_output=True, text=True, check=False)


def run(
    clone: Path, script: str, *arguments: str, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a script with pip out of the way: the .venv counts as up to date."""
    pretend = clone / "scripts/lib/venv.sh"
    if "pretends" not in pretend.read_text():
        with pretend.open("a") as file:
            file.write("\nis_installed() { true; } # the test pretends\n")
    command = [str(clone / script), *arguments]
    return subprocess.run(
        command, cwd=cwd or clone, env=os.environ | environment, capture_output=True, text=True, check=False
    )


def path_without(folder: Path, *left_out: str) -> str:
    """A PATH with every program of this machine but these."""
    folder.mkdir()
    for directory in os.environ["PATH"].split(os.pathsep):
        for program in Path(directory).glob("*") if os.path.isdir(directory) else ():
            if program.name not in left_out and not (folder / program.name).is_symlink():
                (folder / program.name).symlink_to(program)
    return str(folder)


def own_environment(clone: Path) -> None:
    """A .venv that the test may write to: the same interpreter and packages, other stamps."""
    (clone / ".venv").unlink()
    (clone / ".venv/bin").mkdir(parents=True)
    python = clone / ".venv/bin/python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)


def assert_ends(pid: int) -> None:
    """A zombie has ended: who reaps it, and when, is not the script's matter."""
    deadline = time.monotonic() + 10 * PATIENCE
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            assert time.monotonic() < deadline, f"{pid} runs on"
            time.sleep(0.01)


def lay(clone: Path, **functions: str) -> None:
    """Put other functions in the place of some of the libraries'."""
    for name, line in functions.items():
        with (clone / f"scripts/lib/{name}.sh").open("a") as file:
            file.write(f"\n{line}\n")
