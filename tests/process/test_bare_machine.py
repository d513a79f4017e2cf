"""A fresh copy, set up by `scripts/up.sh`, pip and all: first on a machine without a C compiler, a container engine and
a package manager, then with a compiler, then at another place.

A mount namespace hides the engine, its socket and its data; compilers and the rest are missing from PATH.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.cluster import free_ports, open_folder
from tests.support.project_copy import COMPILERS, PROJECT, bash, copy_project, path_without

pytestmark = pytest.mark.slow

PYTHON = f"{sys.base_prefix}/bin/python{sys.version_info[0]}.{sys.version_info[1]}"
ENGINE = ("docker", "dockerd", "podman", "containerd", "apt-get", "apt", "sudo")
ASK = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=60).read().decode())"


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


@dataclass(frozen=True)
class Fresh:
    """A folder with a copy that has been set up on a machine without a compiler, and what that said."""

    folder: Path
    first: subprocess.CompletedProcess[str]

    @property
    def copy(self) -> Path:
        return self.folder / "copy"


@pytest.fixture(scope="module")
def fresh() -> Iterator[Fresh]:
    """Workers of root's clusters run as another user, who has to reach the copy."""
    with open_folder() as folder:
        copy = copy_project(folder / "copy")
        # One module stands for those of the data path: the environment of these tests was compiled from all of them.
        named = copy / "lb/system/compiled.py"
        text, count = re.subn(r"(?s)(MODULES: Final = \().*?\n\)", r'\1"lb.http.chunked",)', named.read_text())
        assert count == 1
        named.write_text(text)
        if os.getuid() == 0:
            first = on_a_bare_machine(folder, "scripts/up.sh --detach")
        else:
            path = path_without(folder / "bin", *COMPILERS)
            command = [copy / "scripts/up.sh", "--version"]
            first = subprocess.run(
                command, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
            )
        yield Fresh(folder, first)


def steps(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What up.sh said, but for the signs of life."""
    return [line for line in done.stderr.splitlines() if not line.endswith(" s so far")]


MADE = ("up.sh: creating .venv", "up.sh: installing the project into .venv", "up.sh: no C compiler")


@pytest.mark.root
def test_up_sh_runs_a_cluster_or_says_what_to_do(fresh: Fresh) -> None:
    assert (fresh.first.returncode, fresh.first.stdout) == (1, "")
    *made, last = steps(fresh.first)
    assert [line.startswith(words) for line, words in zip(made, MADE, strict=True)] == [True] * 3, made
    assert last.startswith("up.sh: no Docker engine is installed: install one ")
    assert last.endswith("or set 'runtime: process' in config.yaml")
    assert not (fresh.copy / ".comet").exists()

    port = free_ports(60)
    config = f"load-balancer-port: {port}\nworker-port: {port + 10}\nadmin-port: 0\nfailure: 0\navg-delay: 1\n"
    (fresh.copy / "config.yaml").write_text(f"{config}runtime: process\n")
    ask = f"$PYTHON -c '{ASK}' http://127.0.0.1:{port}/api/v1/hello"
    ran = on_a_bare_machine(
        fresh.folder, f"scripts/up.sh --detach >&2 && {ask} && scripts/up.sh ps --json; scripts/up.sh stop >&2"
    )
    shutil.rmtree(fresh.copy / ".comet", ignore_errors=True)
    assert ran.returncode == 0, ran.stderr
    answer, _, listed = ran.stdout.partition("\n")
    assert json.loads(answer)["message"].startswith("hello from process: ")
    replicas = json.loads(listed)["replicas"]
    assert {(row["kind"], row["state"]) for row in replicas} == {("process", "ready")}
    assert len(replicas) == 5
    assert "Traceback" not in fresh.first.stderr + ran.stderr


@pytest.fixture
def moved(fresh: Fresh) -> Iterator[Path]:
    """Another place for the copy; it is at its own again afterwards."""
    place = fresh.folder / "moved to a new place"
    yield place
    if place.exists():
        place.rename(fresh.copy)


def version(copy: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`up.sh --version`, which sets up what is missing."""
    command = [copy / "scripts/up.sh", "--version"]
    known = os.environ | environment
    done = subprocess.run(command, cwd=copy.parent, env=known, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout[:6]) == (0, "comet "), done.stderr
    return done


def is_compiled(copy: Path) -> bool:
    command = [copy / ".venv/bin/python", "-c", "import lb.system.compiled; print(lb.system.compiled.in_use())"]
    known = os.environ | {"COMET_LB": ""}
    return subprocess.run(command, cwd=copy, env=known, capture_output=True, text=True, check=True).stdout == "True\n"


def test_a_fresh_copy_is_set_up_once(fresh: Fresh, moved: Path) -> None:
    """The whole way, pip and compiler included; the next time there is nothing left to say or do."""
    copy = fresh.copy
    made = steps(fresh.first)[:3]
    assert [line.startswith(words) for line, words in zip(made, MADE, strict=True)] == [True] * 3, made
    has_compiler = bash(PROJECT, "has_compiler").returncode == 0
    compiling = ["up.sh: compiling the load balancers' data path"] if has_compiler else []
    for expected in (compiling, []):
        said = steps(version(copy))
        assert [line.partition(" (")[0] for line in said] == expected
    # Workers of another user could not write it.
    assert [*copy.glob(".venv/lib/python*/site-packages/flask/__pycache__/app.*.pyc")]
    assert is_compiled(copy) == has_compiler
    assert sorted(path.name for path in copy.iterdir() if path.name.startswith(".")) == [".ci", ".venv"]
    # A folder that is moved brings all that is needed with it: no network, no compiler.
    copy.rename(moved)
    offline = {"PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_RETRIES": "0", "PIP_CONFIG_FILE": os.devnull}
    for said in ([f"up.sh: the project has moved here from {copy}: pointing .venv here"], []):
        assert steps(version(moved, **offline)) == said
    assert is_compiled(moved) == has_compiler
    entry = subprocess.run(
        [moved / ".venv/bin/comet", "--version"], cwd=fresh.folder, capture_output=True, text=True, check=False
    )
    assert (entry.returncode, entry.stdout[:6]) == (0, "comet "), entry.stderr
    named = subprocess.run(
        ["grep", "-rIlF", "--", str(copy), moved / ".venv"], capture_output=True, text=True, check=False
    )
    assert [line for line in named.stdout.splitlines() if not line.endswith(("/pyvenv.cfg", "/.comet-installed"))] == []
