"""The faults file: what is accepted, what is refused as a whole, and when a change is in force."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fault_rules import Override
from worker_app.common.errors import FaultError
from worker_app.faults.file_watch import FaultFile
from worker_app.faults.plan import FaultPlan, FaultSettings, parse


def test_a_faults_file_of_the_supervisor_is_parsed() -> None:
    plan = parse('{"avg-delay":500,"failure":12,"delay-distribution":"uniform"}')
    assert plan == FaultPlan(FaultSettings(avg_delay=500.0, delay_distribution="uniform", failure=12.0))


def test_all_fault_keys_are_parsed() -> None:
    text = json.dumps(
        {
            "avg-delay": 1.5,
            "delay-distribution": "lognormal",
            "failure": 0.5,
            "status": 503,
            "hang": 1,
            "reset": 2,
            "truncate": 3,
            "slow-body": 10,
            "cpu": 20,
            "memory": 30,
            "overrides": [{"id": "f1", "until": 12.5, "since": 1, "count": 2, "boot-id": "b", "hang": 100}],
        }
    )
    assert parse(text) == FaultPlan(
        FaultSettings(
            avg_delay=1.5,
            delay_distribution="lognormal",
            failure=0.5,
            status=503,
            hang=1,
            reset=2,
            truncate=3,
            slow_body=10,
            cpu=20,
            memory=30,
        ),
        (Override("f1", {"hang": 100.0}, 12.5, 1.0, 2, "b"),),
    )


def test_defaults_are_config_yamls() -> None:
    assert parse("{}").base == FaultSettings(avg_delay=500.0, failure=12.0)


def test_settings_are_logged_in_the_words_of_the_config() -> None:
    assert str(FaultSettings(hang=2.5)) == "avg-delay 500, delay-distribution uniform, failure 12, status 500, hang 2.5"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", "not JSON"),
        ("[1]", "not a JSON object"),
        ('{"failure":101}', "failure"),
        ('{"avg-delay":-1}', "avg-delay"),
        ('{"avg-delay":600001}', "avg-delay"),
        ('{"failure":"12"}', "failure"),
        ('{"failure":true}', "failure"),
        ('{"failure":NaN}', "failure"),
        ('{"status":404}', "status"),
        ('{"status":500.5}', "status"),
        ('{"delay-distribution":"flat"}', "delay-distribution"),
        ('{"overrides":{}}', "overrides"),
        ('{"overrides":[1]}', r"overrides\[0\]"),
        ('{"overrides":[{"hang":-1}]}', "hang"),
        ('{"overrides":[{"until":"soon"}]}', "until"),
        ('{"overrides":[{"count":-1}]}', "count"),
        ('{"overrides":[{"since":"x"}]}', "since"),
    ],
)
def test_a_bad_value_is_named(text: str, names: str) -> None:
    with pytest.raises(FaultError, match=names):
        parse(text)


def test_every_problem_at_once() -> None:
    with pytest.raises(FaultError, match=r"failure.*status"):
        parse('{"failure":-1,"status":1}')


def test_unknown_keys_are_kept_apart() -> None:
    assert parse('{"failure":1,"colour":"red"}').unknown == ("colour",)


def replace_file(path: Path, text: str) -> None:
    draft = path.with_suffix(".new")
    draft.write_text(text)
    os.replace(draft, path)


def test_a_replaced_file_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "worker-0.json"
    replace_file(path, '{"failure":1}')
    file = FaultFile(path)
    first = file.poll()
    assert first is not None
    assert first.base.failure == 1.0
    assert file.poll() is None
    replace_file(path, '{"failure":2}')
    second = file.poll()
    assert second is not None
    assert second.base.failure == 2.0


@pytest.mark.parametrize("other", [False, True])
def test_a_file_is_followed_where_its_folder_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: bool
) -> None:
    """Also where another cluster's folder takes its place."""
    folder, renamed = tmp_path / "cluster", tmp_path / "renamed"
    folder.mkdir()
    monkeypatch.setenv("COMET_FOLDER", f"{folder.stat().st_ino}:{folder}")
    replace_file(folder / "worker-0.json", '{"failure":1}')
    file = FaultFile(folder / "worker-0.json")
    assert file.poll() is not None
    folder.rename(renamed)
    if other:
        folder.mkdir()
        replace_file(folder / "worker-0.json", '{"failure":100}')
    assert file.poll() is None
    replace_file(renamed / "worker-0.json", '{"failure":2}')
    plan = file.poll()
    assert plan is not None
    assert plan.base.failure == 2.0


@pytest.mark.parametrize("text", [None, "{", '{"failure":101}', "\x00"])
def test_a_missing_or_broken_faults_file_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    path = tmp_path / "worker-0.json"
    if text is not None:
        path.write_text(text)
    file = FaultFile(path)
    records: list[logging.LogRecord] = []
    monkeypatch.setattr(logging.getLogger("worker_app"), "handle", records.append)
    assert [file.poll(), file.poll(), file.poll()] == [None, None, None]
    assert [record.levelno for record in records] == [logging.WARNING]
    replace_file(path, "{}")
    assert file.poll() is not None


def test_a_faults_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "worker-0.json"
    path.write_bytes(b"\xff\xfe{}")
    assert FaultFile(path).poll() is None


@pytest.mark.parametrize(
    "plant", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)], ids=["fifo", "directory", "device"]
)
def test_a_faults_file_that_is_not_regular_is_refused(tmp_path: Path, plant: Callable[[Path], None]) -> None:
    path = tmp_path / "faults.json"
    plant(path)
    file = FaultFile(path)
    assert file.poll() is None
    replace_file(path.with_name("other.json"), "{}")
    if path.is_dir():
        path.rmdir()
    os.replace(path.with_name("other.json"), path)
    assert file.poll() is not None
