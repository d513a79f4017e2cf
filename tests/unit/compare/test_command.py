"""What the command `compare` leaves of its result files when it does not come to its end."""

import argparse
from pathlib import Path

import pytest

from comet.common.errors import UserError
from comet.compare import study
from comet.compare.command import compare


def options(path: Path, other: Path) -> argparse.Namespace:
    return argparse.Namespace(rounds=1, question=None, json=path, html=other)


def test_an_interrupted_comparison_leaves_files_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise study.Interrupted(15)

    monkeypatch.setattr(study, "run", interrupted)
    link, kept = tmp_path / "link.json", tmp_path / "kept.html"
    link.symlink_to(tmp_path / "nowhere.json")
    kept.write_bytes(b"former \xff")
    assert compare(options(tmp_path / "new.json", tmp_path / "new.html")) == 143
    assert compare(options(link, kept)) == 143
    assert sorted(tmp_path.iterdir()) == [kept, link]
    assert kept.read_bytes() == b"former \xff"


def test_an_unwritable_file_is_named_before_the_first_round(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing" / "x.json", Path("x" * 300)):
        with pytest.raises(UserError, match="cannot be written"):
            compare(options(path, tmp_path / "new.html"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("other", ["both", "./both", "link"])
def test_one_file_for_both_outputs_is_refused_before_a_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("link").symlink_to("both")
    monkeypatch.setattr(study, "run", lambda *_: pytest.fail("it was begun"))
    with pytest.raises(UserError, match="--json and --html name the same file") as caught:
        compare(options(Path("both"), Path(other)))
    assert caught.value.exit_code == 2
    assert not Path("both").exists()
