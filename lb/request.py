"""Request heads: from the bytes a client sent to what an upstream may see, or to a refusal.

The strict reading of RFC 9112 sections 2, 3, 6 and 9; each refusal names its section. What is forwarded is built anew from what
was understood: one request line, normalised fields, one framing, so that no upstream can understand it otherwise.

The result depends on nothing but the bytes and the settings, and is remembered by the exact bytes: a client that repeats itself
costs one dictionary lookup. What differs between clients, the address in X-Forwarded-For, is left open at the end.

Pure: no I/O, no clock.
"""

import re
from typing import Final

from lb.fields import (
    CONNECTION,
    CONTENT_LENGTH,
    EXPECT,
    FORWARDED_FOR,
    HOST,
    REQUEST_KINDS,
    TOKEN,
    TRANSFER_ENCODING,
    UPGRADE,
    VIA,
    FieldReader,
    Recent,
    Refusal,
    content_length,
    token_list,
    without_named,
)

CHUNKED: Final = -1

# Request target: visible ASCII without a fragment (RFC 9112 section 3.2). Wider than the URI grammar, as browsers are.
_REQUEST_LINE = re.compile(rb"(" + TOKEN + rb") ([\x21\x22\x24-\x7e]+) HTTP/([0-9])\.([0-9])").fullmatch
_HOST = rb"(?:\[[0-9A-Fa-f:.]+\]|\[[vV][0-9A-Fa-f]+\.[A-Za-z0-9\-._~!$&'()*+,;=:]+\]|(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})*)"
_AUTHORITY = re.compile(_HOST + rb"(?::[0-9]{0,5})?").fullmatch  # uri-host [ ":" port ], RFC 9110 section 7.2
_ABSOLUTE = re.compile(rb"https?://([^/?]*)([/?].*)?", re.IGNORECASE).fullmatch

_IDEMPOTENT: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))  # RFC 9110 section 9.2.2

# Connection options that name no further field to strip. Host, framing, Via and X-Forwarded-For are never stripped, though they
# be named: that would be an attack on what the upstream is told, not a wish about this hop.
_PLAIN_OPTIONS: Final = frozenset((b"close", b"keep-alive", b"upgrade", b"te"))

MAX_REMEMBERED_HEAD: Final = 4096


class RequestHead:
    """One validated request head, rewritten for upstreams.

    `prefix` lacks the client's address and the blank line; `length` is the body's, or CHUNKED; `keep_alive` is the client's wish
    as to its own connection; `plain` says that a whole response to it may take the common path (no HEAD, upgrade, expectation or
    HTTP/1.0 kept alive), `bare` that the request itself may, having no body.
    """

    __slots__ = (
        "bare",
        "expects",
        "idempotent",
        "is_head",
        "keep_alive",
        "length",
        "method",
        "minor",
        "plain",
        "prefix",
        "size",
        "upgrades",
    )

    def __init__(
        self, method: bytes, minor: int, prefix: bytes, length: int, keep_alive: bool, upgrades: bool, expects: bool, size: int
    ) -> None:
        self.method = method
        self.minor = minor
        self.prefix = prefix
        self.length = length
        self.keep_alive = keep_alive
        self.upgrades = upgrades
        self.expects = expects
        self.size = size
        self.is_head = method == b"HEAD"
        self.idempotent = method in _IDEMPOTENT
        self.plain = not (upgrades or expects or self.is_head or (minor == 0 and keep_alive))
        self.bare = self.plain and length == 0

    def __repr__(self) -> str:
        body = "chunked" if self.length == CHUNKED else f"{self.length} bytes"
        return f"<RequestHead {self.method.decode()} HTTP/1.{self.minor} {body} {'keep-alive' if self.keep_alive else 'close'}>"


