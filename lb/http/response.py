"""Parses response heads: the bytes from a worker become a head for clients, or a refusal (the client then gets 502).

Framing is read as strictly as in requests: a worker whose framing is ambiguous is broken or attacked (RFC 9112 section
6.3). Some invalid input is accepted, where rewriting makes it harmless, the RFC lets a recipient accept it, and other
proxies do: lines that end in a bare LF, white space around the parts of the status line, equal lengths, and control
characters, which become spaces. White space before a colon is removed, as section 5.1 demands.

Heads are cached by their exact bytes, per worker, because X-Comet-Worker is part of the rewritten head. A Date line
changes the bytes once a second.

Pure: no I/O, no clock.
"""

import re
from typing import Final

from lb.http.fields import (
    CONNECTION,
    CONTENT_LENGTH,
    DATE,
    FULL,
    INJECTED,
    PROXY_AUTHENTICATE,
    REQUIRED,
    RESPONSE_KINDS,
    TOKEN,
    TRANSFER_ENCODING,
    UPGRADE,
    VIA,
    HeadReader,
    Refusal,
    as_written,
    content_length,
    split_lines,
    without_named,
)

CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2
AMBIGUOUS: Final = -3

_STATUS_LINE = re.compile(rb"HTTP/1\.([0-9])[ \t]+([1-5][0-9][0-9])(?:[ \t](.*))?").fullmatch
_STATUS_PREFIX = re.compile(rb"[0-9](?:[ \t]+(?:[1-5](?:[0-9](?:[0-9](?:[ \t].*|\r)?)?)?)?)?", re.DOTALL).fullmatch
_VERSION: Final = b"HTTP/1."
_TO_SPACES: Final = bytes(0x20 if (code < 0x20 and code != 0x09) or code == 0x7F else code for code in range(256))
_IS_TOKEN = re.compile(TOKEN).fullmatch
_FIELDLESS_OPTIONS: Final = frozenset((b"close", b"keep-alive", b"upgrade"))


class ResponseHead:
    """One validated response head, rewritten for clients.

    `length` is the body's length as far as the response alone defines it: bytes, CHUNKED, UNTIL_CLOSE or AMBIGUOUS. An
    AMBIGUOUS response is usable for a HEAD request alone; `fault` is the reason and `evidence` are the fields.

    `start` is the rewritten head without framing and blank line, `framing` the Content-Length line, if any. `fast_head`
    is the complete head for the fast path, empty if that must not be used, and `fast_head_close` is the same with
    `Connection: close`.

    `upgrade` are the protocols in Upgrade (101, 426), `option` is the connection option `upgrade` as sent. `keep_alive`
    says whether the worker keeps its connection open. `options` are the Connection options that may name trailers.
    `full`: the worker says by 503 and X-Comet-Full that it has no room and did not begin the request. `injected`: it
    says by X-Comet-Injected that it injected a failure, and may say so.
    """

    __slots__ = (
        "dated",
        "evidence",
        "fast_head",
        "fast_head_close",
        "fault",
        "framing",
        "full",
        "injected",
        "keep_alive",
        "length",
        "option",
        "options",
        "size",
        "start",
        "status",
        "upgrade",
    )

    def __init__(
        self,
        status: int,
        start: bytes,
        framing: bytes,
        length: int,
        keep_alive: bool,
        upgrade: bytes,
        dated: bool,
        full: bool,
        size: int,
        injected: bool = False,
    ) -> None:
        self.status = status
        self.start = start
        self.framing = framing
        self.length = length
        self.keep_alive = keep_alive
        self.upgrade = upgrade
        self.dated = dated
        self.full = full
        self.injected = injected
        self.size = size
        self.options: list[bytes] = []
        self.option = b"upgrade"
        self.fault = ""
        self.evidence = b""
        common = length >= 0 and keep_alive and dated and status >= 200 and not full and not upgrade
        common = common and not injected  # That is counted elsewhere.
        self.fast_head = start + framing + b"\r\n" if common else b""
        self.fast_head_close = start + framing + b"Connection: close\r\n\r\n" if common else b""

    def __repr__(self) -> str:
        body = {CHUNKED: "chunked", UNTIL_CLOSE: "until close", AMBIGUOUS: "ambiguous"}.get(
            self.length, f"{self.length} bytes"
        )
        return f"<ResponseHead {self.status} {body} {'keep-alive' if self.keep_alive else 'close'}>"


