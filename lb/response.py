"""Response heads: from the bytes a worker sent to what a client may see, or to a refusal (the client then gets 502).

RFC 9112 sections 4 and 6.3, as strict as for requests: a worker whose framing is ambiguous is broken or attacked. Remembered by
the exact bytes, per worker, because X-Comet-Worker is part of the rewritten head; a Date line changes the bytes once a second.

Pure: no I/O, no clock.
"""

import re
from typing import Final

from lb.fields import (
    CONNECTION,
    CONTENT_LENGTH,
    DATE,
    FULL,
    RESPONSE_KINDS,
    TRANSFER_ENCODING,
    UPGRADE,
    VIA,
    HeadReader,
    Refusal,
    content_length,
    split_lines,
    token_list,
    without_named,
)

CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*))?").fullmatch
_PLAIN_OPTIONS: Final = frozenset((b"close", b"keep-alive", b"upgrade"))


class ResponseHead:
    """One validated response head, rewritten for clients.

    `length` is the body's length as far as the response alone tells: bytes, CHUNKED or UNTIL_CLOSE (a HEAD request makes it 0).
    `start` is the rewritten head without framing and blank line; `framing` the Content-Length line, if any; `whole` the finished
    head for the common path, empty when that must not be taken, `farewell` the same with `Connection: close`. `keep_alive` tells
    of the worker's connection; `options` are the Connection field's, where they may name trailers too. `full`: the worker says by
    503 and X-Comet-Full that it did not begin the request for want of room.
    """

    __slots__ = ("dated", "farewell", "framing", "full", "keep_alive", "length", "options", "size", "start", "status", "upgrade", "whole")

    def __init__(
        self, status: int, start: bytes, framing: bytes, length: int, keep_alive: bool, upgrade: bytes, dated: bool, full: bool, size: int
    ) -> None:
        self.status = status
        self.start = start
        self.framing = framing
        self.length = length
        self.keep_alive = keep_alive
        self.upgrade = upgrade
        self.dated = dated
        self.full = full
        self.size = size
        self.options: list[bytes] = []
        common = length >= 0 and keep_alive and dated and status >= 200 and not full
        self.whole = start + framing + b"\r\n" if common else b""
        self.farewell = start + framing + b"Connection: close\r\n\r\n" if common else b""

    def __repr__(self) -> str:
        body = {CHUNKED: "chunked", UNTIL_CLOSE: "until close"}.get(self.length, f"{self.length} bytes")
        return f"<ResponseHead {self.status} {body} {'keep-alive' if self.keep_alive else 'close'}>"


class ResponseReader(HeadReader[ResponseHead]):
    """Reads the response heads of one upstream and remembers them. The status of a `Refusal` does not matter."""

    def __init__(self, worker: str, balancer: str, max_fields: int, capacity: int = 128) -> None:
        super().__init__(RESPONSE_KINDS, max_fields, capacity)
        self._added = b"X-Comet-Worker: %s\r\nX-Comet-LB: %s\r\n" % (worker.encode(), balancer.encode())

    def parse(self, raw: bytes) -> ResponseHead:
        """Return the head that `raw` is, whatever is remembered. Refusal as `read`."""
        lines = split_lines(raw)
        match = None if lines is None else _STATUS_LINE(lines[0])
        if lines is None or match is None:
            raise Refusal(502, "invalid response head")
        minor, code, reason = int(match[1]), match[2], match[3] or b""
        status = int(code)
        forwarded, special = self.read_fields(lines)
        if dates := special[DATE]:
            forwarded.append(b"Date: " + dates[0])
        options = token_list(special[CONNECTION] or [])
        named: list[bytes] = []
        if not _PLAIN_OPTIONS.issuperset(options):
            forwarded = without_named(forwarded, named := options)
        length, framing = _framing(status, minor, special[CONTENT_LENGTH], special[TRANSFER_ENCODING])
        keep_alive = b"close" not in options and (minor == 1 or b"keep-alive" in options) and length != UNTIL_CLOSE
        forwarded.append(b"Via: 1.1 comet" if (via := special[VIA]) is None else b"Via: " + b", ".join(via) + b", 1.1 comet")
        start = b"HTTP/1.1 %s %s\r\n%s\r\n%s" % (code, reason, b"\r\n".join(forwarded), self._added)
        upgrade = b", ".join(special[UPGRADE] or ()) if status == 101 and b"upgrade" in options else b""
        full = status == 503 and special[FULL] is not None
        head = ResponseHead(status, start, framing, length, keep_alive, upgrade, dates is not None, full, len(raw))
        head.options = named
        return head


def _framing(status: int, minor: int, lengths: list[bytes] | None, encodings: list[bytes] | None) -> tuple[int, bytes]:
    """Return the body's length and the Content-Length line to send. RFC 9112 sections 6.1 to 6.3."""
    if status < 200 or status == 204:
        if encodings is not None:
            raise Refusal(502, "Transfer-Encoding in a response without a body")
        return 0, b""  # RFC 9110 section 8.6: no Content-Length here
    if encodings is not None:
        if lengths is not None or minor == 0 or len(encodings) != 1 or encodings[0].lower() != b"chunked":
            raise Refusal(502, "ambiguous framing")
        return (CHUNKED if status != 304 else 0), b""
    if lengths is not None:
        length = content_length(lengths)
        return (length if status != 304 else 0), b"Content-Length: %d\r\n" % length
    return (UNTIL_CLOSE if status != 304 else 0), b""


def outgoing(response: ResponseHead, minor: int, head_only: bool, close: bool, date: bytes) -> tuple[bytes, bool, bool]:
    """Return the head for one client, whether the body is to be sent in chunks, and whether the connection ends with it.

    `minor` is the client's HTTP/1 version, `head_only` says that it asked with HEAD, `close` that the connection ends anyway.
    RFC 9112 section 6.1: no chunks to HTTP/1.0, whose body then ends with the connection. RFC 9110 section 6.6.1: Date.
    """
    framing, chunks = response.framing, False
    if response.length < 0 and not head_only:
        if minor:
            framing, chunks = b"Transfer-Encoding: chunked\r\n", True
        else:
            close = True
    connection = b"Connection: close\r\n" if close else b"" if minor else b"Connection: keep-alive\r\n"
    dated = b"" if response.dated else b"Date: " + date + b"\r\n"
    return response.start + dated + framing + connection + b"\r\n", chunks, close
