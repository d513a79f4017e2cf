"""The counts of deaths and returns outlive the supervisor that counted them, whatever became of its files."""

import json
from pathlib import Path
from typing import Any

import pytest

from comet import checkpoint, journal
from comet.checkpoint import EVERY, Checkpoint
from comet.events import Event
from comet.journal import Journal
from tests.admin.samples import death_and_return


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
            for record in death_and_return(name):
                fields = {key: value for key, value in record.items() if key not in ("at", "event", "number", "replica")}
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
    second.die(times=EVERY)
    assert Life(tmp_path).restarts == {"lb-0": {"killed": 3 + EVERY}, "worker-0": {"killed": 1}}


def test_a_death_costs_no_write_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    life = Life(tmp_path)
    writes: list[Path] = []
    monkeypatch.setattr(checkpoint, "write_atomically", lambda path, content: writes.append(path))
    life.die(times=EVERY)
    assert len(writes) == 2 * 3  # Three records a death; each checkpoint has its spare copy.


def test_a_journal_put_aside_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "KEEP_BYTES", 1500)
    life = Life(tmp_path)
    for count in range(1, 12):
        life.die()
        assert Life(tmp_path).restarts == {"lb-0": {"killed": count}}


def test_what_a_full_disk_kept_out_of_the_journal_is_in_the_next_checkpoint(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.kept.add(death_and_return()[0] | {"number": 1})
    life.kept.add(death_and_return()[1] | {"number": 2})
    assert Life(tmp_path).restarts == {}
    life._happened({"event": "scaled", "number": 3, "lost_events": 2})
    assert Life(tmp_path).restarts == {"lb-0": {"killed": 1}}


def test_how_one_ended_is_known_though_the_supervisor_died_before_it_came_back(tmp_path: Path) -> None:
    life = Life(tmp_path)
    died, restarting, _ = death_and_return()
    life.journal.write(Event(died["event"], "lb-0", {"code": -9, "signal": "SIGKILL"}))
    life.kept.write()
    second = Life(tmp_path)
    second.journal.write(Event(restarting["event"], "lb-0"))
    assert Life(tmp_path).restarts == {"lb-0": {"killed": 1}}


def test_a_cluster_begun_anew_begins_at_nought(tmp_path: Path) -> None:
    Life(tmp_path).die()
    for path in tmp_path.glob("recoveries.json*"):
        path.unlink()
    assert Life(tmp_path).restarts == {}


def broken() -> list[str]:
    good = {"version": 1, "number": 7, **checkpoint.Recoveries().kept()}
    counts = {"process": {"counts": [1], "sum_s": 1.0}}
    wrong: list[dict[str, Any]] = [
        {"version": 99}, {"number": "x"}, {"restarts": []}, {"restarts": {"lb-0": {"killed": -1}}}, {"restarts": {"lb-0": {"killed": "2"}}},
        {"bounds_s": [1]}, {"times": counts}, {"times": None}, {"recent": [1]}, {"reasons": 3}, {"exits": {"lb-0": 1}},
    ]  # fmt: skip
    return ["", "{", "[]", "null", *(json.dumps(good | each) for each in wrong)]


@pytest.mark.parametrize("content", broken())
def test_a_broken_file_costs_nothing_while_its_spare_is_good_and_is_told(tmp_path: Path, content: str) -> None:
    Life(tmp_path).die()
    (tmp_path / "recoveries.json").write_text(content)
    life = Life(tmp_path)
    assert (life.restarts, life.told) == ({"lb-0": {"killed": 1}}, "not understood")
    (tmp_path / "recoveries.json").write_text(content)
    (tmp_path / "recoveries.json.spare").write_text(content)
    life = Life(tmp_path)
    assert (life.restarts, life.told) == ({}, "not understood")
    life.die()
    assert (Life(tmp_path).restarts, Life(tmp_path).told) == ({"lb-0": {"killed": 1}}, None)


def test_what_was_sick_when_it_ended_is_still_known_to_the_next_one(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.journal.write(Event("replica_unhealthy", "lb-0", {}))
    life.kept.write()
    life.die()
    assert life.restarts == Life(tmp_path).restarts == {"lb-0": {"unhealthy": 1}}


def test_a_journal_that_was_lost_costs_no_count_but_its_own(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.die(times=2 * EVERY)
    (tmp_path / "events.jsonl").unlink()
    second = Life(tmp_path)
    before = second.restarts["lb-0"]["killed"]
    second.die(times=3)
    assert Life(tmp_path).restarts == {"lb-0": {"killed": before + 3}}


@pytest.mark.parametrize("content", ['{"version": 1, "number": Infinity}', "[" * 100_000])
def test_no_content_of_the_file_ends_a_start(tmp_path: Path, content: str) -> None:
    for name in (checkpoint.NAME, f"{checkpoint.NAME}.spare"):
        (tmp_path / name).write_text(content)
    life = Life(tmp_path)
    assert (life.restarts, life.told) == ({}, "not understood")
