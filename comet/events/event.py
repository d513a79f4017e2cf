"""Events as data: one name per kind, in the past tense. docs/api.md lists the names; scripts depend on them.

An event has no time of its own: the journal adds the wall time when it writes the event.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from comet.common.figures import milliseconds
from comet.common.json_values import has_shape, is_whole
from comet.events.recovery_groups import group


@dataclass(frozen=True)
class Event:
    """`name` is one of those in docs/api.md; `replica` is None for events of the whole cluster."""

    name: str
    replica: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")

_TYPES: dict[type, tuple[str, ...]] = {
    str: (
        "at", "event", "replica", "kind", "id", "signal", "reason", "file", "url", "version", "node", "former",
        "died_at", "scenario", "lb", "cause",
    ),
    int: ("code", "attempt", "pid", "count", "worker", "pool", "lost_events"),
    float: ("detect_ms", "start_ms", "delay_ms", "for_s", "by_s"),
    bool: ("oom", "ordered", "clear"),
}  # fmt: skip
_SHAPES: dict[str, Any] = {
    **{name: kind | None for kind, names in _TYPES.items() for name in names},
    "timeline_ms": dict[str, float] | None,
    "changed": list[str],
    "workers": list[str],
    "settings": dict[str, Any],
}
"""The types of the fields that Comet itself reads; all others are only passed on."""


def known(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record without fields of unexpected types, so that no reader has to check them."""
    return {
        name: value
        for name, value in record.items()
        if (is_whole(value, 0, 2**53) if name == "number" else name not in _SHAPES or has_shape(value, _SHAPES[name]))
    }


def line(record: Mapping[str, Any]) -> str:
    """Return a record of events.jsonl as one line for people, without its time.

    Control characters are escaped: the output of a service may contain terminal commands.
    """
    return visible(_line(record))


def visible(text: str) -> str:
    """Return the text with its control characters escaped."""
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)


def _line(record: Mapping[str, Any]) -> str:
    name = str(record.get("event", "?"))
    subject = f"{record['replica']} " if record.get("replica") else ""
    sentence = _SENTENCES.get(name)
    try:
        if sentence is not None:
            return f"{subject}{sentence(record)}"
    except (TypeError, ValueError, ArithmeticError, LookupError):
        pass  # A field is null that always has a value in what Comet writes.
    rest = " ".join(
        f"{key}={value}"
        for key, value in record.items()
        if key not in ("at", "event", "number", "replica", "kind", "id")
    )
    return f"{subject}{name.replace('_', ' ')} {rest}".rstrip()


def exit_text(code: int | None, signal: str | None, oom: bool = False) -> str:
    """Return `exit 1`, `SIGKILL`, `SIGKILL (out of memory)`, or `unknown` where the status could not be read."""
    text = signal or ("unknown" if code is None else f"exit {code}")
    return f"{text} (out of memory)" if oom else text


def _exited(record: Mapping[str, Any]) -> str:
    noticed = record.get("detect_ms")
    tail = "" if noticed is None else f", noticed after {milliseconds(noticed)}"
    how = "ended" if record.get("ordered") else "crashed"
    if record.get("reason"):
        how = f"killed by the supervisor ({record['reason']})"
    return f"{how}: {exit_text(record.get('code'), record.get('signal'), bool(record.get('oom')))}{tail}"


def _ready(record: Mapping[str, Any]) -> str:
    """Return one time: since the death for a recovery, with its steps in brackets, else since the start."""
    steps = record.get("timeline_ms")
    if not steps:
        return f"ready after {milliseconds(record.get('start_ms', 0))}"
    _, *before, (_, total) = steps.items()
    parts = [", ".join(f"{name} {milliseconds(at)}" for name, at in before)] if before else []
    if record.get("kind") and record.get("replica"):
        parts.append(group(str(record["replica"]), record["kind"]))
    return f"ready {milliseconds(total)} {_since(steps)}" + (f" ({'; '.join(parts)})" if parts else "")


def _answered(record: Mapping[str, Any]) -> str:
    """Return the last step alone; `replica_ready` has the steps before it."""
    steps = record.get("timeline_ms")
    return f"first answer {milliseconds(list(steps.values())[-1])} {_since(steps)}" if steps else "first answer"


def _since(steps: Mapping[str, float]) -> str:
    return "after its death" if next(iter(steps)) == "died" else "after it was found dead"


def _faults(record: Mapping[str, Any]) -> str:
    """Return the changed settings; they are of all workers unless the record names one."""
    parts = ["cleared"] if record.get("clear") else []
    parts += _settings(record)
    parts += [f"for {_seconds(record['for_s'])}"] if "for_s" in record else []
    parts += [f"for the next {_requests(record['count'])}"] if "count" in record else []
    parts += [f"({record['scenario']})"] if "scenario" in record else []
    return f"faults{'' if record.get('replica') else ' of all workers'}: {' '.join(parts)}"


def _faults_ended(record: Mapping[str, Any]) -> str:
    parts = _settings(record) + ([f"({record['scenario']})"] if "scenario" in record else [])
    return f"faults{'' if record.get('replica') else ' of all workers'} ended: {' '.join(parts)}"


def _settings(record: Mapping[str, Any]) -> list[str]:
    return [f"{name}={_value(value)}" for name, value in record.get("settings", {}).items()]