class ResponseReader(HeadReader[ResponseHead]):
    """Parses the response heads of one upstream and caches them; the status of a `Refusal` has no meaning here."""

    def __init__(
        self, worker: str, balancer: str, max_fields: int, capacity: int = 128, *, keep_alive: bool = True,
        marks: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(RESPONSE_KINDS, max_fields, capacity, of_requests=False)
        self._keep_alive = keep_alive
        self._marks = marks
        self._added = b"X-Comet-Worker: %s\r\nX-Comet-LB: %s\r\n" % (worker.encode(), balancer.encode())

    def parse(self, raw: bytes) -> ResponseHead:
        """Return the head in `raw` without using the cache; raise Refusal like `read`."""
        lines = split_lines(raw)
        if lines is None:
            lines = _repaired_lines(raw)
        match = _STATUS_LINE(lines[0])
        if match is None:
            raise _invalid_status_line(lines[0])
        minor, code, reason = min(int(match[1]), 1), match[2], (match[3] or b"").strip(b" \t")
        status = int(code)
        forwarded, special = self.read_fields(lines)
        options = _options(special[CONNECTION])
        named: list[bytes] = []
        if not _FIELDLESS_OPTIONS.issuperset(options):
            named = [option for option in options if option != REQUIRED.get(status)]
            forwarded = without_named(forwarded, named)
        if status == 407:  # A response of this status must have the field, whichever proxy demands the credentials.
            forwarded += [b"Proxy-Authenticate: " + each for each in special[PROXY_AUTHENTICATE] or ()]
        fault, lengths, encodings = "", special[CONTENT_LENGTH], special[TRANSFER_ENCODING]
        try:
            length, framing, reusable = _framing(status, minor, lengths, encodings)
        except Refusal as refusal:  # A response to HEAD has no body, so its framing does not matter.
            length, framing, reusable, fault = AMBIGUOUS, b"", False, refusal.reason
        keep_alive = (
            reusable
            and self._keep_alive
            and b"close" not in options
            and (minor == 1 or b"keep-alive" in options)
            and length != UNTIL_CLOSE
        )
        dates = [each for each in special[DATE] or () if each]
        if dates:  # No Connection option removes it: a response has a Date.
            forwarded.append(b"Date: " + dates[0])
        forwarded.append(b"Via: " + b", ".join([*(each for each in special[VIA] or () if each), b"1.1 comet"]))
        start = b"HTTP/1.1 %s %s\r\n%s\r\n%s" % (code, reason, b"\r\n".join(forwarded), self._added)
        upgrade = b"" if status not in (101, 426) else b", ".join(each for each in special[UPGRADE] or () if each)
        if status == 101 and b"upgrade" not in options:
            upgrade = b""
        full = status == 503 and special[FULL] is not None
        injected = self._marks and special[INJECTED] is not None
        head = ResponseHead(status, start, framing, length, keep_alive, upgrade, bool(dates), full, len(raw), injected)
        head.options = named
        if upgrade:
            head.option = as_written(special[CONNECTION] or [], b"upgrade")
        if fault:
            head.fault = fault
            fields = [b"Transfer-Encoding: " + each for each in encodings or ()] + [
                b"Content-Length: " + each for each in lengths or ()
            ]
            head.evidence = b"\r\n".join(fields)
        return head

    def configure(self, *, keep_alive: bool) -> None:
        """Set whether connections to the worker stay open after a response."""
        if keep_alive != self._keep_alive:
            self._keep_alive = keep_alive
            self.recent.forget()

    def check_incomplete(self, data: bytes, checked: int) -> int:
        """Raise Refusal as soon as `data` cannot become a head; return the offset up to which its lines are valid.

        `checked` is what the previous call returned (at first 0), so that each line is checked once.
        """
        end = data.rfind(b"\n") + 1
        if not checked:
            start = head_start(data, 0)
            if end <= start:
                self._check_first_line(data[start:])
                return 0
            checked = data.index(b"\n", start) + 1
            line = _repaired_lines(data[start : checked - 1])[0]
            if _STATUS_LINE(line) is None:
                raise _invalid_status_line(line)
        if checked < end:
            self.fields.read(_repaired_lines(b"\n" + data[checked : end - 1])[1:])
        return end

    def _check_first_line(self, line: bytes) -> None:
        rest = line[len(_VERSION) :]
        if not _VERSION.startswith(line[: len(_VERSION)]) or (rest and _STATUS_PREFIX(rest) is None):
            raise _invalid_status_line(line)

    def trailers(self, lines: list[bytes], options: list[bytes]) -> list[bytes]:
        """Return the trailers to forward; drop invalid ones, because the body is complete without them."""
        kept: list[bytes] = []
        valid: list[bytes] = []
        for line in lines:
            if line[:1] in (b" ", b"\t"):
                valid = []  # A folded line continues the previous field, which is dropped with it.
            kept += valid
            try:
                valid = self.fields.trailers([line], options)
            except Refusal:
                valid = []
        return kept + valid


def _invalid_status_line(line: bytes) -> Refusal:
    return Refusal(502, "invalid status line" if line.startswith(_VERSION) else "not an HTTP/1.1 response", line)


def head_end(data: bytes, start: int) -> int:
    """Return the end of the head that begins at `start`, after its blank line, or -1; lines may end in a bare LF."""
    end = data.find(b"\n\r\n", start)
    bare = data.find(b"\n\n", start, end + 1 if end >= 0 else len(data))
    return bare + 2 if bare >= 0 else end + 3 if end >= 0 else -1


def head_start(data: bytes, at: int) -> int:
    """Return the start of the head after empty lines at `at`: some workers send an extra line end after a body."""
    while at < len(data) and data[at] in (0x0D, 0x0A):
        at += 1
    return at


def _repaired_lines(raw: bytes) -> list[bytes]:
    """Return the lines of a head with control characters or bare LFs; raise Refusal for a bare CR or a NUL."""
    lines = [line.removesuffix(b"\r") for line in raw.split(b"\n")]
    for number, line in enumerate(lines):
        if b"\r" in line:
            raise Refusal(502, "bare carriage return", line)
        if number and b"\0" in line:
            raise Refusal(502, "NUL in a header field", line)
    return [line.translate(_TO_SPACES) for line in lines]


def _options(values: list[bytes] | None) -> list[bytes]:
    """Return the lower-case connection options that are tokens; others cannot name a field."""
    if values is None:
        return []
    members = [each.strip(b" \t") for each in b",".join(values).lower().split(b",")]
    return [each for each in members if _IS_TOKEN(each)]


def _framing(
    status: int, minor: int, lengths: list[bytes] | None, encodings: list[bytes] | None
) -> tuple[int, bytes, bool]:
    """Return the body's length, the Content-Length line to send, and whether the connection may be reused.

    RFC 9112 section 6.3: a response with a status that allows no body ends with its head, whatever its fields say
    (items 1 and 2). A worker that announces a body there may also send it, so that connection is not reused.
    """
    if status < 200 or status == 204:
        announced = encodings is not None or any(value.strip(b"0") for value in lengths or ())
        return 0, b"", not announced  # RFC 9110 section 8.6: no Content-Length here
    try:
        length, framing = _body(minor, lengths, encodings)
    except Refusal:
        if status == 304:
            return 0, b"", False
        raise
    if status == 304:
        return 0, framing, encodings is None and length in (0, UNTIL_CLOSE)
    return length, framing, True


def _body(minor: int, lengths: list[bytes] | None, encodings: list[bytes] | None) -> tuple[int, bytes]:
    """Return the length and the Content-Length line of a body; raise Refusal if they are ambiguous."""
    # Empty list members do not count (RFC 9110 section 5.6.1), so an empty Transfer-Encoding has no meaning.
    codings = [coding for each in b",".join(encodings or ()).lower().split(b",") if (coding := each.strip(b" \t"))]
    if codings:
        if lengths is not None:
            raise Refusal(502, "both Transfer-Encoding and Content-Length")
        if minor == 0:
            raise Refusal(502, "Transfer-Encoding in HTTP/1.0")
        if codings != [b"chunked"]:
            raise Refusal(502, "unknown transfer coding", b", ".join(codings))
        return CHUNKED, b""
    if lengths is not None:
        length = content_length(_single_length(lengths))
        return length, b"Content-Length: %d\r\n" % length
    return UNTIL_CLOSE, b""


def _single_length(lengths: list[bytes]) -> list[bytes]:
    """Return several equal lengths, in one field or several, as one (RFC 9110 section 8.6)."""
    if len(lengths) == 1 and b"," not in lengths[0]:
        return lengths
    members = [each.strip(b" \t") for each in b",".join(lengths).split(b",")]
    return members[:1] if members.count(members[0]) == len(members) else members


def outgoing(response: ResponseHead, minor: int, head_only: bool, close: bool, date: bytes) -> tuple[bytes, bool, bool]:
    """Return the head for one client, whether to send the body in chunks, and whether the connection ends with it.

    `minor` is the client's HTTP/1 version, `head_only` means a HEAD request, `close` that the connection ends anyway.
    An HTTP/1.0 client gets no chunks, so its body ends with the connection (RFC 9112 section 6.1). Date: RFC 9110
    section 6.6.1.
    """
    framing, chunks = response.framing, False
    if response.length < 0 and not head_only:
        if minor:
            framing, chunks = b"Transfer-Encoding: chunked\r\n", True
        else:
            close = True
    connection = b"Connection: close\r\n" if close else b"" if minor else b"Connection: keep-alive\r\n"
    dated = b"" if response.dated else b"Date: " + date + b"\r\n"
    if response.upgrade and minor:  # 426 names the protocols to upgrade to (RFC 9110 section 15.5.22).
        connection = (
            b"Connection: close, %b\r\n" % response.option if close else b"Connection: %b\r\n" % response.option
        )
        connection += b"Upgrade: %b\r\n" % response.upgrade
    return response.start + dated + framing + connection + b"\r\n", chunks, close
