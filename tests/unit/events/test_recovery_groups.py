"""What is compared with what, and what no median counts."""

from typing import Any

from comet.events.event import line
from comet.events.recovery_groups import GROUPS, backoff_ms, group, medians, own_ms


def ready(replica: str, kind: str, **steps: float) -> dict[str, Any]:
    return {"event": "replica_ready", "replica": replica, "kind": kind, "timeline_ms": {"died": 0.0, **steps}}


def test_a_worker_is_compared_in_its_forms_an_lb_apart() -> None:
    groups = [group("worker-1", "process"), group("worker-0", "container"), group("worker-2", "task")]
    assert (*groups, group("lb-0", "process")) == GROUPS


def test_backoff_counts_in_no_median() -> None:
    waited = {"died": 0.0, "noticed": 2.0, "backoff": 902.0, "decided": 903.0, "ready": 1100.0}
    assert (backoff_ms(waited), own_ms(waited)) == (900.0, 200.0)
    records = [
        ready("lb-0", "process", noticed=1.0, ready=8.0),
        ready("worker-1", "process", noticed=2.0, backoff=902.0, ready=1100.0),
        ready("worker-1", "process", noticed=2.0, ready=190.0),
        ready("worker-0", "container", noticed=30.0, ready=600.0),
        {"event": "replica_ready", "replica": "worker-0", "kind": "container", "start_ms": 700.0},
    ]
    found = medians(records)
    assert list(found) == [GROUPS[0], GROUPS[1], GROUPS[3]]
    assert found[GROUPS[0]] == (195.0, 2)
    assert found[GROUPS[1]] == (600.0, 1)


def test_an_event_names_the_form() -> None:
    told = line(ready("worker-1", "process", noticed=2.0, ready=190.0) | {"start_ms": 188.0})
    assert told == "worker-1 ready 190 ms after its death (noticed 2.00 ms; Worker as process)"
