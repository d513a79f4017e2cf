"""Defines the messages between a load balancer and its supervisor.

Each message is one JSON object on one line, UTF-8, over an AF_UNIX stream. Either side ignores a message type that it
does not know, so that either may be newer than the other. A line that is not a JSON object means a broken peer
(ValueError).

To the load balancer: upstreams, pause, settings, doubt, front, drain, ping, listener, reopen, status. From the load
balancer without a request: ready, first, health, ejection, drained. As replies: pong, listener (the first byte of the
line carries the descriptor by SCM_RIGHTS), status.

Pure: bytes to dictionaries and back.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, Final, NoReturn

from lb.interface.settings import UP, UPSTREAM_STATES, Settings, UpstreamSpec, is_host, is_path

VERSION: Final = 2
"""Version of these messages; a supervisor replaces load balancers with another version."""

MAX_LINE: Final = 1 << 20
"""Bytes of a line: 200 upstreams need about 20 KiB, so a peer that sends more without a newline is broken."""

Message = dict[str, Any]


def encode(message: Message) -> bytes:
    """Return the line of `message`, including the newline."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


class Decoder:
    """Collects the bytes of a stream and returns complete messages."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Message]:
        """Return the messages that `data` completes; raise ValueError: not a JSON object, or a line above MAX_LINE."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE:
            raise ValueError("line too long")
        return [decode(line) for line in lines if line.strip()]


