"""Request heads: from the bytes a client sent to what an upstream may see, or to a refusal.

The strict reading of RFC 9112 sections 2, 3, 6 and 9; each refusal names its section. What is forwarded is built anew from what
was understood: one request line, normalised fields, one framing, so that no upstream can understand it otherwise.

The result depends on nothing but the bytes and the settings, and is remembered by the exact bytes: a client that repeats itself
costs one dictionary lookup. What differs between clients, the address in X-Forwarded-For, is left open at the end.

Pure: no I/O, no clock.
"""

import re
from ipaddress import AddressValueError, IPv6Address
from typing import Final

from lb.fields import (
    CONNECTION,
    CONTENT_LENGTH,
    EXPECT,
    FORWARDED_FOR,
    HOST,
    MAX_FORWARDS,
    MAX_REMEMBERED_HEAD,
    REQUEST_KINDS,
    TOKEN,
    TRANSFER_ENCODING,
    UPGRADE,
    VIA,
    HeadReader,
    Refusal,
    content_length,
    split_lines,
    token_list,
    what_is_wrong,
    without_named,
)
from lb.template import Templates

CHUNKED: Final = -1

# Request target: visible ASCII without a fragment (RFC 9112 section 3.2). Wider than the URI grammar, as browsers are.
_REQUEST_LINE = re.compile(rb"(" + TOKEN + rb") ([\x21\x22\x24-\x7e]+) HTTP/([0-9])\.([0-9])").fullmatch
_TARGET: Final = bytes((0x21, 0x22, *range(0x24, 0x7F)))
_HOST = rb"(?:\[([0-9A-Fa-f:.]+)\]|\[[vV][0-9A-Fa-f]+\.[A-Za-z0-9\-._~!$&'()*+,;=:]+\]|(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})*)"
_AUTHORITY = re.compile(_HOST + rb"(?::([0-9]{0,5}))?").fullmatch  # uri-host [ ":" port ], RFC 9110 section 7.2
_ABSOLUTE = re.compile(rb"https?://([^/?]*)([/?].*)?", re.IGNORECASE).fullmatch

_BARE_LF = re.compile(rb"(?<!\r)\n").search
_NOT_A_LINE = re.compile(rb"[\x00-\x0c\x0e-\x1f\x7f-\xff]").search
_METHODS: Final = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH"))
_VERSIONS: Final = {b"HTTP/1.1": 1, b"HTTP/1.0": 0}
_IDEMPOTENT: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))  # RFC 9110 section 9.2.2

# Connection options that name no further field to strip. Host, framing, Via and X-Forwarded-For are never stripped, though they
# be named: that would be an attack on what the upstream is told, not a wish about this hop.
_PLAIN_OPTIONS: Final = frozenset((b"close", b"keep-alive", b"upgrade", b"te"))

MAX_HOSTS: Final = 1024
ASK_EVERY: Final = 7  # One in so many heads alike is looked at for coming again: heads that never do need not pay for it.


