"""What the command `compare` leaves of its result files when it does not come to its end."""

import argparse
import json
from pathlib import Path

import pytest

from comet.common.errors import UserError
from comet.compare import study
from comet.compare.command import compare
from comet.compare.results.findings import Findings


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


def test_an_interrupted_comparison_reports_its_whole_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = Findings(rounds=1, notes=["interrupted after 1 of 3 rounds"])
    whole.measure("calls", "getpid", "us").note("process", 0, 1.0)

    def interrupted(*_: object) -> None:
        raise study.Interrupted(2, whole)

    monkeypatch.setattr(study, "run", interrupted)
    assert compare(options(tmp_path / "it.json", tmp_path / "it.html")) == 130
    assert "interrupted after 1 of 3 rounds" in capsys.readouterr().out
    assert json.loads((tmp_path / "it.json").read_text())["rounds"] == 1
    assert "Interrupted after 1 of 3 rounds." in (tmp_path / "it.html").read_text()


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
