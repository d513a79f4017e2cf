"""The LB's own answers: JSON `{"error": "…"}` with the right status, built from scratch, never from what the peer sent.

Pure: the Date is handed in.
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
RETRY_AFTER: Final = 1  # seconds: a worker is usually back within one


def error_reply(status: int, message: str, balancer: str, date: bytes, *, close: bool, head_only: bool = False) -> bytes:
    """Return the whole response. A 503 says when to come again; HEAD gets no body (RFC 9110 section 9.3.2)."""
    body = json.dumps({"error": message}).encode() + b"\n"
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
