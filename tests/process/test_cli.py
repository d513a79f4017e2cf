"""The command line as a user types it, in processes of its own."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from comet.state.directory import Cluster
from tests.support.cluster import TestCluster
from tests.support.copies import copy_modules

ROOT = Path(__file__).resolve().parents[2]


def comet(
    *arguments: str, cwd: Path, python: str = sys.executable, script: Path = ROOT / "supervisor.py"
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, str(script), *arguments], cwd=cwd, capture_output=True, text=True, timeout=240, check=False
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text("worker: 1\nload-balancer-port: 15050\nworker-port: 16000\n")
    return tmp_path


BAD = [
    ["dance"],
    ["ps", "--jsno"],
    ["ps", "--js"],
    ["events", "--tail", "x"],
    ["logs", "--tail", "-5"],
    ["wait", "all"],
    ["wait", "all", "--for=dead"],
    ["compare", "--rounds", "0"],
    ["--detach", "ps", "x"],
    ["faults", "--delay", "uniform"],
]


@pytest.mark.parametrize("arguments", BAD)
def test_bad_usage_is_one_line_and_exit_2(folder: Path, arguments: list[str]) -> None:
    done = comet(*arguments, cwd=folder)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("supervisor.py")


def test_a_bad_config_is_told_completely_and_changes_nothing(folder: Path) -> None:
    (folder / "config.yaml").write_text("worker: many\nwroker: 1\n")
    for command in (["run"], ["check"], []):
        done = comet(*command, cwd=folder)
        assert done.returncode == 2
        assert done.stderr.splitlines() == [
            "config.yaml:1: worker: 'many' is not a whole number (allowed: a whole number from 0 to 200)",
            "config.yaml:2: wroker: unknown key (did you mean worker?)",
        ]
    assert [path.name for path in folder.iterdir()] == ["config.yaml"]


def test_check_says_what_would_run(folder: Path) -> None:
    for order in (["check", "--config", "config.yaml"], ["--config", "config.yaml", "check"]):
        done = comet(*order, cwd=folder)
        assert (done.returncode, done.stderr) == (0, "")
        assert "1 worker, 2 load balancers" in done.stdout


def test_commands_without_a_cluster_say_so(folder: Path) -> None:
    assert comet("stop", cwd=folder).returncode == 3
    assert comet("events", cwd=folder).returncode == 3
    done = comet("ps", cwd=folder)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2)
    assert [path.name for path in folder.iterdir()] == ["config.yaml"]


def test_a_python_without_packages_uses_the_venv_or_says_so(folder: Path) -> None:
    bare = shutil.which("python3", path="/usr/bin") or sys.executable
    lone = folder / "supervisor.py"
    shutil.copy(ROOT / "supervisor.py", lone)
    copy_modules(folder, "comet.bootstrap", "comet.host.process_setup")
    done = subprocess.run(
        [bare, "-S", str(lone), "ps"], capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"]}
    )
    assert done.returncode == 1
    assert done.stderr.endswith("run scripts/up.sh once, it sets everything up\n")
    assert len(done.stderr.splitlines()) == 1
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / ".venv/bin/python").write_text('#!/bin/sh\necho "handed over: $2 $3"\n')
    (folder / ".venv/bin/python").chmod(0o755)
    done = subprocess.run(
        [bare, "-S", str(lone), "ps", "--json"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"]},
    )
    assert done.stdout == "handed over: ps --json\n"


def test_supervisor_script_imports_nothing_at_module_level() -> None:
    code = "import sys; before = set(sys.modules); import supervisor; print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "['supervisor']\n"


MEANT = [(["restrat", "all"], "restart"), (["help", "scael"], "scale")]


@pytest.mark.parametrize(("arguments", "word"), MEANT)
def test_a_mistyped_command_names_the_one_that_is_meant(folder: Path, arguments: list[str], word: str) -> None:
    done = comet(*arguments, cwd=folder)
    assert done.returncode == 2
    assert f"did you mean {word}?" in done.stderr


def test_help_shows_how_a_command_is_used(folder: Path) -> None:
    assert comet("help", "scale", cwd=folder).stdout == comet("scale", "--help", cwd=folder).stdout
    assert comet("help", cwd=folder).stdout == comet("--help", cwd=folder).stdout


def test_wait_without_a_cluster(folder: Path) -> None:
    assert comet("wait", "all", "--for=gone", cwd=folder).stdout == "all gone\n"
    done = comet("wait", "worker-0", "--for=ready", "--timeout", "0", cwd=folder)
    assert (done.returncode, done.stderr) == (1, "not ready within 0 s: no supervisor runs\n")
    assert comet("wait", "wrker-0", "--for=ready", cwd=folder).returncode == 2


@pytest.mark.parametrize(
    "words",
    [
        ["logs", "x" * 300],
        ["logs", "../../x"],
        ["logs", ""],
        ["scenario", "x" * 300],
        ["init", "--config", "x" * 300],
        ["compare", "--question", "cpu", "--json", "x" * 300],
        ["check", "--config", "x" * 300],
    ],
)
def test_a_name_that_no_file_can_have_is_one_line(make_cluster: Callable[..., TestCluster], words: list[str]) -> None:
    cluster = make_cluster(runtime="process", worker=1, pool=1)
    Cluster(cluster.folder).create()
    done = cluster.comet(*words)
    assert (done.returncode in (1, 2), done.stderr.count("\n")) == (True, 1), done.stderr


@pytest.mark.parametrize(
    ("where", "said"),
    [
        (".comet/traffic.json", "is Comet's own"),
        ("config.yaml", "is Comet's own"),
        (".comet", "is Comet's own"),
        ("..", "is Comet's own"),
        ("x" * 300, "longer than 200 bytes"),
    ],
)
def test_no_database_lies_where_something_else_does(
    make_cluster: Callable[..., TestCluster], where: str, said: str
) -> None:
    cluster = make_cluster(runtime="process", worker=1, pool=1, stats_dir=where)
    for words in (["check"], ["run"]):
        done = cluster.comet(*words)
        assert (done.returncode, said in done.stderr, done.stderr.count("\n")) == (2, True, 1), done.stderr
