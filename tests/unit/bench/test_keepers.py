"""Supervisord under a bench finds its own package, not our supervisor.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.bench.keepers import environment
from scripts.bench.report import ROOT

FIND = "import importlib.util; print(importlib.util.find_spec('supervisor'))"


@pytest.mark.slow
def test_our_supervisor_does_not_hide_the_package_of_that_name(tmp_path: Path) -> None:
    own = {**os.environ, "PYTHONPATH": str(ROOT)}

    def found(env: dict[str, str]) -> str:
        return subprocess.run(
            [sys.executable, "-S", "-c", FIND], env=env, cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout

    assert "supervisor.py" in found(own)
    assert found(environment(own)).strip() == "None"
