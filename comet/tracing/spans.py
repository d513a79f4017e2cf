"""Turns what load balancers measured of an exchange into OpenTelemetry spans.

Names and attributes follow the semantic conventions of HTTP spans
(https://opentelemetry.io/docs/specs/semconv/http/http-spans/). A load balancer's message is checked before use: what is
no measured exchange is left out.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from comet.common.json_values import decode, is_whole, require_shape

MAX_LINE = 1 << 16
METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
_ATTEMPT = {"span": str, "worker": str, "start": int, "end": int, "status": int | None, "error": str | None}
_EXCHANGE: dict[str, Any] = {
    "lb": str, "trace": str, "span": str, "parent": str | None, "start": int, "end": int, "client": str, "method": str,
    "target": str, "status": int, "error": str | None, "body_bytes": int, "attempts": list[dict[str, Any]],
}  # fmt: skip


@dataclass(frozen=True)
class MeasuredSpan:
    """One span; ids are numbers, `parent` is 0 for the first span of a trace, times are in ns since the epoch."""

    name: str
    trace: int
    id: int
    parent: int
    is_server: bool
    start: int
    end: int
    attributes: Mapping[str, str | int]
    failed: bool


def read(data: bytes) -> Iterator[MeasuredSpan]:
    """Yield the spans in a datagram: a server span for each exchange, and a client span for each of its attempts."""
    for line in data.splitlines():
        try:
            yield from _exchange(_checked(decode(line, MAX_LINE), _EXCHANGE))
        except ValueError:
            continue


def _checked(value: Any, shapes: Mapping[str, Any]) -> dict[str, Any]:
    require_shape(value, shapes)
    if not all(is_whole(value[name], 0, 2**63) for name in ("start", "end")):
        raise ValueError("not a time")
    return dict(value)


def _exchange(record: Mapping[str, Any]) -> Iterator[MeasuredSpan]:
    trace, server = _id(record["trace"], 32), _id(record["span"], 16)
    parent = 0 if record["parent"] is None else _id(record["parent"], 16)
    method = record["method"] if record["method"] in METHODS else "_OTHER"
    path, _, query = record["target"].partition("?")
    attributes: dict[str, str | int] = {
        "http.request.method": method,
        "url.path": path,
        "client.address": record["client"],
        "http.response.status_code": record["status"],
        "http.response.body.size": record["body_bytes"],
        "comet.load_balancer": record["lb"],
    }
    if query:
        attributes["url.query"] = query
    failed = record["status"] >= 500 or record["error"] is not None
    if failed:
        attributes["error.type"] = record["error"] or str(record["status"])
    name = method if method in METHODS else "HTTP"
    yield MeasuredSpan(name, trace, server, parent, True, record["start"], record["end"], attributes, failed)
    for number, each in enumerate(record["attempts"]):
        yield _attempt(_checked(each, _ATTEMPT), number, name, trace, server, method)


def _attempt(record: Mapping[str, Any], number: int, name: str, trace: int, server: int, method: str) -> MeasuredSpan:
    attributes: dict[str, str | int] = {"http.request.method": method, "comet.worker": record["worker"]}
    if number:
        attributes["http.request.resend_count"] = number
    if record["status"] is not None:
        attributes["http.response.status_code"] = record["status"]
    failed = record["status"] is None or record["status"] >= 400
    if failed:
        attributes["error.type"] = record["error"] or str(record["status"])
    return MeasuredSpan(
        name, trace, _id(record["span"], 16), server, False, record["start"], record["end"], attributes, failed
    )


def _id(text: str, digits: int) -> int:
    """Return an id that is written in hex digits; ValueError for anything else, and for 0, which means none."""
    number = int(text, 16) if len(text) == digits and text.isalnum() and text.isascii() else 0
    if not number:
        raise ValueError("not an id")
    return number
