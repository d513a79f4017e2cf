"""What a machine cannot try is left out, and the reason is printed, in one process as in several."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

FILE = """import pytest


@pytest.mark.machine(lambda: "")
def test_that_can_be_tried():
    pass


@pytest.mark.machine(lambda: "a second moon")
@pytest.mark.parametrize("number", [1, 2])
def test_that_cannot(number):
    raise AssertionError
"""


@pytest.mark.parametrize("processes", ["0", "2"])
def test_what_a_machine_lacks_is_printed(tmp_path: Path, processes: str) -> None:
    (tmp_path / "test_it.py").write_text(FILE)
    words = [
        "-p",
        "tests.conftest",
        "-p",
        "no:cacheprovider",
        "-n",
        processes,
        "-c",
        str(ROOT / "setup.cfg"),
        f"--rootdir={tmp_path}",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "left out, as this machine lacks a second moon: 2 tests" in done.stdout.splitlines()
    assert "1 passed" in done.stdout.splitlines()[-1]