def _value(value: Any) -> str:
    """Return a setting as it is written in config.yaml; those of several words in quotation marks."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value))
    if isinstance(value, str) and (" " in value or not value):
        return f"'{value}'"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _seconds(value: float) -> str:
    """Return 0.25 s, 1.97 s or 3600 s: a given time has no zeros at its end."""
    return f"{value:.3g} s" if value < 100 else f"{value:.0f} s"


def _requests(count: int) -> str:
    return "request" if count == 1 else f"{count} requests"


def _first_line(text: Any) -> str:
    """Return the first line, with an ellipsis where more follow (a problem per line, or the end of a log)."""
    first, *more = str(text).splitlines() or [""]
    return f"{first} …" if more else first


def _some(names: Any) -> str:
    """Return the first names of a long list, and how many more there are."""
    names = [str(name) for name in names] if isinstance(names, list | tuple) else []
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


_SENTENCES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "replica_starting": lambda _: "starting",
    "replica_ready": _ready,
    "surge_started": lambda _: "serves in addition while others are replaced",
    "first_answer": _answered,
    "replica_unhealthy": lambda record: f"unhealthy: {record.get('reason', '')}",
    "replica_healthy": lambda record: "healthy again",
    "worker_ejected": lambda record: (
        f"ejected by {record.get('lb')} for {record.get('for_s', 0):g} s: {record.get('reason', '')}"
    ),
    "worker_readmitted": lambda record: f"used again by {record.get('lb')}",
    "replica_exited": _exited,
    "replica_start_failed": lambda record: f"could not start: {record.get('reason', '')}",
    "replica_restarting": lambda record: f"restarting (attempt {record.get('attempt')})",
    "backoff_entered": lambda record: (
        f"backoff of {milliseconds(record.get('delay_ms', 0))} before attempt {record.get('attempt')}"
    ),
    "replica_stopped": lambda record: "stopped",
    "adopted": lambda record: f"adopted while running ({record.get('kind')} {record.get('id')})",
    "faults_changed": _faults,
    "faults_ended": _faults_ended,
    "drained": lambda _: "drained: it gets no new requests",
    "undrained": lambda _: "gets requests again",
    "paused": lambda record: (
        "paused: requests wait " + (f"for {_seconds(record['for_s'])}" if "for_s" in record else "until `resume`")
    ),
    "resumed": lambda record: f"resumed{', the time is over' if record.get('cause') == 'time' else ''}: requests go on",
    "admin_ready": lambda record: f"admin server ready at {record.get('url')} (PID {record.get('pid')})",
    "admin_exited": lambda record: (
        f"admin server exited: {exit_text(record.get('code'), record.get('signal'))}; it is started again"
    ),
    "span_exporter_exited": lambda record: (
        f"span exporter exited: {exit_text(record.get('code'), record.get('signal'))}; it is started again"
    ),
    "reloaded": lambda record: f"config reloaded: changed {', '.join(record.get('changed', ())) or 'nothing'}",
    "reload_refused": lambda record: f"reload refused: {_first_line(record.get('reason', ''))}",
    "engine_error": lambda record: f"Docker engine: {_first_line(record.get('reason', ''))}",
    "engine_lost": lambda record: f"Docker engine lost: {record.get('reason', '')}",
    "replica_moved": lambda record: f"is {record.get('id')} on {record.get('node')} from now on",
    "node_down": lambda record: (
        f"node {record.get('node')} is down" + (f": {record['reason']}" if record.get("reason") else "")
    ),
    "node_ready": lambda record: f"node {record.get('node')} is back",
    "port_taken": lambda record: f"is not what answers: {_first_line(record.get('reason', ''))}",
    "left_in_background": lambda record: f"left {record.get('reason')} in the background, ended now",
    "engine_back": lambda record: "Docker engine back",
    "clock_moved": lambda record: (
        f"the wall clock moved by {record.get('by_s', 0):+g} s: times of events before and after do not compare"
    ),
    "pid_reused": lambda record: f"is gone, and another program has its PID {record.get('pid')}: left alone",
    "stale_lock": lambda record: (
        f"an earlier supervisor (PID {record.get('pid')}) was killed: its lock and sockets are replaced"
    ),
    "state_unreadable": lambda record: (
        f".comet/{record.get('file', 'state.json')} cannot be read ({record.get('reason')}): "
        "its content comes from the spare copy or other marks, or begins again"
    ),
    "state_unwritable": lambda record: (
        f".comet/state.json cannot be written ({record.get('reason')}): the next supervisor may not adopt what runs"
    ),
    "folder_moved": lambda record: str(record.get("reason", "")),
    "image_deleted": lambda record: f"the image {record.get('image')} was deleted: it is built again",
    "files_hang": lambda record: (
        f"{record.get('path')} does not answer: the lock of the database is not watched meanwhile"
    ),
    "network_shared": lambda record: (
        f"the workers have no separate network ({record.get('reason')}): other containers of this machine can reach "
        "them"
    ),
    "files_restored": lambda record: f".comet: restored files that were removed: {_some(record.get('files', ()))}",
    "relay_restarted": lambda _: "the relay to the database had ended; it runs again",
    "supervisor_started": lambda record: f"supervisor started (PID {record.get('pid')})",
    "supervisor_stopped": lambda record: "supervisor stopped",
}

NAMES = frozenset({*_SENTENCES, "scaled"})
"""The names that events have."""
