"""Memory groups, made while other clusters remove theirs."""

from pathlib import Path
from typing import Any

import pytest

from comet.runtimes.process import memory_limits
from comet.runtimes.process.memory_limits import FOLDER, Hierarchy, MemoryGroups


def test_a_group_is_made_while_another_cluster_removes_its(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups, other = MemoryGroups("ours", tmp_path), MemoryGroups("theirs", tmp_path)
    for each in (groups, other):
        each._places = [Hierarchy(tmp_path, 1)]
    monkeypatch.setattr(memory_limits, "_set", lambda *_, **__: None)
    mkdir, swept = Path.mkdir, list[Path]()

    def mkdir_late(path: Path, *arguments: Any, **options: Any) -> None:
        if path.name == "ours" and not swept:
            swept.append(path)
            (tmp_path / FOLDER / "theirs").mkdir()
            other.sweep()
        mkdir(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", mkdir_late)
    made = groups.make("worker-0", 1 << 20)
    assert made is not None
    assert made.is_dir()
    assert made.parent == swept[0] == tmp_path / FOLDER / "ours"
