"""Which data path runs: the compiled one exactly where it was compiled from these sources for this interpreter."""

import os
import sys
from pathlib import Path

import pytest

import lb
from lb import build
from lb.system import compiled

ROOT = Path(__file__).parents[4]


def test_these_tests_run_what_load_balancers_run() -> None:
    """The scripts compile the data path before they test it; without them: `python -m lb.build`."""
    assert compiled.in_use() == (os.environ.get(compiled.ENV_VARIABLE) != "interpreted")


def test_subpackages_use_the_compiled_modules_too() -> None:
    search = [str(compiled.SOURCES / "within")]
    compiled.prefer_compiled(search)
    assert search == [f"{place}/within" for place in lb.__path__]


def test_modules_compiled_from_other_sources_are_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(compiled.ENV_VARIABLE, raising=False)
    monkeypatch.setattr(compiled, "CACHE", tmp_path)
    monkeypatch.setattr(compiled, "SOURCES", tmp_path / "sources")
    (tmp_path / "sources").mkdir()
    source = tmp_path / "sources" / "proxy.py"
    source.write_text("one = 1\n")
    made = tmp_path / compiled.folder_name()
    made.mkdir()
    sources, before = str(tmp_path / "sources"), sys.path[:]
    search = [sources]
    try:
        compiled.prefer_compiled(search)
        assert search == [str(made / "lb"), sources]
        source.write_text("one = 2\n")
        search = [sources]
        compiled.prefer_compiled(search)
        assert search == [sources]
    finally:
        sys.path[:] = before


def test_a_new_build_removes_the_previous_one(tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    (made / "library").write_text("new")
    former = tmp_path / "cache" / "former"
    former.mkdir(parents=True)
    target = tmp_path / "cache" / "target"
    for _ in range(2):  # The second time, as if another had been faster.
        build._install(made, target)
        assert [each.name for each in (tmp_path / "cache").iterdir()] == ["target"]
        assert (target / "library").read_text() == "new"


def test_a_package_brings_its_own_compiled_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(compiled, "SOURCES", tmp_path / "lb")
    name = compiled.folder_name()
    assert compiled.found() is None
    (tmp_path / "cache" / name).mkdir(parents=True)
    assert compiled.found() == tmp_path / "cache" / name
    (tmp_path / "lb" / compiled.IN_PACKAGE / name).mkdir(parents=True)
    assert compiled.found() == tmp_path / "lb" / compiled.IN_PACKAGE / name


def test_everything_that_is_compiled_exists() -> None:
    assert [name for name in compiled.MODULES if not (ROOT / f"{name.replace('.', '/')}.py").is_file()] == []
    assert lb.__path__[-1] == str(ROOT / "lb")
