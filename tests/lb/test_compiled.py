"""Which data path runs: the compiled one exactly where it was compiled from these sources for this interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import lb
from lb import build, compiled

ROOT = Path(__file__).parents[2]


def test_these_tests_run_what_load_balancers_run() -> None:
    """The scripts compile the data path before they test it; without them: `python -m lb.build`."""
    assert compiled.in_use() == (os.environ.get(compiled.SWITCH) != "interpreted")


@pytest.mark.slow
@pytest.mark.parametrize("switch", ["", "interpreted"])
def test_it_can_be_left_aside(switch: str) -> None:
    asked = "import lb.proxy, lb.compiled; print(lb.compiled.in_use(), lb.proxy.__file__.endswith('.py'))"
    told = subprocess.run(
        [sys.executable, "-c", asked], cwd=ROOT, env=os.environ | {"COMET_LB": switch}, capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == [str(switch == ""), str(switch != "")]


def test_what_was_compiled_of_other_sources_is_left_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(compiled.SWITCH, raising=False)
    monkeypatch.setattr(compiled, "HOUSE", tmp_path)
    monkeypatch.setattr(compiled, "SOURCES", tmp_path / "sources")
    (tmp_path / "sources").mkdir()
    source = tmp_path / "sources" / "proxy.py"
    source.write_text("one = 1\n")
    made = compiled.folder()
    made.mkdir()
    search, before = ["sources"], sys.path[:]
    try:
        compiled.use(search)
        assert search == [str(made / "lb"), "sources"]
        source.write_text("one = 2\n")
        search = ["sources"]
        compiled.use(search)
        assert search == ["sources"]
    finally:
        sys.path[:] = before


def test_what_replaces_it_takes_it_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "HOUSE", tmp_path / "house")
    made = tmp_path / "made"
    made.mkdir()
    (made / "library").write_text("new")
    former = tmp_path / "house" / "former"
    former.mkdir(parents=True)
    target = tmp_path / "house" / "target"
    for _ in range(2):  # The second time, as if another had been faster.
        build._install(made, target)
        assert [each.name for each in (tmp_path / "house").iterdir()] == ["target"]
        assert (target / "library").read_text() == "new"


def test_a_data_path_that_cannot_be_compiled_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compiled, "HOUSE", tmp_path)
    monkeypatch.setattr(build, "_STEPS", "raise SystemExit('no compiler')")
    assert build.main() == 1
    assert capsys.readouterr().err.splitlines() == [
        "no compiler",
        "lb.build: the data path could not be compiled; load balancers run interpreted",
    ]
    assert list(tmp_path.iterdir()) == []


def test_everything_that_is_compiled_exists() -> None:
    assert [name for name in compiled.MODULES if not (ROOT / "lb" / f"{name}.py").is_file()] == []
    assert lb.__path__[-1] == str(ROOT / "lb")
