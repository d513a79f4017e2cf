"""Starting the system's engine, where none of the service managers of a desktop is there to do it.

Each test is a machine of its own, as far as the engine can see: its own processes, network, /run, /var/lib/docker,
/var/log and settings in /etc. What happens in it ends with it and touches nothing of the user's engine.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.copies import copy_modules
from tests.support.waiting import PATIENCE

PROJECT = Path(__file__).resolve().parents[2]
SYSV_SCRIPT = Path("/etc/init.d/docker")

pytestmark = pytest.mark.root

MACHINE = r"""
set -euo pipefail
ip link set lo up
for folder in /run /var/lib/docker /var/log; do mount -t tmpfs -o mode=755 tmpfs "$folder"; done
mkdir -p "$HERE/etc-docker" /etc/docker
mount --bind "$HERE/etc-docker" /etc/docker
if [ -e /etc/default/docker ]; then mount --bind "$HERE/defaults" /etc/default/docker; fi
if [ -n "$HIDDEN" ]; then mount --bind "$HERE/hidden" "$HIDDEN"; fi
cd "$HERE/clone"
status=0
starts='for part in common venv engine; do . scripts/lib/$part.sh; done; SCRIPT=up.sh; eval "$CHANGE"; ensure_engine'
setsid --wait bash -euo pipefail -c "$starts" ||
  status=$?
echo "status $status"
(cd /; PYTHONPATH="$HERE/clone" "$HERE/clone/.venv/bin/python" -m comet.engine.connection) || true
for process in $(pidof dockerd); do echo "dockerd parent $(ps -o ppid= -p "$process" | tr -d ' ')"; done
"""


UNTIL_ITS_LAST_WORDS = r"""
eval "$(declare -f start_dockerd | sed '1s/start_dockerd/really_start/')"
start_dockerd() { really_start; until grep -q 'unable to configure' "$ENGINE_LOG" 2>/dev/null; do sleep 0.1; done; }
"""
"""Begins to ask the engine when it has said why it cannot start, so that a deadline may be short."""


def machine(folder: Path, hidden: str = "", defaults: str = "", change: str = "") -> subprocess.CompletedProcess[str]:
    """Ensure an engine on a machine without a running one; then, its script gone, ask for it again. `change` is shell
    code that changes the functions of the script.
    """
    clone = folder / "clone"
    clone.mkdir()
    shutil.copytree(PROJECT / "scripts", clone / "scripts")
    copy_modules(clone, "comet.engine.connection")
    (clone / ".venv").symlink_to(sys.prefix)
    (folder / "defaults").write_text(defaults)
    (folder / "hidden").write_text("")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DOCKER_")}
    command = [
        "unshare",
        "--mount",
        "--net",
        "--uts",
        "--ipc",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "--propagation",
        "private",
    ]
    return subprocess.run(
        [*command, "bash", "-c", MACHINE],
        env={"COMET_ENGINE_DEADLINE": f"{60 * PATIENCE}"}
        | environment
        | {"HERE": str(folder), "HIDDEN": hidden, "CHANGE": change},
        capture_output=True,
        text=True,
        check=False,
        timeout=120 * PATIENCE,
    )


def test_an_engine_without_a_service_manager_is_started(tmp_path: Path) -> None:
    result = machine(tmp_path, hidden=str(SYSV_SCRIPT) if SYSV_SCRIPT.exists() else "")
    assert result.stderr.splitlines() == [
        "up.sh: starting dockerd (log: /var/log/comet-dockerd.log)",
        "up.sh: the Docker engine runs at /var/run/docker.sock",
    ]
    assert result.stdout.splitlines() == ["status 0", "/var/run/docker.sock", "dockerd parent 1"]


@pytest.mark.parametrize("settings", ["", 'ulimit() { command ulimit "$@" 2>/dev/null || true; }\n'])
def test_a_sysv_engine_starts_with_a_low_limit_of_open_files(tmp_path: Path, settings: str) -> None:
    if not SYSV_SCRIPT.exists():  # a distribution without it; the other way of starting is the test above
        return
    result = machine(tmp_path, defaults=settings)
    said = result.stderr.splitlines()
    assert said[-2:] == [
        "up.sh: starting the Docker engine (service docker start)",
        "up.sh: the Docker engine runs at /var/run/docker.sock",
    ]
    assert "status 0\n/var/run/docker.sock\n" in result.stdout
    assert len(re.findall(r"^ulimit\(\)", (tmp_path / "defaults").read_text(), re.MULTILINE)) <= 1


def test_an_engine_that_dies_at_its_start_shows_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "etc-docker").mkdir()
    (tmp_path / "etc-docker" / "daemon.json").write_text("{broken")
    monkeypatch.setenv("COMET_ENGINE_DEADLINE", "1")
    hidden = str(SYSV_SCRIPT) if SYSV_SCRIPT.exists() else ""
    result = machine(tmp_path, hidden=hidden, change=UNTIL_ITS_LAST_WORDS)
    assert "status 1" in result.stdout
    assert "unable to configure the Docker daemon" in result.stderr
    assert "does not answer after 1 s: its own words stand above" in result.stderr
