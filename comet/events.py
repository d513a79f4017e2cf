"""What has happened, as data: past tense, one name per kind of happening, as the contract's list of events fixes them.

An event knows no clock: the journal stamps it with the wall time when it writes it down.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Event:
    """`name` is the contract's event name; `replica` is None for what concerns the cluster as a whole."""

    name: str
    replica: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


def line(record: Mapping[str, Any]) -> str:
    """One human line of a journal record (a JSON object of events.jsonl), without its time."""
    name = str(record.get("event", "?"))
    subject = f"{record['replica']} " if record.get("replica") else ""
    told = _SENTENCES.get(name)
    if told is not None:
        return f"{subject}{told(record)}"
    rest = " ".join(f"{key}={value}" for key, value in record.items() if key not in ("at", "event", "number", "replica", "kind", "id"))
    return f"{subject}{name.replace('_', ' ')} {rest}".rstrip()


def exit_text(code: int | None, signal: str | None, oom: bool = False) -> str:
    """`exit 1`, `SIGKILL`, `SIGKILL (out of memory)`; 'unknown' where the status could not be read."""
    told = signal if signal else "unknown" if code is None else f"exit {code}"
    return f"{told} (out of memory)" if oom else told


def _exited(record: Mapping[str, Any]) -> str:
    noticed = record.get("detect_ms")
    tail = "" if noticed is None else f", noticed after {round(noticed, 1):g} ms"
    return f"exited: {exit_text(record.get('code'), record.get('signal'), bool(record.get('oom')))}{tail}"


def _timeline(record: Mapping[str, Any]) -> str:
    steps = record.get("timeline_ms")
    if not steps:
        return ""
    _, *rest = steps.items()
    return f" ({', '.join(f'{name} {at:g}' for name, at in rest)} {_since(steps)})"


def _answered(record: Mapping[str, Any]) -> str:
    """The steps before it were told when it was ready."""
    steps = record.get("timeline_ms")
    return f"answers again, {list(steps.values())[-1]:g} {_since(steps)}" if steps else "answers again"


def _since(steps: Mapping[str, float]) -> str:
    return f"ms after it {'died' if next(iter(steps)) == 'died' else 'was found dead'}"


def _faults(record: Mapping[str, Any]) -> str:
    """Of all workers unless the record is about one."""
    told = ["cleared"] if record.get("clear") else []
    told += [f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in record.get("settings", {}).items()]
    told += [f"for {record['for_s']:g} s"] if "for_s" in record else []
    told += [f"for the next {record['count']} requests"] if "count" in record else []
    told += [f"({record['scenario']})"] if "scenario" in record else []
    return f"faults{'' if record.get('replica') else ' of all workers'}: {' '.join(told)}"


def _first_line(text: Any) -> str:
    """What goes on says so: a config has a line per problem, a failed start the log's last lines."""
    first, *more = str(text).splitlines() or [""]
    return f"{first} …" if more else first


_SENTENCES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "replica_starting": lambda _: "starting",
    "replica_ready": lambda record: f"ready after {record.get('start_ms', 0):g} ms{_timeline(record)}",
    "first_answer": _answered,
    "replica_unhealthy": lambda record: f"unhealthy: {record.get('reason', '')}",
    "replica_healthy": lambda record: "healthy again",
    "replica_exited": _exited,
    "replica_start_failed": lambda record: f"could not start: {record.get('reason', '')}",
    "replica_restarting": lambda record: f"restarting (attempt {record.get('attempt')})",
    "backoff_entered": lambda record: f"waits {record.get('delay_ms', 0) / 1000:.1f} s before attempt {record.get('attempt')}",
    "replica_stopped": lambda record: "stopped",
    "adopted": lambda record: f"adopted as it runs ({record.get('kind')} {record.get('id')})",
    "faults_changed": _faults,
    "admin_ready": lambda record: f"admin server ready at {record.get('url')} (PID {record.get('pid')})",
    "admin_exited": lambda record: f"admin server exited: {exit_text(record.get('code'), record.get('signal'))}; it is started again",
    "reloaded": lambda record: f"config reloaded: changed {', '.join(record.get('changed', ())) or 'nothing'}",
    "reload_refused": lambda record: f"reload refused: {_first_line(record.get('reason', ''))}",
    "engine_error": lambda record: f"Docker engine: {_first_line(record.get('reason', ''))}",
    "engine_lost": lambda record: f"Docker engine lost: {record.get('reason', '')}",
    "replica_moved": lambda record: f"is {record.get('id')} on {record.get('node')} from now on",
    "node_down": lambda record: f"node {record.get('node')} is down" + (f": {record['reason']}" if record.get("reason") else ""),
    "node_ready": lambda record: f"node {record.get('node')} is back",
    "engine_back": lambda record: "Docker engine back",
    "clock_moved": lambda record: f"the wall clock moved by {record.get('by_s', 0):+g} s: times of events before and after do not compare",
    "pid_reused": lambda record: f"is gone, and its PID {record.get('pid')} is another program's: left alone",
    "stale_lock": lambda record: (
        f"the supervisor before (PID {record.get('pid')}) died without a farewell: its lock and sockets are replaced"
    ),
    "state_unreadable": lambda record: (
        f".comet/{record.get('file', 'state.json')} cannot be read ({record.get('reason')}): "
        "what it says is known from its spare copy or other marks, or started anew"
    ),
    "state_unwritable": lambda record: (
        f".comet/state.json cannot be written ({record.get('reason')}): the next supervisor may not adopt what runs; free some space"
    ),
    "relay_restarted": lambda _: "the relay to the database was gone; it runs again",
    "supervisor_started": lambda record: f"supervisor started (PID {record.get('pid')})",
    "supervisor_stopped": lambda record: "supervisor stopped",
}
