"""The statistics of a worker's lives, added up."""

from typing import Any

from comet.statistics.lives import folded, lives

READY = {"event": "replica_ready", "kind": "process"}


def row(name: str, successful: int, mean_ms: float, bound: float | None) -> dict[str, Any]:
    counts = {"successful": successful, "failed": 1, "unplanned": 0, "disconnected": 0}
    times = {"mean_ms": mean_ms, "p50_ms": bound, "p99_ms": bound, "latency": [[bound, successful + 1]]}
    return {"name": name, **counts, **times, "injections": {"failure": 1}}


def test_lives_of_a_worker_are_one_row() -> None:
    known = lives(
        [
            {**READY, "replica": "worker-1", "id": "20"},
            {**READY, "replica": "worker-0", "id": "17"},
            {"event": "replica_exited", "replica": "worker-0", "id": "17", "kind": "process"},
            {**READY, "replica": "worker-0", "id": "18"},
            {**READY, "replica": "worker-1", "id": "17"},
        ]
    )
    rows = [row("17", 1, 10.0, 16.0), row("18", 3, 40.0, None), row("17.2", 5, 1.0, 2.0), row("old", 0, 1.0, 2.0)]
    found = folded({"total": {}, "workers": [*rows, row("20", 2, 1.0, 1.0)]}, known)["workers"]
    assert [(each["name"], each["lives"]) for each in found] == [("worker-0", 2), ("worker-1", 2), ("old", 1)]
    first = found[0]
    assert (first["successful"], first["failed"], first["mean_ms"]) == (4, 2, 30.0)
    assert (first["p50_ms"], first["injections"]) == (100 * 2 ** (94 / 4) / 1000, {"failure": 2})
    assert found[1]["p99_ms"] == 2.0


def test_a_container_that_is_started_again_is_the_same_life() -> None:
    again = [{"event": "replica_ready", "kind": "container", "replica": "worker-0", "id": "fdba"}] * 2
    assert lives(again) == {"fdba": ["worker-0"]}
