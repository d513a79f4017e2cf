"""`python -m lb.build`: compile the data path for this Python environment (see `lb.compiled`).

Needs mypyc (the extra `compiled`) and a C compiler. What was compiled of former sources is removed; done twice, it does nothing.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from lb.compiled import HOUSE, MODULES, SOURCES, folder

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


def main() -> int:
    """Compile. Exit code 1: it could not be done; the last lines of what the compiler said are on stderr."""
    target = folder()
    if target.is_dir():
        return 0
    with tempfile.TemporaryDirectory(prefix="comet-lb-") as name:
        room = Path(name)
        shutil.copytree(SOURCES, room / "lb", ignore=shutil.ignore_patterns("__pycache__"))
        paths = [f"lb/{module}.py" for module in MODULES]
        command = [sys.executable, "-c", _STEPS, *paths, str(room / "out")]
        done = subprocess.run(command, cwd=room, capture_output=True, text=True, check=False)
        if done.returncode:
            print("\n".join((done.stdout + done.stderr).splitlines()[-15:]), file=sys.stderr)
            print("lb.build: the data path could not be compiled; load balancers run interpreted", file=sys.stderr)
            return 1
        _install(room / "out", target)
    return 0


def _install(made: Path, target: Path) -> None:
    """Put what was made in its place in one step, and take away what it replaces."""
    HOUSE.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=HOUSE))
    shutil.copytree(made, staging, dirs_exist_ok=True)
    staging.chmod(0o755)
    try:
        os.rename(staging, target)
    except OSError:  # Another was faster.
        shutil.rmtree(staging)
    for former in HOUSE.iterdir():
        if former != target:
            shutil.rmtree(former, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
