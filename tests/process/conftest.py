"""A copy of the project in which scripts run."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.support.copies import copy_modules
from tests.support.project_copy import copy_project

IMPORTED_BY_SCRIPTS = ("comet.config.runtimes", "comet.engine.connection", "comet.host.packages")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy whose .venv is that of these tests and counts as up to date, and whose supervisor prints what it was
    given.
    """
    folder = copy_project(tmp_path / "a clone")
    (folder / "supervisor.py").write_text("import json, os, sys\nprint(json.dumps([os.getcwd(), sys.argv[1:]]))\n")
    shutil.rmtree(folder / "comet")
    copy_modules(folder, *IMPORTED_BY_SCRIPTS)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder
