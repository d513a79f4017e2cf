"""`init`: a commented config.yaml that is the default cluster; and the name by which help speaks of the program."""

from pathlib import Path

import pytest

from comet.cli.main import main, parser
from comet.common import program
from comet.config.keys import KEYS, LIMITS
from comet.config.schema import load, parse


def test_the_file_has_each_key_and_means_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init"]) == 0
    assert "config.yaml is written" in capsys.readouterr().out
    text = (tmp_path / "config.yaml").read_text()
    assert load(tmp_path / "config.yaml") == parse("worker: 3", tmp_path / "config.yaml")
    for name, key in (KEYS | LIMITS).items():
        assert f"\n# {key.meaning} ({key.allowed})\n" in text
        assert f"\n{name}: " in text or f"\n# {'  ' if name in LIMITS else ''}{name}:" in text
    # A user takes a comment away and has the key.
    everything = text.partition("# Everything else")[2].replace("\n# ", "\n")
    keys = [line for line in everything.splitlines() if line.partition(":")[0].strip() in KEYS | LIMITS]
    assert parse("\n".join(keys), tmp_path / "config.yaml") == parse("worker: 3", tmp_path / "config.yaml")


def test_a_file_that_is_there_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("worker: 1\n")
    assert main(["init", "--config", str(path)]) == 1
    assert f"{path}: is there already" in capsys.readouterr().err
    assert path.read_text() == "worker: 1\n"


@pytest.mark.parametrize(
    ("started", "called"),
    [
        ("/usr/bin/comet", "comet"),
        ("/x/comet/__main__.py", "python -m comet"),
        ("supervisor.py", "python supervisor.py"),
        ("/x/pytest/__main__.py", "python supervisor.py"),
    ],
)
def test_help_has_the_name_that_was_typed(started: str, called: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", [started])
    assert program.called() == called
    text = parser().format_help()
    assert f"  {called} run --detach" in text
    assert called == program.IN_CHECKOUT or "supervisor.py" not in text