def decode(line: bytes) -> Message:
    """Return the message in one line; raise ValueError if it is not a JSON object with a `type`."""
    try:
        message = json.loads(line, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise ValueError("not a message")
    return message


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a number")


def _text(message: Message, field: str) -> str:
    value = message.get(field)
    if not isinstance(value, str):
        raise ValueError(f"{field}: not a text")
    return value


def _number(message: Message, field: str) -> float:
    value = message.get(field)
    if not isinstance(value, int | float) or isinstance(value, bool) or not -1e15 < value < 1e15:
        raise ValueError(f"{field}: not a number")
    return float(value)


def read(message: Message) -> Message:
    """Return a message from a load balancer with the fields of its kind, checked; raise ValueError if it is malformed.

    Every reader of such messages uses this function. A message of an unknown kind is returned as it is, to be ignored.
    """
    kind = message["type"]
    if kind == "ready":
        return {
            "type": kind,
            "at": None if message.get("at") is None else _number(message, "at"),
            "version": message.get("version"),
        }
    if kind == "pong":
        busy = message.get("busy", {})
        if not isinstance(busy, dict) or not all(isinstance(count, int) for count in busy.values()):
            raise ValueError("busy: not counts")
        checks = message.get("checks", {})
        if not isinstance(checks, dict):
            raise ValueError("checks: not durations")
        taken = {name: _number(checks, name) for name in checks}
        number, counts = int(_number(message, "id")), _counts(message.get("counts", {}))
        return {"type": kind, "id": number, "busy": busy, "checks": taken, "counts": counts}
    if kind == "first":
        return {
            "type": kind,
            "upstream": None if message.get("upstream") is None else _text(message, "upstream"),
            "at": _number(message, "at"),
        }
    if kind == "health":
        return {"type": kind, **_view(message), "reason": _text(message, "reason") if message.get("reason") else ""}
    if kind == "ejection":
        ejected = message.get("ejected")
        if not isinstance(ejected, bool):
            raise ValueError("ejected: neither true nor false")
        return {
            "type": kind,
            "upstream": _text(message, "upstream"),
            "ejected": ejected,
            "reason": _text(message, "reason"),
            "seconds": _number(message, "seconds"),
        }
    if kind == "status":
        views = message.get("upstreams")
        if not isinstance(views, list) or not all(isinstance(each, dict) for each in views):
            raise ValueError("upstreams: not a list of objects")
        return {
            "type": kind,
            "upstreams": [
                {
                    "name": _text(each, "name"),
                    **_view({**each, "upstream": each.get("name")}),
                    "ejected": None if each.get("ejected") is None else _text(each, "ejected"),
                }
                for each in views
            ],
        }
    return message


def _counts(given: Any) -> dict[str, dict[str, int]]:
    if not isinstance(given, dict) or not all(isinstance(each, dict) for each in given.values()):
        raise ValueError("counts: not numbers by lease")
    return {name: {lease: int(_number(each, lease)) for lease in each} for name, each in given.items()}


def _view(message: Message) -> Message:
    healthy = message.get("healthy")
    if not isinstance(healthy, bool):
        raise ValueError("healthy: neither true nor false")
    return {"upstream": _text(message, "upstream"), "healthy": healthy}


# To the load balancer.


def reopen(run: str, control: str | None, counters: str) -> Message:
    """Return the order to recreate missing files: control socket and counters in the folder `run`, and the log."""
    return {"type": "reopen", "run": run, "control": control, "counters": counters}


def read_reopen(message: Message) -> tuple[str, str | None, str]:
    """Return what `reopen` was made of. ValueError: malformed, or names of files that are none."""
    run, counters = _text(message, "run"), _text(message, "counters")
    control = None if message.get("control") is None else _text(message, "control")
    if any(name in ("", ".", "..") or "/" in name for name in (counters, control) if name is not None):
        raise ValueError("not the name of a file")
    if not run.startswith("/") or any("\0" in text for text in (run, counters, control or "")):
        raise ValueError("not a path")
    return run, control, counters


def upstreams(specs: Iterable[UpstreamSpec], max_in_flight: int | None = None) -> Message:
    """Return the complete list of upstreams in rotation order, with the limit of requests in flight per upstream."""
    return {"type": "upstreams", "upstreams": [_described(spec) for spec in specs], "max_in_flight": max_in_flight}


def _described(spec: UpstreamSpec) -> Message:
    described = asdict(spec)
    for name in ("objection", "spare"):
        if not described[name]:
            del described[name]
    return described


def read_upstreams(message: Message) -> tuple[tuple[UpstreamSpec, ...], int | None]:
    """Return the arguments of `upstreams`; raise ValueError if the message is malformed."""
    given = message.get("upstreams")
    if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
        raise ValueError("upstreams: not a list of objects")
    specs = tuple(
        UpstreamSpec(
            _text(each, "name"),
            _text(each, "host"),
            int(_number(each, "port")),
            each.get("state", UP),
            each.get("health_path"),
            each.get("health_host"),
            _text(each, "objection") if each.get("objection") else "",
            each.get("spare") is True,
        )
        for each in given
    )
    # The name becomes part of response heads.
    if not all(spec.name.isascii() and spec.name.isprintable() and 0 < len(spec.name) <= 64 for spec in specs):
        raise ValueError("invalid name of an upstream")
    if any(spec.state not in UPSTREAM_STATES for spec in specs):
        raise ValueError("unknown upstream state")
    if not all(0 < spec.port < 65536 for spec in specs):
        raise ValueError("port out of range")
    if not all(spec.health_path is None or is_path(spec.health_path) for spec in specs):
        raise ValueError("invalid health path")
    if not all(spec.health_host is None or is_host(spec.health_host) for spec in specs):
        raise ValueError("invalid health host")
    limit = message.get("max_in_flight")
    if limit is not None and (limit := int(_number(message, "max_in_flight"))) < 1:
        raise ValueError("max_in_flight: below 1")
    return specs, limit


def pause(until: float) -> Message:
    """Return the order to let requests wait until this time (monotonic seconds); a time in the past ends the pause."""
    return {"type": "pause", "until": until}


def read_pause(message: Message) -> float:
    """Return the end of the pause; raise ValueError if the message is malformed."""
    return _number(message, "until")


def read_suspect(message: Message) -> tuple[str, str]:
    """Return the upstream and the reason in `suspect`; raise ValueError if the message is malformed."""
    return _text(message, "upstream"), _text(message, "reason")


def read_grace(message: Message) -> float:
    """Return the seconds in `drain`; raise ValueError if the message is malformed or the time out of range."""
    grace = _number(message, "grace")
    if not 0 <= grace <= 1e6:
        raise ValueError("grace: out of range")
    return grace


def settings(partial: Message) -> Message:
    """Return the order to change the settings in `partial` while running."""
    return {"type": "settings", "settings": partial}


def suspect(upstream: str, reason: str) -> Message:
    """Return the report that an upstream may be dead, for `reason`; the load balancer then checks it at once."""
    return {"type": "doubt", "upstream": upstream, "reason": reason}


def front(plan: Mapping[str, Any], folder: str) -> Message:
    """Return the order to inject faults between clients and the data path; `folder` has the tickets of counts."""
    return {"type": "front", "plan": dict(plan), "folder": folder}


def read_front(message: Message) -> tuple[dict[str, Any], str]:
    """Return the arguments of `front`; raise ValueError if the message is malformed."""
    plan = message.get("plan")
    if not isinstance(plan, dict):
        raise ValueError("plan: not an object")
    return plan, _text(message, "folder")


def read_unused(message: Message) -> int:
    """Return how many listening sockets `drain` leaves unused; raise ValueError if the message is malformed."""
    unused = int(_number(message, "unused")) if "unused" in message else 0
    if unused not in (0, 1, 2):
        raise ValueError("unused: out of range")
    return unused


def drain(grace: float, unused: int = 0) -> Message:
    """Return the order to stop accepting, finish within `grace` seconds and exit 0.

    On the first `unused` of its listening sockets (its own, that of the front) no other process accepts from now on.
    """
    return {"type": "drain", "grace": grace, "unused": unused}


def ping(number: int) -> Message:
    """Return the request for a `pong` with the same number."""
    return {"type": "ping", "id": number}


def listener() -> Message:
    """Return the request for the listening socket; also the line that carries it back."""
    return {"type": "listener"}


def status() -> Message:
    """Return the request for `status_report`."""
    return {"type": "status"}


# From the load balancer.


def ready(name: str, pid: int, port: int, at: float) -> Message:
    """Return the first message on each control connection: the load balancer accepts since `at` (monotonic seconds)."""
    return {"type": "ready", "name": name, "pid": pid, "port": port, "at": at, "version": VERSION}


def first_response(upstream: str | None, at: float) -> Message:
    """Return the report of a first response at `at`: of an upstream that came up, or (None) of this load balancer."""
    return {"type": "first", "upstream": upstream, "at": at}


def health(upstream: str, healthy: bool, reason: str) -> Message:
    """Return the load balancer's view of one upstream: its present state after `ready`, later each change."""
    return {"type": "health", "upstream": upstream, "healthy": healthy, "reason": reason}


def ejection(upstream: str, ejected: bool, reason: str, seconds: float = 0.0) -> Message:
    """Return the report that an upstream was ejected for its answers (0 s: some time ago), or readmitted."""
    return {"type": "ejection", "upstream": upstream, "ejected": ejected, "reason": reason, "seconds": seconds}


def drained() -> Message:
    """Return the last message, sent before the exit after a drain."""
    return {"type": "drained"}


def pong(
    number: Any,
    busy: dict[str, int] | None = None,
    checks: dict[str, float] | None = None,
    counts: Mapping[str, Mapping[str, int]] | None = None,
) -> Message:
    """Return the reply to `ping`.

    `busy` are the numbers of requests still in flight on draining upstreams, `checks` the durations (ms) of the health
    checks since the last pong. `counts` is what upstreams said in these of their counted leases.
    """
    own = {name: dict(left) for name, left in (counts or {}).items()}
    fields = {"busy": busy, "checks": checks, "counts": own}
    return {"type": "pong", "id": number, **{name: value for name, value in fields.items() if value}}


def status_report(
    pid: int, current: Settings, views: list[tuple[UpstreamSpec, bool, str]], in_flight: int, draining: bool
) -> Message:
    """Return the reply to `status`; `views` has of each upstream its health in this view, and why it is ejected."""
    return {
        "type": "status",
        "name": current.name,
        "pid": pid,
        "version": VERSION,
        "settings": asdict(current),
        "upstreams": [{**_described(spec), "healthy": healthy, "ejected": ejected} for spec, healthy, ejected in views],
        "in_flight": in_flight,
        "draining": draining,
    }
