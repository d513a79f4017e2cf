"""The scripts, run as a person runs them: in a copy of the project, mostly with a .venv that is there already in place of pip's work."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).resolve().parents[2]
PARTS = ("scripts", ".ci", "comet", "lb", "worker_app", "docker", "setup.cfg", "setup.py", "supervisor.py", "config.yaml", "README.md")


def copy_project(folder: Path) -> Path:
    """What a clone has, and nothing that git ignores."""
    folder.mkdir(parents=True)
    for part in PARTS:
        source = PROJECT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / part)
    return folder


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy whose .venv is that of these tests and counts as up to date, and whose supervisor prints what it was given."""
    folder = copy_project(tmp_path / "a clone")
    (folder / "supervisor.py").write_text("import json, os, sys\nprint(json.dumps([os.getcwd(), sys.argv[1:]]))\n")
    shutil.rmtree(folder / "comet")
    (folder / "comet").mkdir()
    for name in ("__init__.py", "errors.py", "engine.py"):
        shutil.copy(PROJECT / "comet" / name, folder / "comet" / name)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def bash(clone: Path, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a piece of shell with the library read in."""
    library = "".join(f". 'scripts/lib/{name}.sh'; " for name in ("common", "venv", "engine", "needs"))
    command = ["bash", "-euo", "pipefail", "-c", library + script]
    return subprocess.run(command, cwd=clone, env=os.environ | environment, capture_output=True, text=True, check=False)


def run(clone: Path, script: str, *arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script with pip out of the way: the .venv counts as up to date."""
    pretend = clone / "scripts/lib/venv.sh"
    if "pretends" not in pretend.read_text():
        with pretend.open("a") as file:
            file.write("\nis_installed() { true; } # the test pretends\n")
    command = [str(clone / script), *arguments]
    return subprocess.run(command, cwd=cwd or clone, env=os.environ | environment, capture_output=True, text=True, check=False)


def test_arguments_pass_through_untouched_from_any_directory(clone: Path, tmp_path: Path) -> None:
    arguments = ["ps", "--config", "some where/config.yaml", "it's", 'a "word"', "$HOME", "*", "", "--json"]
    result = run(clone, "scripts/up.sh", *arguments, cwd=tmp_path)
    assert result.stderr == ""
    assert json.loads(result.stdout) == [str(tmp_path), arguments]


@pytest.mark.docker
def test_a_run_with_an_engine_and_nothing_to_set_up_says_nothing(clone: Path) -> None:
    result = run(clone, "scripts/up.sh", "--detach")
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout) == [str(clone), ["--detach"]]


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        ("", True),
        ("--detach", True),
        ("run", True),
        ("--config config.yaml run -d", True),
        ("run --config=config.yaml", True),
        ("run --config process.yaml", False),
        ("run --config swarm.yaml", False),
        ("--config=process.yaml", False),
        ("run --config missing.yaml", False),
        ("run --config broken.yaml", False),
        ("--config config.yaml ps", False),
        ("ps", False),
        ("stop", False),
        ("scale worker=4", False),
        ("check", False),
        ("logs run", False),
        ("--version", False),
        ("run --help", False),
        ("no-such-command", False),
    ],
)
def test_only_what_starts_containers_asks_for_an_engine(clone: Path, arguments: str, needed: bool) -> None:
    (clone / "process.yaml").write_text("worker: 2\nruntime: process  # no Docker here\n")
    (clone / "swarm.yaml").write_text("runtime: swarm\n")
    (clone / "broken.yaml").write_text("worker: [\n")
    result = bash(clone, f"if needs_engine {arguments}; then echo needed; fi")
    assert result.stderr == ""
    assert result.stdout == ("needed\n" if needed else "")


