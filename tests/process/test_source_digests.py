"""What is kept for as long as the sources are the same: a change of any source is noticed, in folders within folders
too.
"""

import os
import subprocess
from pathlib import Path

from tests.unit.test_source_digests import changes_in

ROOT = Path(__file__).resolve().parents[2]


def test_the_scripts_compile_other_sources_again(tmp_path: Path) -> None:
    script = f'. "{ROOT}/scripts/lib/common.sh"; . "{ROOT}/scripts/lib/venv.sh"; ROOT=$HERE; wanted_compiled'

    def wanted() -> str:
        environment = os.environ | {"HERE": str(tmp_path)}
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script], env=environment, capture_output=True, text=True, check=True
        ).stdout

    assert changes_in(tmp_path / "lb/room/module.py", wanted) == [True, True]
