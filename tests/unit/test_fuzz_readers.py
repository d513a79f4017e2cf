"""Every reader of a file or a message gets what nobody would write: it understands it or refuses it, in the way it
promises, at once.

The long run, 10,000 inputs for each reader: COMET_TEST_FULL=1 .venv/bin/python -m pytest
tests/unit/test_fuzz_readers.py

A reader stands here together with what is done with the outcome (a sentence, a metric, a JSON text, a file's name):
what a check lets through must be good for that. Inputs are random bytes, random YAML and JSON, and what Comet writes
with something changed at random.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from comet.admin.view_model import ViewModel
from comet.commands.table import shapes
from comet.common.clock import parse as parse_time
from comet.common.errors import UserError
from comet.common.yaml_lines import ConfigError
from comet.config import scale_override
from comet.config.database_url import parse as parse_url
from comet.config.database_url import without_password
from comet.config.fault_settings import SETTINGS
from comet.config.schema import Config, parse
from comet.events import journal
from comet.events import text as told
from comet.events.checkpoint import NAME, Checkpoint
from comet.events.event import line
from comet.events.restart_history import RestartHistory
from comet.faults import orders as fault_orders
from comet.faults.orders import BootTime, Ordered, document
from comet.runtimes.replica_records import Record, parse_records
from comet.scenario import file as scenarios
from comet.state import control_server, control_socket
from comet.state.directory import Cluster
from comet.supervisor.operations import signal_number
from comet.supervisor.takeover import reused_pids
from lb.faults import rules as lb_faults
from lb.interface import messages
from lb.interface.settings import Settings, UpstreamSpec, changed
from tests.support.admin_samples import recovery_events
from tests.support.fuzz_inputs import FULL, INPUTS, inputs, text_of
from worker_app.common.errors import FaultError
from worker_app.faults import plan as worker_faults

pytestmark = pytest.mark.slow  # Random input, and much of it.

SLOWEST = 10.0
"""Seconds for one input on a loaded machine; a reader without a bound takes minutes."""


@dataclass(frozen=True)
class Reader:
    """`read` takes bytes and does with them what Comet does; `refuses` is how it says no. `good` is what Comet
    writes.
    """

    read: Callable[[bytes], object]
    refuses: tuple[type[Exception], ...]
    good: Any


CONFIG = b"""\
# two workers
worker: 2
pool: 1
runtime: process
avg-delay: 20.5
worker-command: python3 -m http.server {port}
fault-point: lb
worker-environment: &env {NAME: value, OTHER: 3}
faults:
  worker-0:
    failure: 5
"""
SCENARIO = b"""\
description: calm, then slow
clients: 5
pause: 50ms
steps:
  - for: 2s
  - name: slow
    for: 1s
    faults: {all: {avg-delay: 300}}
    kill: [worker-0]