@pytest.mark.parametrize(
    ("host", "line"),
    [
        ("tcp://10.0.0.1:2375", "up.sh: the Docker engine at tcp://10.0.0.1:2375 is not on this machine"),
        ("unix:///nonexistent/sock", "up.sh: no Docker engine answers at /nonexistent/sock (no such socket)"),
    ],
)
def test_somebody_elses_engine_is_neither_started_nor_installed(clone: Path, host: str, line: str) -> None:
    result = run(clone, "scripts/up.sh", DOCKER_HOST=host)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith(line)
    assert result.stderr.count("\n") == 1


NO_ENGINE = 'probe_engine() { ENGINE_SOCKET=$SYSTEM_SOCKET ENGINE_TROUBLE="no engine"; return 10; }; '


@pytest.mark.parametrize(
    ("circumstances", "line"),
    [
        ("has_dockerd() { false; }; has_apt() { false; }; ", "no Docker engine is installed: install one"),
        (
            "has_dockerd() { false; }; has_apt() { true; }; can_be_root() { false; }; ",
            "no Docker engine is installed: run 'sudo apt-get install",
        ),
        ("has_dockerd() { true; }; can_be_root() { false; }; ", "the Docker engine does not run: start it"),
    ],
)
def test_what_only_the_user_can_do_is_said_in_one_line(clone: Path, circumstances: str, line: str) -> None:
    result = bash(clone, f"{NO_ENGINE}{circumstances}ensure_engine")
    assert result.returncode == 1
    assert line in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_engine_that_never_answers_is_given_up_with_its_log(clone: Path, tmp_path: Path) -> None:
    (tmp_path / "log").write_text("failed to start daemon: no space left on device\n")
    script = (
        f"{NO_ENGINE}has_dockerd() {{ true; }}; can_be_root() {{ true; }}; start_engine() {{ true; }}; has_systemd() {{ false; }}; "
        f"ENGINE_LOG='{tmp_path}/log'; ensure_engine"
    )
    result = bash(clone, script, COMET_ENGINE_DEADLINE="0")
    assert result.returncode == 1
    assert result.stderr.splitlines()[0].strip() == "failed to start daemon: no space left on device"
    assert "does not answer after 0 s: its own words stand above" in result.stderr


def test_a_session_older_than_its_group_goes_on_with_the_group(clone: Path) -> None:
    """`sg` stands for a fresh log-in; the second time round there is no third."""
    script = (
        'probe_engine() { ENGINE_TROUBLE="no permission"; return 11; }; is_root() { false; }; sg() { :; }; '
        'id() { echo users docker; }; exec() { echo "$@"; exit 0; }; '
        "ensure_engine run --config 'a b'"
    )
    assert re.fullmatch(r"sg docker -c exec \S+ run --config a\\ b \n", bash(clone, script).stdout)
    again = bash(clone, script, COMET_REGROUPED="1")
    assert again.returncode == 1
    assert again.stderr.endswith(": no permission\n")


def test_the_stamp_follows_what_the_environment_is_made_from(clone: Path) -> None:
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


def test_a_python_that_is_too_old_is_refused_by_name(clone: Path) -> None:
    old = clone / "old-python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    result = bash(clone, "find_python", PYTHON=str(old))
    assert result.returncode == 1
    assert f"PYTHON={old} is not a Python 3.11 or newer" in result.stderr


BARE_PYTHON = (
    'has_ensurepip() { [ -e installed ]; }; apt_install() { echo "$@" >>installed; }; has_apt() { true; }; can_be_root() { true; }; '
)


def test_a_python_without_ensurepip_gets_it_from_the_distribution(clone: Path) -> None:
    """Debian's python3 alone cannot make a virtual environment."""
    result = bash(clone, BARE_PYTHON + "ensure_python")
    assert result.returncode == 0, result.stderr
    python = result.stdout.strip()
    version = "{}.{}".format(*subprocess.check_output([python, "-c", "import sys; print(*sys.version_info[:2])"], text=True).split())
    assert (clone / "installed").read_text() == f"{python} lacks ensurepip python{version}-venv\n"


