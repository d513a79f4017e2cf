"""The audits of scripts/check.sh find what they are for, in a small project of their own."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLANTED = """import itsdangerous
import subprocess


def used() -> None:
    itsdangerous.Signer("key")


def only_a_test_calls_this() -> None:
    subprocess.run("ls", shell=True)


used()
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for package in ("comet", "fault_rules", "lb", "worker_app", "docker", "tests"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "scripts/lib").mkdir(parents=True)
    for name in ("setup.cfg", "supervisor.py", "scripts/lib/requirements.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def audit(project: Path, name: str) -> subprocess.CompletedProcess[str]:
    library = "".join(f". {ROOT}/scripts/lib/{each}.sh; " for each in ("common", "venv", "audits"))
    return subprocess.run(
        ["bash", "-c", f"{library} {name}"], cwd=project, capture_output=True, text=True, timeout=480, check=False
    )


@pytest.mark.parametrize(
    ("name", "finding"),
    [
        ("audit_imports", "itsdangerous"),
        ("audit_use", "unused function 'only_a_test_calls_this'"),
        ("audit_safety", "B602"),
    ],
)
def test_an_audit_finds_planted_defects(project: Path, name: str, finding: str) -> None:
    (project / "comet/planted.py").write_text(PLANTED)
    found = audit(project, name)
    assert found.returncode != 0
    assert finding in found.stdout + found.stderr


def test_every_declared_requirement_is_pinned_for_the_audit(project: Path) -> None:
    written = audit(
        project, 'mkdir out && "$VENV/bin/python" scripts/lib/requirements.py out && cat out/run.txt out/dev.txt'
    )
    assert written.returncode == 0, written.stderr
    for name in ("Flask", "urllib3", "Werkzeug", "MarkupSafe", "pytest", "hdrhistogram", "mypy[mypyc]"):
        assert f"\n{name} " in written.stdout
