"""Writes the table of docs/engines.md from a run of the tests with every engine, user and Python: `python -m
scripts.matrix [PYTHON…]`.

A row says how many of the tests passed, or what this machine lacks for it. The tests are the suite's own, on every kind
of engine; with COMET_TEST_FULL=1 every engine also builds the worker image, which takes a minute each.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.engine_kinds import KINDS, missing_requirement

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "engines.md"
BEGIN, END = "<!-- written by scripts/matrix.sh -->\n", "<!-- end -->\n"
TESTS = "tests/docker/test_engine_kinds.py"

USERS = {"docker": "root", "docker-user": "in the group docker", "docker-remap": "root, userns-remap", "podman": "root"}
ORDINARY = "ordinary, rootless"


@dataclass
class Row:
    """The outcome of one kind of engine with one Python."""

    kind: str
    python: str
    engine: str = ""
    passed: int = 0
    failed: list[str] = field(default_factory=list)

    def cells(self) -> list[str]:
        lacking = missing_requirement(self.kind)
        if lacking:
            outcome = f"not tried: this machine lacks {lacking}"
        elif self.failed:
            outcome = f"{self.passed} passed, failed: {', '.join(self.failed)}"
        else:
            outcome = f"all {self.passed} passed"
        return [self.engine or self.kind, USERS.get(self.kind, ORDINARY), self.python, outcome]


def main(pythons: Sequence[str]) -> int:
    rows: list[Row] = []
    names: dict[str, None] = {}
    for python in pythons or [sys.executable]:
        rows += _tried(_environment(python), names)
    text = BEGIN + "".join(f"{line}\n" for line in _lines(rows, names)) + END
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    PAGE.write_text(f"{before}{text}{rest.partition(END)[2]}")
    print(f"written: {PAGE.relative_to(ROOT)}")
    return 1 if any(row.failed for row in rows) else 0


def _environment(python: str) -> str:
    """Return the interpreter of a virtual environment of this Python with the project and its test tools, made if it is
    missing.
    """
    if os.path.realpath(python) == os.path.realpath(sys.executable):
        return sys.executable
    version = _version(python)
    folder = ROOT / ".venv" / "matrix" / version
    interpreter = str(folder / "bin" / "python")
    if not folder.exists():
        print(f"making an environment of Python {version}", flush=True)
        subprocess.run([python, "-m", "venv", str(folder)], check=True)
        subprocess.run([interpreter, "-m", "pip", "install", "--quiet", "--editable", f"{ROOT}[test]"], check=True)
    return interpreter


def _version(python: str) -> str:
    asked = "import platform; print(platform.python_version())"
    return subprocess.run([python, "-c", asked], check=True, capture_output=True, text=True).stdout.strip()


def _tried(python: str, names: dict[str, None]) -> list[Row]:
    """Return a row for each kind of engine, from one run of the tests; `names` is filled with those of the tests."""
    version = _version(python)
    rows = {kind: Row(kind, version) for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            python,
            "-m",
            "pytest",
            "-q",
            TESTS,
            f"--junit-xml={report}",
            "--override-ini=junit_family=xunit1",  # The later form has no properties of tests.
            f"--basetemp={folder}/tests",
            "-p",
            "no:cacheprovider",
        ]
        print(f"Python {version}: {TESTS}", flush=True)
        subprocess.run(command, cwd=ROOT, env=os.environ | {"COMET_TEST_MATRIX": "1"}, check=False)
        for name, kind, case in _cases(report):
            row = rows[kind]
            names[name] = None
            if any(child.tag in ("failure", "error", "skipped") for child in case):
                row.failed.append(name)
            else:
                row.passed += 1
            for entry in case.iter("property"):
                if entry.get("name") == "engine":
                    row.engine = str(entry.get("value"))
    for row in rows.values():
        if not row.passed and not row.failed and not missing_requirement(row.kind):
            row.failed.append("no test ran")
    return list(rows.values())


def _cases(report: Path) -> Iterator[tuple[str, str, ElementTree.Element]]:
    """Yield of each test its name as words, the kind of its engine, and its entry; nothing if pytest did not run."""
    if not report.exists():
        return
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        name, _, kind = str(case.get("name")).removesuffix("]").partition("[")
        if kind in KINDS:
            yield name.removeprefix("test_").replace("_", " "), kind, case


def _lines(rows: Sequence[Row], names: Sequence[str] | dict[str, None]) -> Iterator[str]:
    system = platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    cgroups = 2 if Path("/sys/fs/cgroup/cgroup.controllers").exists() else 1
    yield f"Tried on {system}, Linux {platform.release()}, cgroup v{cgroups}, {os.cpu_count()} cores."
    yield ""
    yield "| engine | user | Python | outcome |"
    yield "| --- | --- | --- | --- |"
    for row in rows:
        yield f"| {' | '.join(row.cells())} |"
    yield ""
    yield "What was run on each:"
    yield ""
    for name in names:
        yield f"- {name}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
