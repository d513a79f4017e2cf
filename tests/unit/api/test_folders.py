"""Folders of clusters: a process's own, and gone when it is dead."""

import os
from pathlib import Path

import pytest

from comet.api import folders
from comet.common.errors import UserError


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(folders.tempfile, "gettempdir", lambda: str(tmp_path))
    return tmp_path / f"comet-{os.getuid()}"


def test_folders_of_living_processes_stay(temporary: Path) -> None:
    one, two = folders.made(), folders.made()
    assert one != two
    assert one.parent == two.parent == temporary
    assert one.stat().st_mode & 0o777 == 0o700
    assert one.exists()
    folders.remove(one)
    assert not one.exists()


@pytest.mark.slow
@pytest.mark.parametrize("change", ["pid", "birth", "boot"])
def test_folders_of_dead_processes_go(temporary: Path, change: str) -> None:
    kept = folders.made()
    pid, birth, boot, end = kept.name.split("-")
    other = {
        "pid": f"4194303-{birth}-{boot}-{end}",
        "birth": f"{pid}-1-{boot}-{end}",
        "boot": f"{pid}-{birth}-00000000-{end}",
    }[change]
    (temporary / other / "sub").mkdir(parents=True)
    (temporary / "somebody's").mkdir()
    folders.made()
    assert not (temporary / other).exists()
    assert kept.exists()
    assert (temporary / "somebody's").exists()


@pytest.mark.parametrize("make", [lambda path: path.write_text(""), lambda path: path.symlink_to("/tmp")])
def test_what_is_no_folder_of_ours_is_refused(temporary: Path, make: object) -> None:
    make(temporary)  # type: ignore[operator]
    with pytest.raises(UserError, match="set TMPDIR to a folder of yours"):
        folders.made()


def test_a_folder_that_others_may_write_to_is_refused(temporary: Path) -> None:
    temporary.mkdir()
    temporary.chmod(0o777)
    with pytest.raises(UserError, match="not a folder of this user alone"):
        folders.made()
