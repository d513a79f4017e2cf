"""Before anything is imported: a Python that lacks a package, or has one that does not work, is told so in one line."""

import importlib.metadata
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from comet.bootstrap import NEEDED
from tests.unit.test_bootstrap import NEEDED_BY_ALL, ROOT

_distributions = importlib.metadata.packages_distributions()
DIRECT = {_distributions[name][0].lower().replace("_", "-") for name in NEEDED}
"""What is looked for before the command is read: without one of them, every command ends alike."""

MET_BY_COMMANDS = ["pyyaml", *(name for name in NEEDED_BY_ALL if name.replace("_", "-") not in DIRECT)]
"""What a command misses only where it imports it, and one that is looked for before."""


def run(
    folder: Path, *left_out: str, command: tuple[str, ...] = ("ps",), **instead: str
) -> subprocess.CompletedProcess[str]:
    """A command under the same interpreter, with the installed packages but those left out, and others in their
    place.
    """
    packages, clone = folder / "packages", folder / "clone"
    packages.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if path.name not in left_out and path.name not in instead and path.suffix not in (".pth", ".py"):
            (packages / path.name).symlink_to(path)
    if "typing_extensions.py" not in left_out:
        (packages / "typing_extensions.py").symlink_to(Path(sysconfig.get_path("purelib"), "typing_extensions.py"))
    for name, code in instead.items():
        (packages / name).mkdir()
        (packages / name / "__init__.py").write_text(code)
    clone.mkdir()
    for name in ("comet", "fault_rules", "lb", "worker_app", "docker", "supervisor.py"):
        (clone / name).symlink_to(ROOT / name)
    interpreter = f"{sys.base_prefix}/bin/python{sys.version_info[0]}.{sys.version_info[1]}"
    # Not through the link: supervisor.py looks for .venv where it really lies.
    code = (
        f"import sys; sys.path.insert(0, {str(clone)!r}); sys.argv[1:] = {list(command)!r}; from comet import "
        "bootstrap; "
        f"bootstrap.ensure_dependencies({str(clone / 'nowhere.py')!r}); raise SystemExit(bootstrap.command_line())"
    )
    environment = {"PYTHONPATH": str(packages), "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [interpreter, "-S", "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", NEEDED)
def test_a_missing_package_is_one_line(tmp_path: Path, name: str) -> None:
    done = run(tmp_path, name)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"comet: {name} not installed for ")
    assert "run scripts/up.sh" in done.stderr


def entries(name: str) -> set[str]:
    """What a package has in the folder of packages."""
    return {file.parts[0] for file in importlib.metadata.files(name) or ()} - {"..", "__pycache__"}


@pytest.mark.parametrize("command", [("run", "--detach"), ("ps",), ("doctor",)], ids=lambda command: command[0])
@pytest.mark.parametrize("name", MET_BY_COMMANDS)
def test_any_missing_package_is_one_line_for_every_command(tmp_path: Path, name: str, command: tuple[str, ...]) -> None:
    (tmp_path / "config.yaml").write_text("runtime: process\n")
    done = run(tmp_path, *entries(name), command=command)
    assert "Traceback" not in done.stdout + done.stderr
    lines = done.stderr.splitlines()
    if "RequestsDependencyWarning" in done.stderr:  # Where requests is imported, it warns itself, in two lines.
        lines = lines[2:]
    if command[0] == "run" or (done.returncode == 1 and lines):
        assert (done.returncode, done.stdout, len(lines)) == (1, "", 1), done
        assert "run scripts/up.sh" in lines[0]
    assert command[0] != "doctor" or lines or f"missing: {name}" in done.stdout.replace("_", "-").lower()
    assert not (tmp_path / ".comet").exists()


@pytest.mark.parametrize("name", ["psutil", "yaml", "docker"])
def test_a_broken_package_is_one_line(tmp_path: Path, name: str) -> None:
    done = run(tmp_path, **{name: "raise ImportError('built for\\nanother Python', name=__name__)"})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "cannot be used with" in done.stderr
    assert "built for another Python" in done.stderr


def test_all_packages_present_runs(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert "not installed" not in done.stderr
    assert "Traceback" not in done.stderr
