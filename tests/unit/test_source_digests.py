"""What is kept for as long as the sources are the same: a change of any source is noticed, in folders within folders
too.
"""

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from comet.workloads import builtin
from lb.system import compiled


def changes_in(source: Path, digest: Callable[[], object]) -> list[bool]:
    """Whether `digest` notices that a source is edited, and that it is renamed."""
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text("one = 1\n")
    known = [digest()]
    source.write_text("one = 2\n")
    known.append(digest())
    source.rename(source.with_name("renamed.py"))
    known.append(digest())
    return [before != after for before, after in itertools.pairwise(known)]


ODD = os.fsdecode(b"bad\xffname.py")
"""A file's name that is no UTF-8."""


def test_a_process_that_is_made_of_other_sources_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtin, "SOURCES", tmp_path)
    assert changes_in(tmp_path / "lb/room/module.py", lambda: builtin.code_digest.__wrapped__("lb")) == [True, True]
    assert changes_in(tmp_path / "lb" / ODD, lambda: builtin.code_digest.__wrapped__("lb")) == [True, True]


def test_what_was_compiled_of_other_sources_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "SOURCES", tmp_path)
    assert changes_in(tmp_path / "room/module.py", compiled.folder_name) == [True, True]
    assert changes_in(tmp_path / ODD, compiled.folder_name) == [True, True]
