"""The counts of deaths and returns outlive the supervisor that counted them, whatever became of its files."""

import json
from pathlib import Path
from typing import Any

import pytest

from comet.events import checkpoint, journal
from comet.events.checkpoint import RECORDS_PER_CHECKPOINT, Checkpoint
from comet.events.event import Event
from comet.events.journal import Journal
from tests.support.admin_samples import recovery_events


class Life:
    """What one supervisor does with the counts; it ends without a farewell."""

    def __init__(self, folder: Path) -> None:
        self.journal = Journal(folder / "events.jsonl")
        self.kept = Checkpoint(folder)
        self.kept.restore(self.journal.recent)
        self.told = self.kept.damage
        self.kept.write()
        self.journal.listeners.append(self._happened)

    def die(self, name: str = "lb-0", times: int = 1) -> None:
        for _ in range(times):
            for record in recovery_events(name):
                fields = {
                    key: value for key, value in record.items() if key not in ("at", "event", "number", "replica")
                }
                self.journal.write(Event(record["event"], name, fields))

    @property
    def restarts(self) -> Any:
        return self.kept.recoveries.as_dict()["restarts"]

    def _happened(self, record: dict[str, Any]) -> None:
        self.kept.add(record)
        if self.kept.due:
            self.kept.write()


def test_the_next_one_goes_on_with_every_count(tmp_path: Path) -> None:
    first = Life(tmp_path)
    first.die(times=3)
    first.die("worker-0")
    second = Life(tmp_path)
    assert second.kept.recoveries.as_dict() == first.kept.recoveries.as_dict()
    assert second.restarts == {"lb-0": {"killed": 3}, "worker-0": {"killed": 1}}
    second.die(times=RECORDS_PER_CHECKPOINT)
    assert Life(tmp_path).restarts == {"lb-0": {"killed": 3 + RECORDS_PER_CHECKPOINT}, "worker-0": {"killed": 1}}


def test_a_death_costs_no_write_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    life = Life(tmp_path)
    writes: list[Path] = []
    monkeypatch.setattr(checkpoint.files, "write", lambda path, content: writes.append(path))
    life.die(times=RECORDS_PER_CHECKPOINT)
    assert len(writes) == 3  # Three records a death.


def test_a_journal_put_aside_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "KEEP_BYTES", 1500)
    life = Life(tmp_path)
    for count in range(1, 12):
        life.die()
        assert Life(tmp_path).restarts == {"lb-0": {"killed": count}}


def test_events_lost_to_a_full_disk_are_in_the_next_checkpoint(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.kept.add(recovery_events()[0] | {"number": 1})
    life.kept.add(recovery_events()[1] | {"number": 2})
    assert Life(tmp_path).restarts == {}
    life._happened({"event": "scaled", "number": 3, "lost_events": 2})
    assert Life(tmp_path).restarts == {"lb-0": {"killed": 1}}


def test_an_exit_is_known_after_the_supervisor_died_first(tmp_path: Path) -> None:
    life = Life(tmp_path)
    died, restarting, _ = recovery_events()
    life.journal.write(Event(died["event"], "lb-0", {"code": -9, "signal": "SIGKILL"}))
    life.kept.write()
    second = Life(tmp_path)
    second.journal.write(Event(restarting["event"], "lb-0"))
    assert Life(tmp_path).restarts == {"lb-0": {"killed": 1}}


def test_a_cluster_begun_anew_begins_at_nought(tmp_path: Path) -> None:
    Life(tmp_path).die()
    (tmp_path / "recoveries.json").unlink()
    assert Life(tmp_path).restarts == {}


def broken() -> list[str]:
    good = {"version": 1, "number": 7, **checkpoint.RestartHistory().kept()}
    counts = {"process": {"counts": [1], "sum_s": 1.0}}
    wrong: list[dict[str, Any]] = [
        {"version": 99}, {"number": "x"}, {"restarts": []}, {"restarts": {"lb-0": {"killed": -1}}},
        {"restarts": {"lb-0": {"killed": "2"}}},
        {"bounds_s": [1]}, {"times": counts}, {"times": None}, {"recent": [1]}, {"reasons": 3}, {"exits": {"lb-0": 1}},
    ]  # fmt: skip
    return ["", "{", "[]", "null", *(json.dumps(good | each) for each in wrong)]


@pytest.mark.parametrize("content", broken())
def test_after_a_broken_checkpoint_counts_begin_at_0_with_notice(tmp_path: Path, content: str) -> None:
    Life(tmp_path).die()
    (tmp_path / "recoveries.json").write_text(content)
    life = Life(tmp_path)
    assert (life.restarts, life.told) == ({}, "not understood")
    life.die()
    assert (Life(tmp_path).restarts, Life(tmp_path).told) == ({"lb-0": {"killed": 1}}, None)


def test_an_unhealthy_end_is_known_to_the_next_supervisor(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.journal.write(Event("replica_unhealthy", "lb-0", {}))
    life.kept.write()
    life.die()
    assert life.restarts == Life(tmp_path).restarts == {"lb-0": {"unhealthy": 1}}


@pytest.mark.slow
def test_a_journal_that_was_lost_costs_no_count_but_its_own(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.die(times=2 * RECORDS_PER_CHECKPOINT)
    (tmp_path / "events.jsonl").unlink()
    second = Life(tmp_path)
    before = second.restarts["lb-0"]["killed"]
    second.die(times=3)
    assert Life(tmp_path).restarts == {"lb-0": {"killed": before + 3}}


@pytest.mark.parametrize("content", ['{"version": 1, "number": Infinity}', "[" * 100_000])
def test_no_content_of_the_file_ends_a_start(tmp_path: Path, content: str) -> None:
    (tmp_path / checkpoint.NAME).write_text(content)
    life = Life(tmp_path)
    assert (life.restarts, life.told) == ({}, "not understood")
