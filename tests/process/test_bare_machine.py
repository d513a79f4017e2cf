"""A machine without a C compiler, a container engine and a package manager: `scripts/up.sh --detach` in a fresh copy,
pip and all.

A mount namespace hides the engine, its socket and its data; compilers and the rest are missing from PATH.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import free_ports, open_folder
from tests.support.project_copy import COMPILERS, copy_project, path_without

pytestmark = [pytest.mark.slow, pytest.mark.root]

PYTHON = f"{sys.base_prefix}/bin/python{sys.version_info[0]}.{sys.version_info[1]}"
ENGINE = ("docker", "dockerd", "podman", "containerd", "apt-get", "apt", "sudo")
ASK = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=60).read().decode())"


@pytest.fixture
def folder() -> Iterator[Path]:
    """Workers of root's clusters run as another user, who has to reach the copy."""
    with open_folder() as made:
        yield made


def on_a_bare_machine(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script in the copy; whatever it starts ends with it."""
    programs = folder / "bin"
    path = str(programs) if programs.exists() else path_without(programs, *ENGINE, *COMPILERS)
    # up.sh looks for dockerd among root's tools, too.
    mounts = [
        f"mount -t tmpfs -o mode=755 tmpfs {place}" for place in ("/run", "/var/lib/docker") if os.path.isdir(place)
    ]
    if (tools := folder / "sbin").exists() or shutil.which("dockerd", path="/usr/sbin"):
        if not tools.exists():
            shutil.copytree("/usr/sbin", tools, symlinks=True, ignore=shutil.ignore_patterns(*ENGINE))
        mounts.append(f"mount --bind {tools} /usr/sbin")
    hidden = " && ".join([*mounts, "exec bash -c"])
    command = [
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "--propagation",
        "private",
        "sh",
        "-c",
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DOCKER_")}
    return subprocess.run(
        [*command, f'{hidden} "$0"', f'PATH={path}; export PATH; cd "{folder}/copy"; {script}'],
        env=environment | {"PYTHON": PYTHON}, capture_output=True, text=True, check=False, timeout=2000,
    )  # fmt: skip


def test_up_sh_runs_a_cluster_or_says_what_to_do(folder: Path) -> None:
    copy = copy_project(folder / "copy")
    port = free_ports(60)
    config = f"load-balancer-port: {port}\nworker-port: {port + 10}\nadmin-port: 0\nfailure: 0\navg-delay: 1\n"
    (copy / "config.yaml").write_text(config)
    refused = on_a_bare_machine(folder, "scripts/up.sh --detach")
    assert (refused.returncode, refused.stdout) == (1, "")
    *steps, last = [line for line in refused.stderr.splitlines() if not line.endswith(" s so far")]
    assert last.startswith("up.sh: no Docker engine is installed: install one ")
    assert last.endswith("or set 'runtime: process' in config.yaml")
    assert all(line.startswith(("up.sh: creating", "up.sh: installing", "up.sh: no C compiler")) for line in steps), (
        refused.stderr
    )
    assert not (copy / ".comet").exists()

    (copy / "config.yaml").write_text(f"{config}runtime: process\n")
    ask = f"$PYTHON -c '{ASK}' http://127.0.0.1:{port}/api/v1/hello"
    ran = on_a_bare_machine(
        folder, f"scripts/up.sh --detach >&2 && {ask} && scripts/up.sh ps --json; scripts/up.sh stop >&2"
    )
    assert ran.returncode == 0, ran.stderr
    answer, _, listed = ran.stdout.partition("\n")
    assert json.loads(answer)["message"].startswith("hello from process: ")
    replicas = json.loads(listed)["replicas"]
    assert {(row["kind"], row["state"]) for row in replicas} == {("process", "ready")}
    assert len(replicas) == 5
    assert "Traceback" not in refused.stderr + ran.stderr
