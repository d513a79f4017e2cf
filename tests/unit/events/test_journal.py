import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from comet.events import journal
from comet.events.event import Event, line
from comet.events.journal import Journal, Tail


def test_an_event_is_one_json_line_stamped_and_flushed(tmp_path: Path) -> None:
    kept = Journal(tmp_path / "events.jsonl", clock=lambda: 1795687200.1234)
    kept.write(Event("replica_exited", "lb-0", {"kind": "process", "id": "7", "code": -9, "signal": "SIGKILL"}))
    assert json.loads((tmp_path / "events.jsonl").read_text()) == {
        "at": "2026-11-26T10:00:00.123Z", "event": "replica_exited", "number": 1, "replica": "lb-0", "kind": "process",
        "id": "7",
        "code": -9, "signal": "SIGKILL",
    }  # fmt: skip


def test_a_full_disk_costs_events_and_says_how_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Journal(tmp_path / "events.jsonl")
    heard: list[str] = []
    kept.listeners.append(lambda record: heard.append(record["event"]))
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: 3)  # A part of the line only, as on a disk that is nearly full.
        kept.write(Event("scaled"))
        kept.write(Event("reloaded"))
    kept.write(Event("adopted"))
    (record,) = journal.read(tmp_path / "events.jsonl")
    assert (record["event"], record["lost_events"]) == ("adopted", 2)
    assert heard == ["scaled", "reloaded", "adopted"]


def test_the_journal_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "KEEP_BYTES", 1000)
    kept = Journal(tmp_path / "events.jsonl")
    for number in range(100):
        kept.write(Event("scaled", None, {"number": number}))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 2500
    assert [record["number"] for record in journal.read(tmp_path / "events.jsonl")][-1] == 99


def test_a_torn_line_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"event":"scaled"}\n{"event":"relo')
    assert [record["event"] for record in journal.read(path)] == ["scaled"]
    kept = journal.Journal(path)
    kept.write(Event("reloaded"))
    kept.close()
    assert [record["event"] for record in journal.read(path)] == ["scaled", "reloaded"]
    journal.Journal(path).close()
    assert path.read_text().count("\n") == 3


def test_events_read_as_sentences() -> None:
    assert line(
        {"event": "replica_exited", "number": 1, "replica": "lb-0", "signal": "SIGKILL", "code": -9, "detect_ms": 0.4}
    ) == ("lb-0 crashed: SIGKILL, noticed after 0.400 ms")
    assert line({"event": "replica_exited", "replica": "worker-0", "code": 137, "signal": "SIGKILL", "oom": True}) == (
        "worker-0 crashed: SIGKILL (out of memory)"
    )
    assert (
        line({"event": "replica_exited", "replica": "lb-0", "code": 1, "detect_ms": 11.723})
        == "lb-0 crashed: exit 1, noticed after 11.7 ms"
    )
    assert line({"event": "scaled", "worker": 4}) == "scaled worker=4"
    assert line({"event": "reloaded", "changed": ["failure", "pool"]}) == "config reloaded: changed failure, pool"
    assert (
        line({"event": "reload_refused", "reason": "config.yaml:2: one\nconfig.yaml:3: two"})
        == "reload refused: config.yaml:2: one …"
    )


def test_a_tail_gives_each_record_once_across_a_rotation(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    kept = Journal(path)
    kept.write(Event("adopted"))
    tail = Tail(path)
    assert tail.fresh() == []
    kept.write(Event("scaled"))
    assert [record["event"] for record in tail.fresh()] == ["scaled"]
    with path.open("ab") as torn:
        torn.write(b'{"event": "relo')
        torn.flush()
        assert tail.fresh() == []
        torn.write(b'aded"}\n')
    assert [record["event"] for record in tail.fresh()] == ["reloaded"]
    os.replace(path, tmp_path / "events.jsonl.1")
    path.write_text('{"event": "supervisor_stopped"}\n')
    assert [record["event"] for record in tail.fresh()] == ["supervisor_stopped"]
    assert tail.fresh() == []


def names(records: Iterable[journal.Record]) -> list[str]:
    return [record["event"] for record in records]


def removed(path: Path) -> None:
    path.unlink()


def replaced(path: Path) -> None:
    """A copy is put in its place, as an editor or `sed -i` does it."""
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    copy.replace(path)


@pytest.mark.parametrize("harm", [removed, replaced])
def test_a_journal_that_is_removed_or_replaced_loses_no_event(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    path = tmp_path / "events.jsonl"
    kept = Journal(path)
    kept.write(Event("adopted"))
    tail, from_the_start = Tail(path), Tail.after(path, None)
    assert names(from_the_start.fresh()) == ["adopted"]
    harm(path)
    kept.write(Event("scaled"))  # It goes to the file that is no longer there.
    assert kept.repair()
    kept.write(Event("reloaded"))
    assert names(journal.read(path)) == ["adopted", "scaled", "reloaded"]
    assert names(tail.fresh()) == names(from_the_start.fresh()) == ["scaled", "reloaded"]


def test_a_tail_goes_on_in_a_truncated_journal(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    kept = Journal(path)
    for _ in range(3):
        kept.write(Event("adopted"))
    followed = journal.follow(path, list(journal.read(path))[-1])
    kept.write(Event("scaled"))
    assert next(followed)["event"] == "scaled"
    os.truncate(path, 0)
    kept.write(Event("reloaded"))
    assert next(followed)["event"] == "reloaded"


def test_a_tail_reads_what_was_written_just_before_a_rotation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "events.jsonl"
    kept = Journal(path)
    kept.write(Event("adopted"))
    tail = Tail(path)
    kept.write(Event("scaled"))
    monkeypatch.setattr(journal, "KEEP_BYTES", path.stat().st_size - 1)
    kept.write(Event("reloaded"))
    assert names(tail.fresh()) == ["scaled", "reloaded"]
