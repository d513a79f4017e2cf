"""Compiles the data path for this Python environment: `python -m lb.build [FOLDER]` (see `lb.system.compiled`).

It needs mypyc (the extra `compiled`) and a C compiler. It does nothing if the present sources are compiled already, and
removes what was compiled from earlier sources. With a folder, of a package that is being built, the result goes there.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lb.system.compiled import CACHE, MODULES, SOURCES, folder_name, found

_STEPS = """
import sys
from setuptools import Distribution
from mypyc.build import mypycify
paths, out = sys.argv[1:-1], sys.argv[-1]
extensions = mypycify(paths, opt_level="1", debug_level="0", group_name="lb_data_path")
build = Distribution({"ext_modules": extensions}).get_command_obj("build_ext")
build.build_lib, build.build_temp = out, "objects"
build.ensure_finalized()
build.run()
"""


def main(arguments: Sequence[str] = ()) -> int:
    """Compile; return 1 if that fails, after printing the compiler's last lines to stderr."""
    target = (Path(arguments[0]) if arguments else CACHE) / folder_name()
    present = found()
    if present is not None:
        if arguments:
            _install(present, target)
        return 0
    with tempfile.TemporaryDirectory(prefix="comet-lb-") as name:
        workspace = Path(name)
        for package in (SOURCES, SOURCES.parent / "fault_rules"):
            shutil.copytree(package, workspace / package.name, ignore=shutil.ignore_patterns("__pycache__"))
        paths = [f"{module.replace('.', '/')}.py" for module in MODULES]
        command = [sys.executable, "-c", _STEPS, *paths, str(workspace / "out")]
        done = subprocess.run(command, cwd=workspace, capture_output=True, text=True, check=False)
        if done.returncode:
            print("\n".join((done.stdout + done.stderr).splitlines()[-15:]), file=sys.stderr)
            print("lb.build: the data path could not be compiled; load balancers run interpreted", file=sys.stderr)
            return 1
        _install(workspace / "out", target)
    return 0


def _install(made: Path, target: Path) -> None:
    """Move the result to its folder in one step, and remove the earlier ones."""
    place = target.parent
    place.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=place))
    shutil.copytree(made, staging, dirs_exist_ok=True)
    staging.chmod(0o755)
    try:
        os.rename(staging, target)
    except OSError:  # Another build was faster.
        shutil.rmtree(staging)
    for entry in place.iterdir():
        if entry != target:
            shutil.rmtree(entry, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
