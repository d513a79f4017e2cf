"""The scripts and the environment: made once, repaired, and without what a machine lacks."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.support.project_copy import COMPILERS, bash, own_environment, path_without, run


def test_the_stamp_covers_all_inputs_of_the_environment(clone: Path) -> None:
    """pip runs again when the requirements, the extras or the place of the clone have changed, and only then."""
    (clone / ".venv").unlink()
    (clone / ".venv/bin").mkdir(parents=True)
    (clone / ".venv/bin/python").symlink_to(sys.executable)
    stamp = 'printf "%s\\n%s\\n" "$(wanted_stamp)" none >"$STAMP"; '
    check = "is_installed none && echo yes || echo no; is_installed test && echo yes || echo no"

    def state(prepare: str = "") -> list[str]:
        return bash(clone, prepare + check).stdout.split()

    assert state() == ["no", "no"]
    assert state(stamp) == ["yes", "no"]
    assert state(stamp.replace("none", "test")) == ["yes", "yes"]
    with (clone / "setup.cfg").open("a") as file:
        file.write("\n# changed\n")
    assert state() == ["no", "no"]
    assert state(stamp.replace("none", "test")) == ["yes", "yes"]
    clone.rename(clone.with_name("moved"))
    clone = clone.with_name("moved")
    assert state() == ["no", "no"]


def test_a_venv_that_lost_a_package_or_pip_is_repaired(clone: Path) -> None:
    """What the supervisor says of a missing package is to run up.sh: it must not find all done."""
    (clone / ".venv").unlink()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(clone / ".venv")], check=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(clone / ".venv")}))
    for name, needs in (("comet_cluster", "left"), ("left", "right"), ("right", "")):
        (packages / f"{name}-1.dist-info").mkdir()
        required = f"Requires-Dist: {needs} >=1; extra == 'x'\nRequires-Dist: {needs} >=1\n" if needs else ""
        (packages / f"{name}-1.dist-info/METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n{required}"
        )
    pretend = 'install_project() { "$VENV/bin/python" -m pip --version >/dev/null; echo by pip; }; write_stamp none; '
    assert bash(clone, pretend + "ensure_venv none").stdout == ""
    shutil.rmtree(packages / "right-1.dist-info")
    made = bash(clone, pretend + "ensure_venv none")
    assert (made.returncode, made.stdout) == (0, "by pip\n"), made.stderr
    assert made.stderr.startswith("bash: creating .venv (Python ")


def test_a_python_that_is_too_old_is_refused_by_name(clone: Path) -> None:
    old = clone / "old-python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    result = bash(clone, "find_python", PYTHON=str(old))
    assert result.returncode == 1
    assert f"PYTHON={old} is not a Python 3.11 or newer" in result.stderr


DISTRIBUTION = "/usr/bin/python3"


@pytest.mark.parametrize(
    ("lacks", "chosen"),
    [
        ({}, DISTRIBUTION),
        ({DISTRIBUTION: ["headers"]}, "python3"),
        ({DISTRIBUTION: ["ensurepip"]}, "python3"),
        ({DISTRIBUTION: ["headers"], "python3": ["headers"]}, DISTRIBUTION),
        ({DISTRIBUTION: ["headers"], "python3": ["ensurepip"]}, DISTRIBUTION),
        ({DISTRIBUTION: ["fits"], "python3": ["headers"]}, "python3"),
        ({DISTRIBUTION: ["ensurepip"], "python3": ["ensurepip"]}, DISTRIBUTION),
        ({DISTRIBUTION: ["fits"], "python3": ["fits"]}, ""),
    ],
)
def test_the_distributions_python_is_preferred_if_it_can_do_all(
    clone: Path, lacks: dict[str, list[str]], chosen: str
) -> None:
    asked = {"fits": "fits", "ensurepip": "has_ensurepip", "headers": "has_headers"}
    pretend = "".join(
        f"{name}() {{ case $1 in {'|'.join(each for each in lacks if what in lacks[each]) or '-'}) false ;; esac; }}; "
        for what, name in asked.items()
    )
    only = f'command() {{ case $2 in python3|{DISTRIBUTION}) echo "$2" ;; *) false ;; esac; }}; '
    result = bash(clone, pretend + only + "unset PYTHON; find_python")
    assert (result.returncode, result.stdout.strip(), result.stderr) == (0, chosen, "")


BARE_PYTHON = (
    'has_ensurepip() { [ -e installed ]; }; apt_install() { echo "$@" >>installed; }; has_apt() { true; '
    "}; can_be_root() { true; }; "
)


def test_a_python_without_ensurepip_gets_its_package(clone: Path) -> None:
    """Debian's python3 alone cannot make a virtual environment."""
    result = bash(clone, BARE_PYTHON + "ensure_python")
    assert result.returncode == 0, result.stderr
    python = result.stdout.strip()
    version = "{}.{}".format(
        *subprocess.check_output([python, "-c", "import sys; print(*sys.version_info[:2])"], text=True).split()
    )
    assert (clone / "installed").read_text() == f"{python} lacks ensurepip python{version}-venv\n"


def test_a_python_without_ensurepip_is_named_without_apt(clone: Path) -> None:
    result = bash(clone, BARE_PYTHON + "can_be_root() { false; }; ensure_python")
    assert result.returncode == 1
    assert "cannot make a virtual environment (no ensurepip): install the package python3-venv" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_machine_without_a_c_compiler_is_told_so_and_goes_on(clone: Path, tmp_path: Path) -> None:
    own_environment(clone)
    bare = path_without(tmp_path / "bin", *COMPILERS)
    first = run(clone, "scripts/up.sh", "ps", PATH=bare)
    assert (first.returncode, json.loads(first.stdout)) == (0, [str(clone), ["ps"]])
    assert first.stderr.count("\n") == 1
    assert "no C compiler with Python's headers" in first.stderr
    again = run(clone, "scripts/up.sh", "ps", PATH=bare)
    assert (again.returncode, again.stderr) == (0, "")


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ("has_compiler() { false; }", "no C compiler with Python's headers"),
        ("has_compiler() { true; }; compile() { return 1; }", "load balancers run interpreted"),
        ("has_compiler() { true; }; compile() { true; }; COMPILED=/proc/version", "the next start compiles again"),
        ("has_compiler() { true; }; compile() { true; }; COMPILED=/nowhere/stamp", "the next start compiles again"),
        (
            "has_compiler() { true; }; compile() { true; }; sha256sum() { cat >/dev/null; return 1; }",
            "load balancers run interpreted",
        ),
    ],
)
def test_an_optional_step_that_fails_is_one_line_and_no_end(clone: Path, trouble: str, said: str) -> None:
    own_environment(clone)
    result = bash(clone, f"{trouble}; ensure_compiled; echo went on")
    assert (result.returncode, result.stdout) == (0, "went on\n")
    assert [line for line in result.stderr.splitlines() if "about 20 s" not in line and said not in line] == []
    assert said in result.stderr


def test_without_flock_the_steps_are_the_same(clone: Path, tmp_path: Path) -> None:
    own_environment(clone)
    result = run(clone, "scripts/up.sh", "ps", PATH=path_without(tmp_path / "bin", "flock", *COMPILERS))
    assert (result.returncode, json.loads(result.stdout)) == (0, [str(clone), ["ps"]])
