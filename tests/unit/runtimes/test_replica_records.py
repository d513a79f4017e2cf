from pathlib import Path

import pytest

from comet.runtimes.replica_records import Record, StateFile

RECORD = Record("lb-0", "lb", "process", "lb", 5050, "ready", 3, 2, 4711, 1795687200.12, "4711", "lb-0.3.sock")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    StateFile(tmp_path / "state.json").write({"lb-0": RECORD})
    assert StateFile(tmp_path / "state.json").read() == {"lb-0": RECORD}


def test_it_is_written_only_when_it_changes(tmp_path: Path) -> None:
    state = StateFile(tmp_path / "state.json")
    state.write({"lb-0": RECORD})
    (tmp_path / "state.json").unlink()
    state.write({"lb-0": RECORD})
    assert not (tmp_path / "state.json").exists()


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"version": 99, "replicas": []}', '{"version": 1, "replicas": [{"name": "x"}]}', "null"]
)
def test_a_broken_file_costs_the_adoption_and_nothing_else(tmp_path: Path, content: str) -> None:
    (tmp_path / "state.json").write_text(content)
    state = StateFile(tmp_path / "state.json")
    assert state.read() == {}
    assert state.damage in ("not understood", "another version's")


@pytest.mark.parametrize("content", [None, "{"])
def test_the_spare_file_stands_in_for_a_broken_or_lost_one(tmp_path: Path, content: str | None) -> None:
    state = StateFile(tmp_path / "state.json")
    state.write({"lb-0": RECORD})
    (tmp_path / "state.json").unlink() if content is None else (tmp_path / "state.json").write_text(content)
    assert state.read() == {"lb-0": RECORD}
    assert state.damage == (content and "not understood")
    state.remove()
    assert list(tmp_path.iterdir()) == []


def test_no_file_is_no_damage(tmp_path: Path) -> None:
    state = StateFile(tmp_path / "state.json")
    assert (state.read(), state.damage) == ({}, None)