class RequestHead:
    """One validated request head, rewritten for upstreams.

    `prefix` lacks the client's address and the blank line; `length` is the body's, or CHUNKED; `keep_alive` is the client's wish
    as to its own connection; `plain` says that a whole response to it may take the common path (no HEAD, upgrade, expectation or
    HTTP/1.0 kept alive), `bare` that the request itself may, having no body; `options` are the Connection field's, where they may
    name trailers too.
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
        "options",
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
        self.options: list[bytes] = []
        self.is_head = method == b"HEAD"
        self.idempotent = method in _IDEMPOTENT
        self.plain = not (upgrades or expects or self.is_head or (minor == 0 and keep_alive))
        self.bare = self.plain and length == 0

    def alike(self, prefix: bytes, size: int) -> "RequestHead":
        """Return a head that is understood as this one."""
        head = RequestHead(self.method, self.minor, prefix, self.length, self.keep_alive, self.upgrades, self.expects, size)
        head.options = self.options
        return head

    def __repr__(self) -> str:
        body = "chunked" if self.length == CHUNKED else f"{self.length} bytes"
        return f"<RequestHead {self.method.decode()} HTTP/1.{self.minor} {body} {'keep-alive' if self.keep_alive else 'close'}>"


class RequestReader(HeadReader[RequestHead]):
    """Reads request heads under the given limits and remembers them.

    `default_host` names this LB to upstreams when an HTTP/1.0 client names no host. Refusals: 400, 414, 417, 431, 501, 505.
    """

    def __init__(self, max_line: int, max_fields: int, default_host: bytes, capacity: int = 1024, max_head: int = 32768) -> None:
        super().__init__(REQUEST_KINDS, max_fields, capacity)
        self.max_line = max_line
        self._max_alike = min(MAX_REMEMBERED_HEAD, max_line, max_head)
        self._default_host = default_host
        self._hosts: dict[bytes, tuple[bytes, bytes]] = {}
        self._templates = Templates()
        self._asked = 0

    def take(self, raw: bytes) -> tuple[RequestHead, bytes]:
        """Return how the head `raw` is understood, and what is to be sent of it: the prefix of another head, if that is alike. Refusal."""
        head = self.recent.recall(raw)
        if head is None:
            found = self.alike(raw)
            if found is not None:
                return found
            head = self.read(raw)
        return head, head.prefix

    def alike(self, raw: bytes) -> tuple[RequestHead, bytes] | None:
        """Return as `take` what `raw` is, if a template knows; a head that comes again and again is remembered whole."""
        if len(raw) > self._max_alike:
            return None
        known = self._templates.known
        for template in known:
            prefix = template.prefix(raw)
            if prefix is not None:
                break
        else:
            return None
        model = template.model
        if template is not known[0]:
            self._templates.prefer(template)
        self._asked += 1
        if self._asked % ASK_EVERY == 0 and self.recent.returns(raw):
            self.recent.remember(raw, model.alike(prefix, len(raw)))
        return model, prefix

    def limit(self, max_line: int, max_fields: int, max_head: int) -> None:
        """Set the limits anew."""
        self.max_line, self.max_fields = max_line, max_fields
        self._max_alike = min(MAX_REMEMBERED_HEAD, max_line, max_head)
        self.recent.forget()
        self._templates.forget()

    def check_incomplete(self, data: bytes, max_head: int) -> None:
        """Refuse as early as possible what cannot become a head of up to `max_head` bytes any more. Refusal: 400, 414, 431, 501, 505."""
        line, newline, _ = data.partition(b"\n")
        if len(line.removesuffix(b"\r")) > self.max_line:
            raise Refusal(414, "request line too long")
        if not newline:
            if _NOT_A_LINE(line):
                raise Refusal(400, "invalid request line")
            return
        if _BARE_LF(data):
            raise Refusal(400, "line ends without a carriage return")
        self._request_line(line[:-1])
        if len(data) > max_head:
            raise Refusal(431, "request head too large")

    def _request_line(self, line: bytes) -> tuple[bytes, bytes, int]:
        """Return method, target and minor version."""
        if len(line) > self.max_line:
            raise Refusal(414, "request line too long")
        parts = line.split(b" ")
        if len(parts) == 3 and parts[0] in _METHODS and parts[2] in _VERSIONS and parts[1] and not parts[1].translate(None, _TARGET):
            return parts[0], parts[1], _VERSIONS[parts[2]]
        match = _REQUEST_LINE(line)
        if match is None:
            raise Refusal(400, "invalid request line")  # RFC 9112 section 3, and HTTP/0.9
        method, target, major, minor = match.groups()
        if major != b"1":
            raise Refusal(505, "HTTP version not supported")  # RFC 9110 section 15.6.6; also the preface of HTTP/2
        if method == b"CONNECT":
            raise Refusal(501, "CONNECT is not supported")  # RFC 9110 section 9.3.6: never a tunnel
        return method, target, min(int(minor), 1)

    def parse(self, raw: bytes) -> RequestHead:
        """Return the head that `raw` is, whatever is remembered. Refusal as `read`."""
        head = self._parse(raw)
        if len(raw) <= MAX_REMEMBERED_HEAD:
            self._templates.learn(raw, head, self.fields.kind_of)
        return head

    def _parse(self, raw: bytes) -> RequestHead:
        lines = split_lines(raw)
        if lines is None:
            line, *rest = raw[:-4].split(b"\r\n")
            self._request_line(line)
            raise Refusal(400, what_is_wrong(rest))
        method, target, minor = self._request_line(lines[0])
        forwarded, special = self.read_fields(lines)
        target, (before, after) = self._route(method, target, minor, special[HOST])
        lengths, encodings, connection, expectations = (
            special[CONTENT_LENGTH],
            special[TRANSFER_ENCODING],
            special[CONNECTION],
            special[EXPECT],
        )
        length, framing = (0, b"") if lengths is None and encodings is None else _framing(minor, lengths, encodings)
        keep_alive, upgrades, expects = minor == 1, False, False
        named: list[bytes] = []
        if connection is not None:
            options = token_list(connection)
            keep_alive = b"close" not in options and (minor == 1 or b"keep-alive" in options)
            upgrades = minor == 1 and length == 0 and b"upgrade" in options and _may_upgrade(special[UPGRADE])
            if upgrades:
                framing += b"Connection: upgrade\r\nUpgrade: " + b", ".join(special[UPGRADE] or ()) + b"\r\n"
            if not _PLAIN_OPTIONS.issuperset(options):
                forwarded = without_named(forwarded, named := options)
        if expectations is not None and (expects := _expects(minor, expectations)):
            framing += b"Expect: 100-continue\r\n"
        if (hops := special[MAX_FORWARDS]) is not None:
            forwarded.append(b"Max-Forwards: " + _one_hop_less(method, hops))
        forwarded.append(framing)  # ends in CRLF itself, or is empty: joined it closes the ordinary fields
        via, trail = special[VIA], special[FORWARDED_FOR]
        added = _ADDED if via is None and trail is None else _appended(via, trail)
        prefix = b"".join((method, b" ", target, before, b"\r\n".join(forwarded), after, added))
        head = RequestHead(method, minor, prefix, length, keep_alive, upgrades, expects, len(raw))
        head.options = named
        return head

    def _route(self, method: bytes, target: bytes, minor: int, hosts: list[bytes] | None) -> tuple[bytes, tuple[bytes, bytes]]:
        """Return the target in origin-form (or `*`) and what stands for the host. RFC 9112 sections 3.2 and 3.3."""
        if hosts is None:
            if minor:
                raise Refusal(400, "Host is missing")
            host = self._default_host
        elif len(hosts) > 1:
            raise Refusal(400, "more than one Host")
        else:
            host = hosts[0]
        around = self._hosts.get(host) or self._learn_host(host)
        if target[0] == 0x2F:  # "/"
            return target, around
        if target == b"*":
            if method != b"OPTIONS":
                raise Refusal(400, "the target * is for OPTIONS only")  # RFC 9112 section 3.2.4
            return target, around
        absolute = _ABSOLUTE(target)
        if absolute is None or not (host := absolute[1]) or not _is_authority(host):
            raise Refusal(400, "invalid request target")  # userinfo included: RFC 9110 section 4.2.4
        path = absolute[2] or (b"*" if method == b"OPTIONS" else b"/")
        return (path if path[:1] != b"?" else b"/" + path), self._learn_host(host)

    def _learn_host(self, host: bytes) -> tuple[bytes, bytes]:
        """Return what stands before and after the ordinary fields of requests to a host. Refusal 400: it is none."""
        if not _is_authority(host):
            raise Refusal(400, "invalid Host")
        if len(self._hosts) >= MAX_HOSTS:
            self._hosts.clear()
        around = b" HTTP/1.1\r\nHost: %b\r\n" % host, b"X-Forwarded-Proto: http\r\nX-Forwarded-Host: %b\r\n" % host
        self._hosts[host] = around
        return around


def _is_authority(host: bytes) -> bool:
    """Say whether this is a host, maybe with a port, or nothing at all, as Host may be (RFC 9110 section 7.2)."""
    match = _AUTHORITY(host)
    if match is None or host[:1] == b":":
        return False
    address, port = match.groups()
    if address is not None:
        try:
            IPv6Address(address.decode())
        except AddressValueError:
            return False
    return not port or int(port) <= 65535


def _framing(minor: int, lengths: list[bytes] | None, encodings: list[bytes] | None) -> tuple[int, bytes]:
    """Return the length (or CHUNKED) of a body that was announced and the field that says so upstream. RFC 9112 sections 6.1 to 6.3."""
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
    length = content_length(lengths or [])
    return length, b"Content-Length: %d\r\n" % length


def _may_upgrade(protocols: list[bytes] | None) -> bool:
    """Say whether an upgrade is passed on: not to HTTP/2 in clear text, which would tunnel requests past all checks."""
    return protocols is not None and not any(each.strip().lower().startswith(b"h2c") for each in b",".join(protocols).split(b","))


def _expects(minor: int, values: list[bytes]) -> bool:
    """Say whether the client awaits 100 (Continue), RFC 9110 section 10.1.1; what an HTTP/1.0 client expects is ignored."""
    if minor and (len(values) > 1 or values[0].lower() != b"100-continue"):
        raise Refusal(417, "unknown expectation")
    return minor == 1


def _one_hop_less(method: bytes, values: list[bytes]) -> bytes:
    """Return what Max-Forwards says to the next hop; other methods than TRACE and OPTIONS have no use for it (RFC 9110 section 7.6.2)."""
    if method not in (b"OPTIONS", b"TRACE"):
        return b", ".join(values)
    if len(values) != 1 or not values[0].isdigit():
        raise Refusal(400, "invalid Max-Forwards")
    if len(values[0]) > 9:
        return b"999999999"  # More hops than there are.
    if int(values[0]) == 0:
        # The request ends here, and a load balancer has nothing of its own to say to it.
        raise Refusal(501, "this request may not be forwarded")
    return b"%d" % (int(values[0]) - 1)


_ADDED: Final = b"Via: 1.1 comet\r\nX-Forwarded-For: "


def _appended(via: list[bytes] | None, trail: list[bytes] | None) -> bytes:
    """Return Via and the beginning of X-Forwarded-For with us at the end of either (RFC 9110 section 7.6.3)."""
    return b"Via: %b\r\nX-Forwarded-For: %b" % (b", ".join((*(via or ()), b"1.1 comet")), b", ".join((*(trail or ()), b"")))
