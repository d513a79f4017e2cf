"""Parses request heads: the bytes from a client become a head for upstreams, or a refusal.

It reads RFC 9112 sections 2, 3, 6 and 9 strictly; each refusal names its section. The forwarded head is generated from
the parsed one: one request line, normalized fields, one framing, so that no upstream can parse it differently.

The result depends only on the bytes and the settings, and is cached by the exact bytes: a repeated head costs one
dictionary lookup. The address in X-Forwarded-For, which differs between clients, is not part of it: it comes last and
is appended.

Pure: no I/O, no clock.
"""

import re
from ipaddress import AddressValueError, IPv6Address
from typing import Final

from lb.http.fields import (
    CONNECTION,
    CONTENT_LENGTH,
    EXPECT,
    FORWARDED_FOR,
    FORWARDED_HOST,
    FORWARDED_PROTO,
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
    as_written,
    content_length,
    describe_invalid,
    split_lines,
    token_list,
    without_named,
)
from lb.http.head_templates import HeadTemplates
from lb.http.request_head import CHUNKED, RequestHead

# Request target: visible ASCII without a fragment (RFC 9112 section 3.2). Wider than the URI grammar, like browsers.
_REQUEST_LINE = re.compile(rb"(" + TOKEN + rb") ([\x21\x22\x24-\x7e]+) HTTP/([0-9])\.([0-9])").fullmatch
_TARGET: Final = bytes((0x21, 0x22, *range(0x24, 0x7F)))
_HOST = (
    rb"(?:\[([0-9A-Fa-f:.]+)\]|\[[vV][0-9A-Fa-f]+\.[A-Za-z0-9\-._~!$&'()*+,;=:]+\]"
    rb"|(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})*)"
)
_AUTHORITY = re.compile(_HOST + rb"(?::([0-9]{0,5}))?").fullmatch  # uri-host [ ":" port ], RFC 9110 section 7.2
_ABSOLUTE = re.compile(rb"https?://([^/?]*)([/?].*)?", re.IGNORECASE).fullmatch

_BARE_LF = re.compile(rb"(?<!\r)\n").search
_NOT_A_LINE = re.compile(rb"[\x00-\x0c\x0e-\x1f\x7f-\xff]").search
_METHODS: Final = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH"))
_VERSIONS: Final = {b"HTTP/1.1": 1, b"HTTP/1.0": 0}

_FIELDLESS_OPTIONS: Final = frozenset((b"close", b"keep-alive", b"upgrade", b"te"))
"""Connection options that name no further field to remove.

Host, framing, Via and X-Forwarded-For are never removed, even if named: a client that names them does not describe this
hop, it attacks the information for the upstream.
"""

MAX_HOSTS: Final = 1024

SAMPLE_INTERVAL: Final = 7
"""Only each N-th head that matches a template is checked for repetition, so that heads that never repeat cost less."""