def test_a_python_without_ensurepip_is_named_where_nothing_can_be_installed(clone: Path) -> None:
    result = bash(clone, BARE_PYTHON + "can_be_root() { false; }; ensure_python")
    assert result.returncode == 1
    assert "cannot make a virtual environment (no ensurepip): install the package python3-venv" in result.stderr
    assert result.stderr.count("\n") == 1


REPORT = "<testsuites><testsuite>{}</testsuite></testsuites>"
PASSED, FAILED = "<testcase/>", "<testcase><failure/></testcase>"
ERROR, SKIPPED = "<testcase><error/></testcase>", "<testcase><skipped/></testcase>"


@pytest.mark.parametrize(
    ("cases", "pytest_status", "checks_status", "closing", "status"),
    [
        (PASSED * 3, 0, 0, "3 passed, 0 failed, 0 skipped", 0),
        (PASSED * 2 + FAILED + ERROR, 1, 0, "2 passed, 2 failed, 0 skipped", 1),
        (PASSED + SKIPPED, 0, 0, "1 passed, 0 failed, 1 skipped", 1),
        (PASSED, 0, 1, "1 passed, 0 failed, 0 skipped", 1),
        (PASSED, 2, 0, "1 passed, 0 failed, 0 skipped", 1),
        ("", 5, 0, "0 passed, 0 failed, 0 skipped", 1),
        ("", 0, 0, "0 passed, 0 failed, 0 skipped", 1),
        (None, 3, 0, "0 passed, 0 failed, 0 skipped", 1),
    ],
)
def test_the_closing_line_counts_and_a_skip_is_a_failure(
    cases: str | None, pytest_status: int, checks_status: int, closing: str, status: int, tmp_path: Path
) -> None:
    report = tmp_path / "report.xml"
    if cases is not None:
        report.write_text(REPORT.format(cases))
    command = [sys.executable, str(PROJECT / "scripts/lib/tally.py"), str(report), str(pytest_status), str(checks_status)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stdout.splitlines()[-1] == closing
    assert result.returncode == status


def test_test_sh_counts_a_skipped_test_as_a_failure(clone: Path) -> None:
    (clone / "tests").mkdir()
    (clone / "tests/test_it.py").write_text("import pytest\n\ndef test_one():\n    pass\n\n@pytest.mark.skip\ndef test_two():\n    pass\n")
    result = run(clone, ".ci/run", "--unit", "-p", "no:cacheprovider")
    assert result.stdout.splitlines()[-2:] == ["test.sh: a skipped test counts as a failure", "1 passed, 0 failed, 1 skipped"]
    assert result.returncode == 1
    chosen = run(clone, "scripts/test.sh", "--unit", "-p", "no:cacheprovider", "-k", "one")
    assert chosen.stdout.splitlines()[-1] == "1 passed, 0 failed, 0 skipped"
    assert chosen.returncode == 0


def test_a_fresh_copy_is_set_up_once(tmp_path: Path) -> None:
    """The whole way, pip and compiler included; the second time there is nothing left to say or do."""
    clone = copy_project(tmp_path / "fresh")
    compiled = "compiling the load balancers' data path" if bash(PROJECT, "has_compiler").returncode == 0 else "no C compiler"
    for expected in (["creating .venv", "installing the project into .venv", compiled], []):
        result = subprocess.run([clone / "scripts/up.sh", "--version"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith("comet ")
        said = result.stderr.splitlines()
        assert len(said) == len(expected), result.stderr
        assert all(line.startswith(f"up.sh: {words}") for line, words in zip(said, expected, strict=True))
    in_use = [clone / ".venv/bin/python", "-c", "import lb.compiled; print(lb.compiled.in_use())"]
    told = subprocess.run(in_use, cwd=clone, env=os.environ | {"COMET_LB": ""}, capture_output=True, text=True, check=True)
    assert told.stdout.split() == [str(compiled.startswith("compiling"))]
    assert sorted(path.name for path in clone.iterdir() if path.name.startswith(".")) == [".ci", ".venv"]
