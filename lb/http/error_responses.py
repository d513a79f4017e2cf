"""Builds the load balancer's own error responses: JSON `{"error": "…"}` with the status.

No part of them comes from what a peer sent.

Pure: the Date is a parameter.
"""

import json
from typing import Final

REASONS: Final = {
    400: "Bad Request",
    408: "Request Timeout",
    413: "Content Too Large",
    414: "URI Too Long",
    417: "Expectation Failed",
    431: "Request Header Fields Too Large",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
}

RETRY_AFTER: Final = 1
"""Seconds in Retry-After: a worker has usually restarted within one."""


def error_body(message: str) -> bytes:
    """Return the body of an error response."""
    return json.dumps({"error": message}).encode() + b"\n"


def error_response(
    status: int, message: str, balancer: str, date: bytes, *, close: bool, head_only: bool = False
) -> bytes:
    """Return the whole response; a 503 has Retry-After, the response to HEAD no body (RFC 9110 section 9.3.2)."""
    body = error_body(message)
    lines = [
        f"HTTP/1.1 {status} {REASONS[status]}".encode(),
        b"Date: " + date,
        b"Content-Type: application/json",
        b"Content-Length: %d" % len(body),
        b"Via: 1.1 comet",
        b"X-Comet-LB: " + balancer.encode(),
    ]
    if status == 503:
        lines.append(b"Retry-After: %d" % RETRY_AFTER)
    lines.append(b"Connection: close" if close else b"Connection: keep-alive")
    return b"\r\n".join(lines) + b"\r\n\r\n" + (b"" if head_only else body)
