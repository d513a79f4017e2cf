"""Copies of single modules, with what they import of ours: for a Python that has nothing else."""

import functools
import shutil
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]

_FILES = """
import sys
for each in sys.argv[1:]:
    __import__(each)
ours = ("comet", "fault_rules", "lb")
print(*(module.__file__ for name, module in sys.modules.items() if name.partition(".")[0] in ours), sep="\\n")
"""


def copy_modules(folder: Path, *names: str) -> None:
    """Copy the modules of these dotted names, and those that they import, to where they are found with `folder` in
    Python's path.
    """
    for path in _files(names):
        place = folder / path.relative_to(PROJECT)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)


@functools.cache
def _files(names: tuple[str, ...]) -> list[Path]:
    """Return the files of these modules, and of those of ours that they import."""
    found = subprocess.run(
        [sys.executable, "-c", _FILES, *names], cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout
    return [Path(line) for line in found.splitlines()]