class RequestReader:
    """Reads request heads under the given limits and remembers them.

    `default_host` names this LB to upstreams when an HTTP/1.0 client names no host.
    """

    def __init__(self, max_line: int, max_fields: int, default_host: bytes, capacity: int = 1024) -> None:
        self.max_line = max_line
        self.max_fields = max_fields
        self._default_host = default_host
        self._fields = FieldReader(REQUEST_KINDS)
        self.recent: Recent[RequestHead] = Recent(capacity)

    def read(self, raw: bytes) -> RequestHead:
        """Return the head that `raw` is, blank line included. Refusal: 400, 414, 417, 431, 501, 505."""
        head = self.recent.recall(raw)
        if head is None:
            head = self._parse(raw)
            if len(raw) <= MAX_REMEMBERED_HEAD:
                self.recent.offer(raw, head)
        return head

    def trailers(self, lines: list[bytes]) -> list[bytes]:
        """Return the trailer fields that may be sent on. Refusal 400."""
        return self._fields.trailers(lines)

    def check_line(self, line: bytes) -> None:
        """Judge a request line whose head is still incomplete, so that nonsense is refused at once."""
        self._request_line(line)

    def _request_line(self, line: bytes) -> tuple[bytes, bytes, int]:
        if len(line) > self.max_line:
            raise Refusal(414, "request line too long")
        match = _REQUEST_LINE(line)
        if match is None:
            raise Refusal(400, "invalid request line")  # RFC 9112 section 3, and HTTP/0.9
        method, target, major, minor = match.groups()
        if major != b"1":
            raise Refusal(505, "HTTP version not supported")  # RFC 9110 section 15.6.6; also the preface of HTTP/2
        if method == b"CONNECT":
            raise Refusal(501, "CONNECT is not supported")  # RFC 9110 section 9.3.6: never a tunnel
        return method, target, min(int(minor), 1)

    def _parse(self, raw: bytes) -> RequestHead:
        end = raw.index(b"\r\n")
        method, target, minor = self._request_line(raw[:end])
        forwarded, special, count = self._fields.read(raw[end + 2 : -2])
        if count > self.max_fields:
            raise Refusal(431, "too many header fields")
        target, host = self._route(method, target, minor, special[HOST])
        length, framing = _framing(minor, special[CONTENT_LENGTH], special[TRANSFER_ENCODING])
        connection = special[CONNECTION]
        keep_alive, upgrades = minor == 1, False
        if connection is not None:
            options = token_list(connection)
            keep_alive = b"close" not in options and (minor == 1 or b"keep-alive" in options)
            upgrades = minor == 1 and length == 0 and b"upgrade" in options and _may_upgrade(special[UPGRADE])
            if not _PLAIN_OPTIONS.issuperset(options):
                forwarded = without_named(forwarded, options)
        expects = minor == 1 and _expects(special[EXPECT])
        prefix = _rewritten(method, target, host, forwarded, framing, special, upgrades, expects)
        return RequestHead(method, minor, prefix, length, keep_alive, upgrades, expects, len(raw))

    def _route(self, method: bytes, target: bytes, minor: int, hosts: list[bytes] | None) -> tuple[bytes, bytes]:
        """Return the target in origin-form (or `*`) and the host. RFC 9112 sections 3.2 and 3.3."""
        if hosts is None:
            if minor:
                raise Refusal(400, "Host is missing")
            host = self._default_host
        elif len(hosts) > 1:
            raise Refusal(400, "more than one Host")
        else:
            host = hosts[0]
            if _AUTHORITY(host) is None:
                raise Refusal(400, "invalid Host")
        if target[0] == 0x2F:  # "/"
            return target, host
        if target == b"*":
            if method != b"OPTIONS":
                raise Refusal(400, "the target * is for OPTIONS only")  # RFC 9112 section 3.2.4
            return target, host
        absolute = _ABSOLUTE(target)
        if absolute is None or not (host := absolute[1]) or _AUTHORITY(host) is None or host[:1] == b":":
            raise Refusal(400, "invalid request target")  # userinfo included: RFC 9110 section 4.2.4
        path = absolute[2] or (b"*" if method == b"OPTIONS" else b"/")
        return (path if path[:1] != b"?" else b"/" + path), host


def _framing(minor: int, lengths: list[bytes] | None, encodings: list[bytes] | None) -> tuple[int, bytes]:
    """Return the body's length (or CHUNKED) and the field that says so upstream. RFC 9112 sections 6.1 to 6.3."""
    if encodings is not None:
        if lengths is not None:
            raise Refusal(400, "both Transfer-Encoding and Content-Length")
        if minor == 0:
            raise Refusal(400, "Transfer-Encoding in HTTP/1.0")
        if len(encodings) != 1 or encodings[0].lower() != b"chunked":
            codings = b",".join(encodings).lower().replace(b" ", b"").replace(b"\t", b"").split(b",")
            if b"chunked" in codings[:-1] or not any(codings):
                raise Refusal(400, "chunked is not the last transfer coding")
            raise Refusal(501, "unknown transfer coding")
        return CHUNKED, b"Transfer-Encoding: chunked\r\n"
    if lengths is not None:
        length = content_length(lengths)
        return length, b"Content-Length: %d\r\n" % length
    return 0, b""


def _may_upgrade(protocols: list[bytes] | None) -> bool:
    """Say whether an upgrade is passed on: not to HTTP/2 in clear text, which would tunnel requests past all checks."""
    return protocols is not None and not any(each.strip().lower().startswith(b"h2c") for each in b",".join(protocols).split(b","))


def _expects(values: list[bytes] | None) -> bool:
    """Say whether the client awaits 100 (Continue), RFC 9110 section 10.1.1; an HTTP/1.0 client cannot."""
    if values is None:
        return False
    if len(values) > 1 or values[0].lower() != b"100-continue":
        raise Refusal(417, "unknown expectation")
    return True


def _rewritten(
    method: bytes,
    target: bytes,
    host: bytes,
    forwarded: list[bytes],
    framing: bytes,
    special: list[list[bytes] | None],
    upgrades: bool,
    expects: bool,
) -> bytes:
    forwarded.append(framing)  # ends in CRLF itself, or is empty: joined below it closes the ordinary fields
    via = special[VIA]
    trail = special[FORWARDED_FOR]
    return b"".join(
        (
            method,
            b" ",
            target,
            b" HTTP/1.1\r\nHost: ",
            host,
            b"\r\n",
            b"\r\n".join(forwarded),
            b"Connection: upgrade\r\nUpgrade: " + b", ".join(special[UPGRADE] or ()) + b"\r\n" if upgrades else b"",
            b"Expect: 100-continue\r\n" if expects else b"",
            b"X-Forwarded-Proto: http\r\nX-Forwarded-Host: ",
            host,
            b"\r\nVia: 1.1 comet\r\n" if via is None else b"\r\nVia: " + b", ".join(via) + b", 1.1 comet\r\n",
            b"X-Forwarded-For: " if trail is None else b"X-Forwarded-For: " + b", ".join(trail) + b", ",
        )
    )
