"""What the start and `doctor` say of a data path that is not compiled."""

import shutil
from pathlib import Path

import pytest

from comet.balancers import data_path
from comet.host import checkout


@pytest.mark.parametrize(("compiler", "reason"), [(True, "not compiled: it runs"), (False, "a C compiler is missing")])
@pytest.mark.parametrize(("installed", "command"), [(True, "python -m lb.build"), (False, "scripts/up.sh")])
def test_the_advice_fits_the_installation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, compiler: bool, reason: str, installed: bool, command: str
) -> None:
    monkeypatch.setattr(data_path, "found", lambda: None)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/cc" if compiler else None)
    monkeypatch.setattr(data_path.sysconfig, "get_path", lambda _: str(tmp_path))
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(checkout, "is_installed", lambda: installed)
    absence = data_path.absence()
    assert absence is not None
    assert reason in absence.reason
    assert absence.advice.endswith(command)
    assert ("apt install gcc" in absence.advice) is not compiler
