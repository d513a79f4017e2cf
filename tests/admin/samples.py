"""A picture as the supervisor would send it, for tests of the admin server without a cluster."""

from dataclasses import asdict
from typing import Any

from comet.admin.desk import shown
from comet.admin.picture import Picture
from comet.config import parse
from comet.rates import Counted, Meter, bounds_s, look
from comet.recoveries import Recoveries
from comet.replica import Replica, ReplicaSpec, State
from comet.snapshot import FleetSnapshot, SupervisorRow, Traffic, Usage, edges, rows, total
from tests.comet.test_config import WHERE

TOKEN = "t" * 43


def counted(requests: int, errors: int = 0, bucket: int = 48) -> Counted:
    """So many requests, all in one bucket of latency (48: 4.1 ms)."""
    latency = tuple(requests if index == bucket else 0 for index in range(104))
    return Counted(requests, (0, requests - errors, 0, 0, errors), errors, 0, latency, 4500 * requests, in_flight=1)


def message(requests: int = 100) -> dict[str, Any]:
    """A load balancer and a worker that answered so many requests, one of ten with 500."""
    meter = Meter()
    for at in (0.0, 1.0):
        now = counted(int(requests * at), int(requests * at / 10))
        meter.add(look(at, {"lb-0": now}, {("lb-0", "worker-0"): now}), 1000.0 + at)
    fleet = [
        Replica(ReplicaSpec(name, role, kind, "fake", port, rank), state=State.READY, pid=pid, id=str(pid))
        for name, role, kind, port, rank, pid in (("lb-0", "lb", "process", 5050, 1, 11), ("worker-0", "worker", "container", 6000, 0, 12))
    ]
    carried = {
        "lb-0": Traffic(meter.looks[-1].replicas["lb-0"], meter.of("lb-0")),
        "worker-0": Traffic(meter.looks[-1].replicas["worker-0"], meter.of("worker-0"), {"lb-0": None}, {"failure": 10.0}),
    }
    snapshot = FleetSnapshot(
        SupervisorRow(10, True, 5.0, "0.1.0", 0.5),
        rows(fleet, 2.0, {}, carried),
        edges(meter, ["lb-0"], {"worker-0": None}, {}),
        total(meter),
    )
    recoveries = Recoveries()
    for record in death_and_return():
        recoveries.add(record)
    return {
        "type": "cluster",
        "cluster": {
            **snapshot.as_dict(),
            "ready": True,
            "config": shown(parse("worker: 1\npool: 1\n", WHERE)),
            "recoveries": recoveries.as_dict(),
            "latency_bounds_s": bounds_s(),
            "samples": [asdict(sample) for sample in meter.samples],
        },
    }


def death_and_return(name: str = "lb-0") -> list[dict[str, Any]]:
    """The records of one death by SIGKILL and its restart."""
    common = {"replica": name, "kind": "process", "id": "11"}
    return [
        {"at": "2026-11-24T10:00:00.000Z", "event": "replica_exited", "number": 1, "code": -9, "signal": "SIGKILL", "oom": False, **common},
        {"at": "2026-11-24T10:00:00.001Z", "event": "replica_restarting", "number": 2, "attempt": 1, "delay_ms": 0.1, **common},
        {
            "at": "2026-11-24T10:00:00.015Z", "event": "replica_ready", "number": 3, "start_ms": 14.0,
            "timeline_ms": {"died": 0.0, "noticed": 0.8, "decided": 1.0, "started": 12.0, "ready": 15.0}, **common,
        },
    ]  # fmt: skip


def picture() -> Picture:
    """A picture that was told all of the above."""
    made = Picture(lambda pids: {name: Usage(1.5, 2048) for name in pids}, clock=lambda: 0.0)
    told = message()
    made.take({"type": "past", "events": death_and_return(), "samples": told["cluster"].pop("samples")})
    made.take(told)
    return made
