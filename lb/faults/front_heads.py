"""Reads and writes the heads at the front: those of requests, of responses, and of answers in place of the service's.

Pure. The data path has the reader that decides what a request means. This one only has to know where a message ends, so
it gives up where that is not clear.
"""

import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from lb.faults.front_rules import FrontSettings, Request, in_origin_form
from lb.http.error_responses import error_body

FAILURE_BODY: Final = b'{"error":"injected failure"}'
CHUNKED, UNTIL_CLOSE = -1, -2
"""Lengths of a body that its head does not say: it has chunks, or ends with the connection."""

_SINGLE: Final = ("host", "content-length", "transfer-encoding")
"""Fields that are the data path's alone to judge where they appear twice."""

_REQUEST_LINE = re.compile(r"([!#-'*+.0-9A-Z^_`a-z|~-]+) (\S+) HTTP/1\.([01])").fullmatch


@dataclass(frozen=True, slots=True)
class Head:
    """A request's head; `length` is that of its body, or CHUNKED."""

    request: Request
    length: int
    keeps: bool
    expects: bool


def read_head(head: bytes) -> Head | None:
    """Return what a head says; None where that is not clear."""
    first, *lines = head[:-4].decode("latin-1").split("\r\n")
    match = _REQUEST_LINE(first)
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        key = name.lower()
        if not colon or (key in fields and key in _SINGLE):
            return None
        fields[key] = f"{fields[key]}, {value.strip()}" if key in fields else value.strip()
    coding, length = fields.get("transfer-encoding"), fields.get("content-length", "0")
    if match is None or not length.isascii() or not length.isdigit():
        return None
    if coding is not None and (coding.lower() != "chunked" or "content-length" in fields):
        return None
    option = fields.get("connection", "").lower()
    keeps = "close" not in option and (match[3] == "1" or "keep-alive" in option)
    body = CHUNKED if coding is not None else int(length)
    return Head(Request(match[1], match[2], fields), body, keeps, "expect" in fields)


def own_answer(settings: FrontSettings, head_only: bool, keeps: bool) -> bytes:
    """Return the answer in place of the service's."""
    status = settings.status
    try:
        reason = HTTPStatus(status).phrase
    except ValueError:
        reason = "Injected"
    body = FAILURE_BODY if settings.body is None else settings.body.encode()
    names = {header.partition(":")[0].strip().lower() for header in settings.headers}
    lines = [f"HTTP/1.1 {status} {reason}", *settings.headers]
    if body and "content-type" not in names:
        lines.append("Content-Type: application/json" if settings.body is None else "Content-Type: text/plain")
    if status not in (204, 304):
        lines.append(f"Content-Length: {len(body)}")
    if not keeps:
        lines.append("Connection: close")
    head = "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")
    return head if head_only or status in (204, 304) else head + body


def too_slow(part: str) -> FrontSettings:
    """Return the answer to a client whose head or body makes no progress, as the data path gives it."""
    body = error_body(f"the request {part} took too long").decode()
    return FrontSettings(status=408, headers=("Content-Type: application/json",), body=body)


def same_resource(target: str) -> str:
    r"""Return a reference that leads a client back to the target of its request, on the same host.

    A path that begins with `//`, or with `/\` for browsers, would name another host (RFC 3986 section 4.2); `/.` in
    front of it changes nothing of the path (section 5.2.4).
    """
    path = in_origin_form(target)
    if not path.startswith("/"):
        return "/"
    return f"/.{path}" if path[1:2] in ("/", "\\") else path


def framing(raw: bytes) -> tuple[int, bool]:
    """Return the length of a response's body, and whether the connection ends with it."""
    fields = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(b":") for line in raw[:-4].split(b"\r\n")[1:])
    }
    closes = b"close" in fields.get(b"connection", b"").lower()
    if b"transfer-encoding" in fields:
        return CHUNKED, closes
    if b"content-length" in fields:
        return int(fields[b"content-length"]), closes
    return UNTIL_CLOSE, True


def without(raw: bytes, *names: bytes) -> bytes:
    """Return a head without these fields and without its last, empty line."""
    lines = raw[:-4].split(b"\r\n")
    kept = [line for line in lines if line.partition(b":")[0].strip().lower() not in names]
    return b"\r\n".join([*kept, b""])
