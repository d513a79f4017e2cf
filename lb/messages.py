"""The words between a load balancer and its supervisor: one JSON object per line, UTF-8, over an AF_UNIX stream.

Pure: bytes in, dictionaries out and back. Either side ignores a message type it does not know, so that both can be newer than
the other; a line that is no JSON object is a broken peer (ValueError).

To the LB: upstreams, settings, doubt, drain, ping, listener, status. From the LB, unasked: ready, first, health, drained; as answers: pong,
listener (the line's first byte carries the descriptor by SCM_RIGHTS), status.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Final

from lb.settings import UPSTREAM_STATES, Settings, UpstreamSpec, is_path

VERSION: Final = 2
"""Of all that is said here. A supervisor replaces load balancers that speak another one."""
MAX_LINE: Final = 1 << 20  # 200 upstreams need some 20 KiB; a peer that sends more without a newline is broken

Message = dict[str, Any]


def encode(message: Message) -> bytes:
    """Return the line of `message`, its newline included."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


class Decoder:
    """Collects bytes of a stream and hands out whole messages."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Message]:
        """Return the messages that `data` completes. ValueError: not a JSON object, or a line beyond MAX_LINE."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE:
            raise ValueError("line too long")
        return [decode(line) for line in lines if line.strip()]


def decode(line: bytes) -> Message:
    """Return the message of one line. ValueError when it is not a JSON object with a `type`."""
    message = json.loads(line)
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise ValueError("not a message")
    return message


# To the load balancer.


def upstreams(specs: Iterable[UpstreamSpec], max_in_flight: int | None = None) -> Message:
    """Return the complete wanted list in rotation order, and the limit of requests in flight per upstream."""
    return {"type": "upstreams", "upstreams": [asdict(spec) for spec in specs], "max_in_flight": max_in_flight}


def read_upstreams(message: Message) -> tuple[tuple[UpstreamSpec, ...], int | None]:
    """Return what `upstreams` was made of. ValueError, KeyError, TypeError: malformed."""
    specs = tuple(
        UpstreamSpec(str(each["name"]), str(each["host"]), int(each["port"]), str(each.get("state", "up")), each.get("health_path"))
        for each in message["upstreams"]
    )
    if any(spec.state not in UPSTREAM_STATES for spec in specs):
        raise ValueError("unknown upstream state")
    if not all(0 < spec.port < 65536 for spec in specs):
        raise ValueError("no such port")
    if not all(spec.health_path is None or is_path(spec.health_path) for spec in specs):
        raise ValueError("a health path that is none")
    limit = message.get("max_in_flight")
    if limit is not None and (limit := int(limit)) < 1:
        raise ValueError("a limit that lets nothing through")
    return specs, limit


def settings(partial: Message) -> Message:
    """Return a live change of the settings that `partial` names."""
    return {"type": "settings", "settings": partial}


def doubt(upstream: str, reason: str) -> Message:
    """Return the news that an upstream may be dead, for `reason`: whoever hears it checks at once."""
    return {"type": "doubt", "upstream": upstream, "reason": reason}


def drain(grace: float) -> Message:
    """Return the order to stop accepting, finish within `grace` seconds and exit 0."""
    return {"type": "drain", "grace": grace}


def ping(number: int) -> Message:
    """Return a question that `pong` answers with the same number."""
    return {"type": "ping", "id": number}


def listener() -> Message:
    """Return the request for the listening socket; also the line that carries it back."""
    return {"type": "listener"}


def status() -> Message:
    """Return the request for `status_report`."""
    return {"type": "status"}


# From the load balancer.


def ready(name: str, pid: int, port: int, at: float) -> Message:
    """Return what is sent first on each control connection: it accepts, since `at` (monotonic seconds)."""
    return {"type": "ready", "name": name, "pid": pid, "port": port, "at": at, "version": VERSION}


def first(upstream: str | None, at: float) -> Message:
    """Return the news of a first answer at `at`: from an upstream that came up, or (None) through this load balancer."""
    return {"type": "first", "upstream": upstream, "at": at}


def health(upstream: str, healthy: bool, reason: str) -> Message:
    """Return the edge (or, after `ready`, the present state) of the LB's own view of one upstream."""
    return {"type": "health", "upstream": upstream, "healthy": healthy, "reason": reason}


def drained() -> Message:
    """Return the farewell before the exit of a drain."""
    return {"type": "drained"}


def pong(number: Any, busy: dict[str, int] | None = None) -> Message:
    """Return the answer to `ping`; `busy` tells how many requests are still in flight on draining upstreams, where there are any."""
    return {"type": "pong", "id": number, **({"busy": busy} if busy else {})}


def status_report(pid: int, current: Settings, views: list[tuple[UpstreamSpec, bool]], in_flight: int, draining: bool) -> Message:
    """Return the answer to `status`: `views` pairs each upstream with the LB's own view of its health."""
    return {
        "type": "status",
        "name": current.name,
        "pid": pid,
        "version": VERSION,
        "settings": asdict(current),
        "upstreams": [{**asdict(spec), "healthy": healthy} for spec, healthy in views],
        "in_flight": in_flight,
        "draining": draining,
    }