class RequestReader(HeadReader[RequestHead]):
    """Parses request heads within the given limits and caches them.

    `default_host` is the Host for upstreams if an HTTP/1.0 client sends none. Refusals: 400, 414, 417, 431, 501, 505.
    """

    def __init__(
        self,
        max_line: int,
        max_fields: int,
        default_host: bytes,
        capacity: int = 1024,
        max_head: int = 32768,
        kinds: dict[bytes, int] = REQUEST_KINDS,
        scheme: bytes = b"http",
    ) -> None:
        super().__init__(kinds, max_fields, capacity)
        self.max_line = max_line
        self._max_template_head = min(MAX_REMEMBERED_HEAD, max_line, max_head)
        self._default_host = default_host
        self._scheme = scheme
        self._hosts: dict[bytes, tuple[bytes, bytes]] = {}
        self._templates = HeadTemplates()
        self._template_hits = 0

    def head_and_prefix(self, raw: bytes) -> tuple[RequestHead, bytes]:
        """Return the head that `raw` means and the prefix to send; raise Refusal.

        The head may be that of an earlier request, if only the prefix differs.
        """
        head = self.recent.recall(raw)
        if head is None:
            found = self.match_template(raw)
            if found is not None:
                return found
            head = self.read(raw)
        return head, head.prefix

    def match_template(self, raw: bytes) -> tuple[RequestHead, bytes] | None:
        """Return what `head_and_prefix` returns if a template matches, else None; cache a head that repeats."""
        if len(raw) > self._max_template_head:
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
        self._template_hits += 1
        if self._template_hits % SAMPLE_INTERVAL == 0 and self.recent.was_seen(raw):
            self.recent.remember(raw, model.with_prefix(prefix, len(raw)))
        return model, prefix

    def set_limits(self, max_line: int, max_fields: int, max_head: int) -> None:
        """Change the limits and drop what was cached under the previous ones."""
        self.max_line, self.max_fields = max_line, max_fields
        self._max_template_head = min(MAX_REMEMBERED_HEAD, max_line, max_head)
        self.recent.forget()
        self._templates.forget()

    def check_incomplete(self, data: bytes, max_head: int) -> None:
        """Raise Refusal (400, 414, 431, 501, 505) as soon as `data` cannot become a head of up to `max_head` bytes."""
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
        if (
            len(parts) == 3
            and parts[0] in _METHODS
            and parts[2] in _VERSIONS
            and parts[1]
            and not parts[1].translate(None, _TARGET)
        ):
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
        """Return the head in `raw` without using the cache; raise Refusal like `read`."""
        head = self._parse(raw)
        if len(raw) <= MAX_REMEMBERED_HEAD:
            self._templates.learn(raw, head, self.fields.kind_of)
        return head

    def _parse(self, raw: bytes) -> RequestHead:
        lines = split_lines(raw)
        if lines is None:
            line, *rest = raw[:-4].split(b"\r\n")
            self._request_line(line)
            raise Refusal(400, describe_invalid(rest))
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
                option = as_written(connection, b"upgrade")
                framing += (
                    b"Connection: " + option + b"\r\nUpgrade: " + b", ".join(_nonempty(special[UPGRADE])) + b"\r\n"
                )
            if not _FIELDLESS_OPTIONS.issuperset(options):
                forwarded = without_named(forwarded, named := options)
        if expectations is not None and (expects := _expects(minor, expectations)):
            framing += b"Expect: 100-continue\r\n"
        if (hops := special[MAX_FORWARDS]) is not None:
            forwarded.append(b"Max-Forwards: " + _decremented(method, hops))
        forwarded.append(framing)  # empty, or ends in CRLF: as the last part of the join it ends the ordinary fields
        via, trail = special[VIA], special[FORWARDED_FOR]
        protos, said_hosts = special[FORWARDED_PROTO], special[FORWARDED_HOST]
        if protos is not None or said_hosts is not None:
            after = _believed(after, protos, said_hosts)
        added = _ADDED if via is None and trail is None else _appended(via, trail)
        prefix = b"".join((method, b" ", target, before, b"\r\n".join(forwarded), after, added))
        head = RequestHead(method, minor, prefix, length, keep_alive, upgrades, expects, len(raw))
        head.options = named
        return head

    def _route(
        self, method: bytes, target: bytes, minor: int, hosts: list[bytes] | None
    ) -> tuple[bytes, tuple[bytes, bytes]]:
        """Return the target in origin-form (or `*`) and what `_learn_host` returns (RFC 9112 sections 3.2 and 3.3)."""
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
        """Return what precedes and follows the ordinary fields of requests to a host; raise Refusal 400."""
        if not _is_authority(host):
            raise Refusal(400, "invalid Host")
        if len(self._hosts) >= MAX_HOSTS:
            self._hosts.clear()
        around = (
            b" HTTP/1.1\r\nHost: %b\r\n" % host,
            b"X-Forwarded-Proto: %b\r\nX-Forwarded-Host: %b\r\n" % (self._scheme, host),
        )
        self._hosts[host] = around
        return around


def _is_authority(host: bytes) -> bool:
    """Say whether this is a host with an optional port, or empty, as Host may be (RFC 9110 section 7.2)."""
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
    """Return the length (or CHUNKED) of an announced body and its framing field (RFC 9112 sections 6.1 to 6.3)."""
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
    """Say whether an upgrade is forwarded: not one to h2c, which would tunnel requests past all checks."""
    names = [name for each in b",".join(protocols or ()).lower().split(b",") if (name := each.strip())]
    return bool(names) and not any(name.startswith(b"h2c") for name in names)


def _expects(minor: int, values: list[bytes]) -> bool:
    """Say whether the client waits for 100 (Continue), RFC 9110 section 10.1.1.

    An expectation of an HTTP/1.0 client is ignored. An empty list is valid and means no expectation.
    """
    expected = _nonempty(values)
    if minor and expected and (len(expected) > 1 or expected[0].lower() != b"100-continue"):
        raise Refusal(417, "unknown expectation")
    return minor == 1 and bool(expected)


def _decremented(method: bytes, values: list[bytes]) -> bytes:
    """Return Max-Forwards for the next hop; only TRACE and OPTIONS use it (RFC 9110 section 7.6.2)."""
    if method not in (b"OPTIONS", b"TRACE"):
        return b", ".join(values)
    if len(values) != 1 or not values[0].isdigit():
        raise Refusal(400, "invalid Max-Forwards")
    if len(values[0]) > 9:
        return b"999999999"  # More hops than exist.
    if int(values[0]) == 0:
        # The request ends here, and a load balancer has no response of its own to it.
        raise Refusal(501, "this request may not be forwarded")
    return b"%d" % (int(values[0]) - 1)


def _believed(after: bytes, protos: list[bytes] | None, hosts: list[bytes] | None) -> bytes:
    """Return the fields about the client's request, with what a trusted proxy says in place of what is seen here."""
    proto, host, _ = after.split(b"\r\n")
    if said := b", ".join(_nonempty(protos)):
        proto = b"X-Forwarded-Proto: " + said
    if said := b", ".join(_nonempty(hosts)):
        host = b"X-Forwarded-Host: " + said
    return b"%b\r\n%b\r\n" % (proto, host)


_ADDED: Final = b"Via: 1.1 comet\r\nX-Forwarded-For: "


def _appended(via: list[bytes] | None, trail: list[bytes] | None) -> bytes:
    """Return Via and the beginning of X-Forwarded-For with this proxy appended (RFC 9110 section 7.6.3)."""
    return b"Via: %b\r\nX-Forwarded-For: %b" % (
        b", ".join((*_nonempty(via), b"1.1 comet")),
        b", ".join((*_nonempty(trail), b"")),
    )


def _nonempty(values: list[bytes] | None) -> list[bytes]:
    return [value for value in values or () if value]