"""
RECORD = asdict(
    Record(
        "lb-0", "lb", "process", "lb", 5050, "ready", 3, 2, os.getpid(), 12.5, "4711", "lb-0.3.sock", "lb-0.a.counters"
    )
)
EXIT = {"code": None, "signal": "SIGKILL", "oom": False, "at": "2026-11-23T10:00:00.123Z", "detect_ms": 3.1}
STATE = {"version": 1, "replicas": [RECORD, RECORD | {"name": "worker-0~next", "role": "worker", "last_exit": EXIT}]}
LEASE = {"id": "a1b2", "settings": {"hang": 5.0}, "since": 1.0, "until": 9.0, "count": 3, "boot_id": "b", "owner": None}
ORDERS = {"version": 1, "workers": {"worker-0": {"settings": {"failure": 3.0}, "leases": [LEASE]}}}
OVERRIDE = {"id": "a1", "since": 1.0, "until": 9.0, "count": 3, "boot-id": "b", "failure": 100}
FAULTS = {"avg-delay": 5, "delay-distribution": "uniform", "failure": 3, "status": 503, "overrides": [OVERRIDE]}
CHANGED = {
    "at": "2026-11-23T10:00:00Z",
    "event": "faults_changed",
    "number": 9,
    "settings": {"hang": 5.0},
    "for_s": 3.0,
    "count": 4,
}


def fold() -> RestartHistory:
    made = RestartHistory()
    for record in recovery_events("lb-0"):
        made.add(record)
    return made


def read_config(data: bytes) -> None:
    try:
        assert isinstance(parse(data, Path("/folder/config.yaml")), Config)
    except ConfigError as error:
        require_lines(error, "config.yaml")
        raise


def read_scenario(data: bytes) -> None:
    try:
        assert scenarios.parse(data, "s.yaml").steps
    except ConfigError as error:
        require_lines(error, "s.yaml")
        raise


def require_lines(error: ConfigError, name: str) -> None:
    assert error.exit_code == 2
    for problem in error.problems:
        file, number, what = problem.split(":", 2)
        assert file == name
        assert int(number) > 0
        assert what.strip()
        assert problem.isprintable(), ascii(problem)
        assert len(problem) < 2000


def read_state(data: bytes) -> None:
    for name, record in parse_records(data).items():
        assert "/" not in f"{name}{record.control}{record.counters}"
        reused_pids([record])
        json.dumps(asdict(record), allow_nan=False).encode()


def read_event(data: bytes) -> None:
    for each in data.split(b"\n"):
        record = journal.parse(each)
        if record is None:
            continue
        assert line(record).encode()
        assert not any(character < " " for text in told.columns(record) for character in text)
        counts = fold()
        counts.add(record)
        json.dumps(counts.as_dict(), allow_nan=False).encode()
        view_model = ViewModel(lambda pids: {})
        view_model.apply({"type": "past", "events": [record], "samples": []})
        json.dumps(view_model.events_after(0), allow_nan=False).encode()


def read_checkpoint(folder: Path) -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        (folder / NAME).write_bytes(data)
        kept = Checkpoint(folder)
        kept.restore([{"event": "replica_unhealthy", "number": 1, "replica": "lb-0"}])
        json.dumps(kept.recoveries.kept(), allow_nan=False).encode()
        if kept.damage is None:
            kept.write()

    return read


def read_scale(folder: Path) -> Callable[[bytes], None]:
    cluster = Cluster(folder)
    cluster.create()
    config = parse("worker: 2\npool: 1", folder / "config.yaml")

    def read(data: bytes) -> None:
        cluster.path("scale.json").write_bytes(data)
        applied = scale_override.apply(cluster, config)
        assert 0 <= applied.worker <= 200
        assert 1 <= applied.pool <= 64

    return read


def read_orders(data: bytes) -> None:
    for name, ordered in fault_orders.from_dict(control_server.decode(data)).items():
        base = {key: setting.check(setting.default) for key, setting in SETTINGS.items()}
        text = json.dumps(document(base, ordered, BootTime(5.0, "b")), allow_nan=False)
        worker_faults.parse(text)
        assert "/" not in name


def read_lb_faults(data: bytes) -> None:
    plan = lb_faults.Faults("worker-0", lambda: "/nonexistent", "b")
    plan.plan = lb_faults.parse(data.decode())
    assert all("/" not in override.id for override in plan.plan.overrides)
    drawn = plan.next(5.0)
    assert 0 <= drawn.delay < 1e9
    assert 500 <= drawn.settings.status <= 599


def read_worker_faults(data: bytes) -> None:
    str(worker_faults.parse(data.decode()).base)


def read_command(data: bytes) -> dict[str, Any]:
    return control_server.read(data, shapes())


def read_fault_request(data: bytes) -> None:
    request = read_command(b'{"command":"faults"}') | control_server.mapping(control_server.decode(data))
    made = fault_orders.change({key: value for key, value in request.items() if key not in ("command", "target")})
    fault_orders.apply(Ordered(), made, BootTime(5.0, "b"), "id")


def read_lb_message(data: bytes) -> None:
    """What a load balancer does with what it is sent, and the supervisor with what it hears."""
    for message in messages.Decoder().feed(data + b"\n"):
        messages.encode(messages.read(message))
        match message["type"]:
            case "upstreams":
                specs, _ = messages.read_upstreams(message)
                assert all(spec.name.isprintable() for spec in specs)
            case "settings":
                json.dumps(asdict(changed(Settings(), message.get("settings"))), allow_nan=False)
            case "doubt":
                messages.read_suspect(message)
            case "drain":
                assert messages.read_grace(message) >= 0
            case "reopen":
                run, control, counters = messages.read_reopen(message)
                assert run.startswith("/")
                assert not any("/" in name or "\0" in name for name in (control, counters) if name is not None)


def read_signal(data: bytes) -> None:
    number = signal_number(read_command(data)["signal"])
    assert 1 <= number <= 64


def read_url(data: bytes) -> None:
    text = data.decode()
    without_password(text)
    assert parse_url(text).addresses


def read_time(data: bytes) -> None:
    moment = parse_time(data.decode())
    assert moment is None or 0 < moment < 3e11


LB_MESSAGES = [
    messages.upstreams([UpstreamSpec("worker-0", "127.0.0.1", 6000)], 5),
    messages.settings({"retries": 2, "health_path": "/up", "balance": "round-robin"}),
    messages.suspect("worker-0", "reset"),
    messages.drain(5.0),
    messages.reopen("/folder/.comet/run", "lb-0.1.sock", "lb-0.a.counters"),
    messages.pong(3, {"worker-0": 2}, {"worker-0": 1.4}, {"worker-0": {"id-0": 3}}),
    messages.ready("lb-0", 4711, 5050, 12.5),
    messages.first_response("worker-0", 5.0),
    messages.health("worker-0", False, "refused"),
    messages.status_report(4711, Settings(), [(UpstreamSpec("worker-0", "127.0.0.1", 6000), True, "503")], 0, False),
]
VALUE_ERROR = (ValueError,)
READERS: dict[str, Reader] = {
    "config": Reader(read_config, (ConfigError,), CONFIG),
    "scenario": Reader(read_scenario, (ConfigError,), SCENARIO),
    "state": Reader(read_state, VALUE_ERROR, STATE),
    "events": Reader(read_event, (), CHANGED),
    "events of a recovery": Reader(read_event, (), recovery_events("lb-0")[-1]),
    "fault orders": Reader(read_orders, VALUE_ERROR, ORDERS),
    "fault file of a load balancer": Reader(read_lb_faults, VALUE_ERROR, FAULTS),
    "fault file of a worker": Reader(read_worker_faults, (FaultError, UnicodeDecodeError), FAULTS),
    "fault command": Reader(
        read_fault_request, (ValueError, UserError), {"target": "all", "hang": "5", "for": "30s", "count": 3}
    ),
    "command": Reader(read_command, VALUE_ERROR, {"command": "scale", "worker": 3, "pool": None}),
    "signal": Reader(
        read_signal, (ValueError, KeyError, UserError), {"command": "kill", "name": "lb-0", "signal": "TERM"}
    ),
    "answer": Reader(control_socket.read_answer, VALUE_ERROR, {"error": "no", "exit_code": 2, "kind": "Busy"}),
    **{f"load balancer's {each['type']}": Reader(read_lb_message, VALUE_ERROR, each) for each in LB_MESSAGES},
    "database URL": Reader(read_url, VALUE_ERROR, b"postgresql://user:secret@host:5432/name?sslmode=require"),
    "time": Reader(read_time, (UnicodeDecodeError,), b"2026-11-23T10:00:00.123456789Z"),
}


def fuzz(reader: Reader) -> int:
    """Let it read what it should understand, then random changes of it; return how many of those it read."""
    reader.read(reader.good if isinstance(reader.good, bytes) else text_of(reader.good))
    inputs_read = 0

    @settings(
        max_examples=INPUTS, deadline=None, derandomize=not FULL, suppress_health_check=list(HealthCheck), database=None
    )
    @given(inputs(reader.good))
    def run(data: bytes) -> None:
        nonlocal inputs_read
        inputs_read += 1
        began = time.process_time()
        with contextlib.suppress(*reader.refuses):
            reader.read(data)
        assert time.process_time() - began < SLOWEST

    run()
    return inputs_read


@pytest.mark.parametrize("name", READERS)
def test_a_reader_understands_or_refuses(name: str) -> None:
    assert fuzz(READERS[name]) > 0


def test_a_checkpoint_is_understood_or_counting_begins_again(tmp_path: Path) -> None:
    assert fuzz(Reader(read_checkpoint(tmp_path), (), {"version": 1, "number": 7, **fold().kept()})) > 0


def test_numbers_given_by_command_are_understood_or_forgotten(tmp_path: Path) -> None:
    assert fuzz(Reader(read_scale(tmp_path), (), {"config": [2, 1], "scale": [3, 2]})) > 0
