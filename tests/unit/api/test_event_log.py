"""Events of a cluster: read as they are written, and waited for since the last command."""

import threading
import time
from pathlib import Path

import pytest

from comet.api.event_log import EventLog, named
from comet.events.event import Event
from comet.events.journal import Journal
from comet.state.directory import Cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    made = Cluster(tmp_path)
    made.create()
    return made


def test_a_wait_begins_at_the_last_mark(cluster: Cluster) -> None:
    log, journal = EventLog(cluster), Journal(cluster.path("events.jsonl"))
    journal.write(Event("replica_ready", "worker-0", {"start_ms": 1.0}))
    log.mark()
    journal.write(Event("replica_ready", "worker-1", {"start_ms": 2.0}))
    journal.write(Event("replica_ready", "worker-0", {"start_ms": 3.0}))
    matches, what = named("replica_ready", {"replica": "worker-0"})
    assert log.wait(matches, what, 0, None)["start_ms"] == 3.0
    assert log.wait(matches, what, 0, 0)["start_ms"] == 1.0
    with pytest.raises(TimeoutError) as caught:
        log.wait(matches, what, 0, 3)
    assert "no event replica_ready replica=worker-0 within 0 s" in str(caught.value)
    assert "worker-1 ready after 2.00 ms" in str(caught.value)
    assert [record["number"] for record in log.read()] == [1, 2, 3]
    journal.close()


def test_a_wait_ends_when_the_event_comes(cluster: Cluster) -> None:
    log, journal = EventLog(cluster), Journal(cluster.path("events.jsonl"))
    writer = threading.Timer(0.1, journal.write, (Event("scaled", None, {"worker": 2, "pool": 1}),))
    writer.start()
    began = time.monotonic()
    assert log.wait(lambda record: record["event"] == "scaled", "scaled", 600, None)["worker"] == 2
    assert time.monotonic() - began < 300
    writer.join()
    journal.close()


def test_fields_that_are_not_given_do_not_matter() -> None:
    matches, what = named("replica_exited", {"replica": None, "signal": "SIGKILL"})
    assert what == "replica_exited signal=SIGKILL"
    assert matches({"event": "replica_exited", "replica": "lb-0", "signal": "SIGKILL"})
    assert not matches({"event": "replica_exited", "replica": "lb-0", "signal": None})
