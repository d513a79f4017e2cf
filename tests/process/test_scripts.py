"""The scripts, run as a person runs them: in a copy of the project, mostly with a .venv that is there already in place
of pip's work.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.copies import copy_modules
from tests.support.project_copy import PROJECT, assert_ends, bash, lay, own_environment, run
from tests.support.waiting import PATIENCE


def test_arguments_pass_through_untouched_from_any_directory(clone: Path, tmp_path: Path) -> None:
    arguments = ["ps", "--config", "some where/config.yaml", "it's", 'a "word"', "$HOME", "*", "", "--json"]
    result = run(clone, "scripts/up.sh", *arguments, cwd=tmp_path)
    assert result.stderr == ""
    assert json.loads(result.stdout) == [str(tmp_path), arguments]


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
    command = [
        sys.executable,
        str(PROJECT / "scripts/lib/tally.py"),
        str(pytest_status),
        str(checks_status),
        str(report),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stdout.splitlines()[-1] == closing
    assert result.returncode == status


def test_test_sh_counts_a_skipped_test_as_a_failure(clone: Path) -> None:
    copy_modules(clone, "comet.testing.plugin")
    (clone / "tests").mkdir()
    (clone / "tests/test_it.py").write_text(
        "import pytest\n\npytestmark = pytest.mark.unit\n\n"
        "def test_one():\n    pass\n\n@pytest.mark.skip\ndef test_two():\n    pass\n"
    )
    result = run(clone, ".ci/run", "--unit", "-p", "no:cacheprovider")
    assert result.stdout.splitlines()[-2:] == [
        "test.sh: a skipped test counts as a failure",
        "1 passed, 0 failed, 1 skipped",
    ]
    assert result.returncode == 1
    chosen = run(clone, "scripts/test.sh", "--unit", "-p", "no:cacheprovider", "-k", "one")
    assert chosen.stdout.splitlines()[-1] == "1 passed, 0 failed, 0 skipped"
    assert chosen.returncode == 0


@pytest.mark.parametrize("runtime", ["docker", "process"])
def test_called_from_another_folder_it_reads_the_same_config(clone: Path, tmp_path: Path, runtime: str) -> None:
    """Where no config lies in the working folder, the one next to supervisor.py counts, as it does for supervisor.py
    itself.
    """
    (clone / "config.yaml").write_text(f"runtime: {runtime}\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    result = run(clone, "scripts/up.sh", "--detach", cwd=elsewhere, DOCKER_HOST="unix:///nonexistent/sock")
    assert ("no Docker engine answers" in result.stderr) is (runtime == "docker")
    (elsewhere / "config.yaml").write_text("runtime: process\n")
    assert (
        run(clone, "scripts/up.sh", "--detach", cwd=elsewhere, DOCKER_HOST="unix:///nonexistent/sock").returncode == 0
    )


@pytest.mark.parametrize("how", ["dies", "INT", "TERM", "HUP"])
def test_an_ended_setup_leaves_no_process(clone: Path, how: str) -> None:
    """The compiler runs in the background while the engine is looked for; it ends with the script, whatever ended
    that.
    """
    own_environment(clone)
    mark = clone / "compiling"
    trouble = "die nothing answers" if how == "dies" else f"kill -{how} $$; while :; do sleep 0.01; done"
    for name, line in (
        ("venv", f"has_compiler() {{ true; }}; compile() {{ sh -c 'echo $$ >\"{mark}\"; exec sleep 300'; }}"),
        ("needs", "needs_engine() { true; }"),
        ("engine", f"ensure_engine() {{ while [ ! -s '{mark}' ]; do sleep 0.01; done; {trouble}; }}"),
    ):
        with (clone / f"scripts/lib/{name}.sh").open("a") as file:
            file.write(f"\n{line}\n")
    result = run(clone, "scripts/up.sh", "--detach")
    assert result.returncode != 0
    assert_ends(int(mark.read_text()))


def test_the_image_is_made_while_the_data_path_is_compiled(clone: Path) -> None:
    """Each waits for the other to have begun: one after the other they would wait in vain."""
    own_environment(clone)
    meet = "for _ in $(seq 6000); do if [ -e '{other}' ]; then echo met >>met; return 0; fi; sleep 0.01; done"
    lay(
        clone,
        venv=f"has_compiler() {{ true; }}; compile() {{ touch compiles; {meet.format(other='builds')}; }}",
        needs=f"needs_engine() {{ NEEDED_BY=config.yaml; }}; prepare_image() {{ touch builds; "
        f"{meet.format(other='compiles')}; }}",
        engine="ensure_engine() { true; }",
    )
    result = run(clone, "scripts/up.sh", "--detach")
    assert (result.returncode, (clone / "met").read_text()) == (0, "met\nmet\n")
    # Where nothing is to be compiled, the supervisor makes the image.
    (clone / "met").unlink()
    (clone / "builds").unlink()
    assert run(clone, "scripts/up.sh", "--detach").returncode == 0
    assert not (clone / "builds").exists()


def test_a_long_step_shows_progress_and_leaves_nothing(clone: Path) -> None:
    digs = "bash -c 'until [ \"$(grep -c digging signs)\" -ge 2 ]; do sleep 0.02; done'"
    script = (
        f"with_signs_of_life digging {digs} 2>signs || true; echo over; "
        "with_signs_of_life digging false 2>>signs || echo $?; wc -l <signs; sleep 0.5; wc -l <signs"
    )
    result = bash(clone, script, COMET_LIFE_SIGN="0.2")
    said, code, before, after = result.stdout.splitlines()
    assert (said, code, before) == ("over", "1", after), result.stderr
    signs = (clone / "signs").read_text().splitlines()
    assert [line for line in signs if not re.fullmatch(r"bash: digging: \d+ s so far", line)] == []
    assert (
        "what it printed" in bash(clone, "run_logged digging sh -c 'echo what it printed >&2; exit 3' || true").stderr
    )


@pytest.mark.parametrize("step", ["pip", "compiler", "engine"])
def test_ctrl_c_at_any_moment_is_one_line(clone: Path, step: str) -> None:
    """As pip does, the step takes the signal for an error of its own, and ends with words and exit code 1."""
    own_environment(clone)
    stuck = (
        "sh -c 'trap \"echo Operation cancelled by user; exit 1\" INT; echo $$ >>pids; while :; do sleep 0.05; done'"
    )
    lay(
        clone,
        venv="install_project() { "
        + (f"run_logged 'pip install' {stuck} || die 'could not install'" if step == "pip" else "true")
        + "; }; is_installed() { false; }; has_compiler() { true; }; compile() { "
        + (stuck if step == "compiler" else "true")
        + "; } # pretends",
        needs="needs_engine() { NEEDED_BY=config.yaml; }; prepare_image() { true; }",
        engine=f"ensure_engine() {{ {f'run_logged docker {stuck} || die failed' if step == 'engine' else 'true'}; }}",
    )
    command = [str(clone / "scripts/up.sh"), "--detach"]
    environment = os.environ | {"COMET_LIFE_SIGN": "0.1"}
    with subprocess.Popen(
        command,
        cwd=clone,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        while not (clone / "pids").exists() or not (clone / "pids").read_text().endswith("\n"):
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        out, errors = process.communicate(timeout=20 * PATIENCE)
    assert (process.returncode, out) == (130, "")
    said = [line for line in errors.splitlines() if "so far" not in line and "compiling the load" not in line]
    assert said == ["up.sh: interrupted"]
    for pid in (clone / "pids").read_text().split():
        assert_ends(int(pid))
