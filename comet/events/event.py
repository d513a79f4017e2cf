"""Events as data: one name per kind, in the past tense. docs/api.md lists the names; scripts depend on them.

An event has no time of its own: the journal adds the wall time when it writes the event.
"""

import re
from collections import defaultdict
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
            text = sentence.format_map(defaultdict(str, record)) if isinstance(sentence, str) else sentence(record)
            return f"{subject}{text}"
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


def _status(record: Mapping[str, Any]) -> str:
    return exit_text(record.get("code"), record.get("signal"), bool(record.get("oom")))


def _exited(record: Mapping[str, Any]) -> str:
    noticed = record.get("detect_ms")
    tail = "" if noticed is None else f", noticed after {milliseconds(noticed)}"
    how = "ended" if record.get("ordered") else "crashed"
    if record.get("reason"):
        how = f"killed by the supervisor ({record['reason']})"
    return f"{how}: {_status(record)}{tail}"


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


_SENTENCES: dict[str, str | Callable[[Mapping[str, Any]], str]] = {
    "replica_starting": "starting",
    "replica_ready": _ready,
    "surge_started": "serves in addition while others are replaced",
    "first_answer": _answered,
    "replica_unhealthy": "unhealthy: {reason}",
    "replica_healthy": "healthy again",
    "worker_ejected": "ejected by {lb} for {for_s:g} s: {reason}",
    "worker_readmitted": "used again by {lb}",
    "replica_exited": _exited,
    "replica_start_failed": "could not start: {reason}",
    "replica_restarting": "restarting (attempt {attempt})",
    "backoff_entered": lambda record: (
        f"backoff of {milliseconds(record.get('delay_ms', 0))} before attempt {record.get('attempt')}"
    ),
    "replica_stopped": "stopped",
    "adopted": "adopted while running ({kind} {id})",
    "faults_changed": _faults,
    "faults_ended": _faults_ended,
    "drained": "drained: it gets no new requests",
    "undrained": "gets requests again",
    "paused": lambda record: (
        "paused: requests wait " + (f"for {_seconds(record['for_s'])}" if "for_s" in record else "until `resume`")
    ),
    "resumed": lambda record: f"resumed{', the time is over' if record.get('cause') == 'time' else ''}: requests go on",
    "admin_ready": "admin server ready at {url} (PID {pid})",
    "admin_exited": lambda record: f"admin server exited: {_status(record)}; it is started again",
    "span_exporter_exited": lambda record: f"span exporter exited: {_status(record)}; it is started again",
    "reloaded": lambda record: f"config reloaded: changed {', '.join(record.get('changed', ())) or 'nothing'}",
    "reload_refused": lambda record: f"reload refused: {_first_line(record.get('reason', ''))}",
    "engine_error": lambda record: f"Docker engine: {_first_line(record.get('reason', ''))}",
    "engine_lost": "Docker engine lost: {reason}",
    "replica_moved": "is {id} on {node} from now on",
    "node_down": lambda record: (
        f"node {record.get('node')} is down" + (f": {record['reason']}" if record.get("reason") else "")
    ),
    "node_ready": "node {node} is back",
    "port_taken": lambda record: f"is not what answers: {_first_line(record.get('reason', ''))}",
    "left_in_background": "left {reason} in the background, ended now",
    "engine_back": "Docker engine back",
    "clock_moved": "the wall clock moved by {by_s:+g} s: times of events before and after do not compare",
    "pid_reused": "is gone, and another program has its PID {pid}: left alone",
    "stale_lock": "an earlier supervisor (PID {pid}) was killed: its lock and sockets are replaced",
    "state_unreadable": lambda record: (
        f".comet/{record.get('file', 'state.json')} cannot be read ({record.get('reason')}): "
        "its content comes from the spare copy or other marks, or begins again"
    ),
    "state_unwritable": ".comet/state.json cannot be written ({reason}): the next supervisor may not adopt what runs",
    "folder_moved": "{reason}",
    "image_deleted": "the image {image} was deleted: it is built again",
    "files_hang": "{path} does not answer: the lock of the database is not watched meanwhile",
    "network_shared": (
        "the workers have no separate network ({reason}): other containers of this machine can reach them"
    ),
    "files_restored": lambda record: f".comet: restored files that were removed: {_some(record.get('files', ()))}",
    "relay_restarted": "the relay to the database had ended; it runs again",
    "supervisor_started": "supervisor started (PID {pid})",
    "supervisor_stopped": "supervisor stopped",
}
"""What each event says: text with the names of its fields in braces, or a function of its record."""

NAMES = frozenset({*_SENTENCES, "scaled"})
"""The names that events have."""
