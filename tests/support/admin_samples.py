"""A picture as the supervisor would send it, for tests of the admin server without a cluster."""

import os
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from comet.admin import view_model as view_model_module
from comet.admin.access.write_access import new_keys
from comet.admin.app import Command, Services
from comet.admin.metrics import renderer
from comet.admin.view_model import ViewModel
from comet.common.errors import Unknown
from comet.config.schema import parse
from comet.events.restart_history import RestartHistory
from comet.reconcile.replica import Replica, ReplicaSpec, State
from comet.supervisor.admin_feed import public_config
from comet.telemetry.rates import Counted, Meter, bounds_s, make_reading
from comet.telemetry.snapshot import FleetSnapshot, SupervisorRow, Traffic, Usage, edges, rows, total
from tests.unit.config.test_schema import WHERE

TOKEN = "t" * 43

view_model_module.FIRST_USAGE_PERIOD = 0.0  # The usage of processes is made up here: nothing is to be measured.


def _nothing_runs(*asked: object) -> Any:
    raise Unknown("no such replica runs")


def services(seen: ViewModel, command: Command, **more: Any) -> Services:
    """What the application needs of its process, where there is no cluster and the caller is this process."""
    lacking = {"peer": os.getuid, "keys": new_keys(), "inspect": _nothing_runs, "logs": _nothing_runs}
    return Services(seen, TOKEN, command, renderer(seen.snapshot), **lacking | more)


def counted(requests: int, errors: int = 0, bucket: int = 48) -> Counted:
    """So many requests, all in one bucket of latency (48: 4.1 ms)."""
    latency = tuple(requests if index == bucket else 0 for index in range(104))
    return Counted(requests, (0, requests - errors, 0, 0, errors), errors, 0, latency, 4500 * requests, in_flight=1)


def message(requests: int = 100) -> dict[str, Any]:
    """A load balancer and a worker that answered so many requests, one of ten with 500."""
    meter = Meter()
    for at in (0.0, 1.0):
        now = counted(int(requests * at), int(requests * at / 10))
        meter.add(make_reading(at, {"lb-0": now}, {("lb-0", "worker-0"): now}), 1000.0 + at)
    fleet = [
        Replica(ReplicaSpec(name, role, kind, "fake", port, rank), state=State.READY, pid=pid, id=str(pid))
        for name, role, kind, port, rank, pid in (
            ("lb-0", "lb", "process", 5050, 1, 11),
            ("worker-0", "worker", "container", 6000, 0, 12),
        )
    ]
    carried = {
        "lb-0": Traffic(meter.readings[-1].replicas["lb-0"], meter.of("lb-0")),
        "worker-0": Traffic(
            meter.readings[-1].replicas["worker-0"],
            meter.of("worker-0"),
            {"lb-0": {"healthy": True, "reason": None}},
            {"failure": 10.0},
        ),
    }
    snapshot = FleetSnapshot(
        SupervisorRow(10, True, 5.0, "0.1.0", 0.5),
        rows(fleet, 2.0, {}, carried),
        edges(meter, ["lb-0"], {"worker-0": None}, {}, {}),
        total(meter),
    )
    recoveries = RestartHistory()
    for record in recovery_events():
        recoveries.add(record)
    return {
        "type": "cluster",
        "cluster": {
            **snapshot.as_dict(),
            "ready": True,
            "front": {"scheme": "http", "host": "127.0.0.1", "path": "/api/v1/hello"},
            "config": public_config(parse("worker: 1\npool: 1\n", WHERE)),
            "recoveries": recoveries.as_dict(),
            "latency_bounds_s": bounds_s(),
            "samples": [asdict(sample) for sample in meter.samples],
        },
    }


def recovery_events(name: str = "lb-0") -> list[dict[str, Any]]:
    """The records of one death by SIGKILL and its restart."""
    common = {"replica": name, "kind": "process", "id": "11"}
    return [
        {"at": "2026-11-24T10:00:00.000Z", "event": "replica_exited", "number": 1, "code": -9, "signal": "SIGKILL",
        "oom": False, **common},
        {"at": "2026-11-24T10:00:00.001Z", "event": "replica_restarting", "number": 2, "attempt": 1, "delay_ms": 0.1,
        **common},
        {
            "at": "2026-11-24T10:00:00.015Z", "event": "replica_ready", "number": 3, "start_ms": 14.0,
            "timeline_ms": {"died": 0.0, "noticed": 0.8, "decided": 1.0, "started": 12.0, "ready": 15.0}, **common,
        },
    ]  # fmt: skip


def view_model(clock: Callable[[], float] = lambda: 0.0) -> ViewModel:
    """A picture that was told all of the above."""
    made = ViewModel(lambda pids: {name: Usage(1.5, 2048) for name in pids}, clock=clock)
    told = message()
    made.apply({"type": "past", "events": recovery_events(), "samples": told["cluster"].pop("samples")})
    made.apply(told)
    return made
