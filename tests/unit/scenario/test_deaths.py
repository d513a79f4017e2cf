"""Which ends of replicas are deaths, and how long their recoveries take."""

import json
from pathlib import Path
from typing import Any

import pytest

from comet.common.errors import UserError
from comet.events.journal import Tail
from comet.scenario.deaths import Deaths

KILLED = {"event": "replica_exited", "signal": "SIGKILL", "ordered": False}
ENDED = {"event": "replica_exited", "code": 0, "ordered": True}
STOPPED, STARTED = {"event": "replica_stopped"}, {"event": "replica_ready", "start_ms": 9.0}
BACK = {"event": "replica_ready", "timeline_ms": {"died": 0, "ready": 30.5}}


def deaths(tmp_path: Path, *records: dict[str, Any] | str) -> Deaths:
    """What is known of lb-1 after these records, one a second; "kill" is a kill of it."""
    path = tmp_path / "events.jsonl"
    path.touch()
    known = Deaths(Tail(path))
    for number, record in enumerate(records):
        if isinstance(record, str):
            with known.killing("lb-1"):
                continue
        at = f"2026-01-01T00:00:{number:02}.000Z"
        with path.open("a") as journal:
            journal.write(json.dumps({"at": at, "replica": "lb-1", "number": number, **record}) + "\n")
    return known


@pytest.mark.parametrize(
    ("records", "recoveries", "stopped"),
    [
        (["kill", KILLED, BACK], [30.5], False),
        (["kill", KILLED], [None], False),
        (["kill"], [None], False),
        ([KILLED, BACK, "kill", KILLED], [None], False),
        (["kill", KILLED, BACK, ENDED, STOPPED, STARTED], [30.5], False),
        (["kill", KILLED, BACK, KILLED, BACK], [30.5], False),
        (["kill", KILLED, "kill", KILLED, BACK], [30.5, 1000.0], False),
        (["kill", "kill", KILLED, BACK], [30.5, 30.5], False),
        (["kill", KILLED, STOPPED], [], True),
        (["kill", KILLED, STOPPED, STARTED], [], True),
        (["kill", ENDED, STOPPED, STARTED], [], True),
        (["kill", KILLED, STARTED, STOPPED], [1000.0], False),
        (["kill", STOPPED, KILLED, BACK], [30.5], False),
        (["kill", KILLED, ENDED, STOPPED, BACK], [30.5], False),
        ([ENDED, STOPPED, STARTED], [], False),
    ],
)
def test_a_kill_has_one_recovery_and_a_stop_is_no_death(
    tmp_path: Path, records: list[dict[str, Any] | str], recoveries: list[float | None], stopped: bool
) -> None:
    known = deaths(tmp_path, *records)
    assert [ms for _, ms in known.recoveries()] == recoveries
    assert known.stopped() == (["lb-1"] if stopped else [])


def test_a_refused_kill_is_none(tmp_path: Path) -> None:
    known = deaths(tmp_path)
    with pytest.raises(UserError), known.killing("lb-1"):
        raise UserError("lb-1: does not run (backoff)")
    assert known.recoveries() == []


def test_another_step_begins_without_the_kills_before(tmp_path: Path) -> None:
    known = deaths(tmp_path, "kill", KILLED)
    known.forget()
    assert (known.recoveries(), known.stopped()) == ([], [])
