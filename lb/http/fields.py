"""Parses header field lines by the grammar that requests and responses share.

It is strict on purpose, because framing is a matter of security (RFC 9112 section 11): a line ends in one CRLF, a name
is a token, nothing is between name and colon, and a value contains no control character. An invalid field in a request
is refused, never repaired: a proxy that repairs it differently from the next hop enables request smuggling. In
responses `lb.http.response` repairs some invalid fields.

An ordinary field becomes the line to forward (kind FORWARD). Of a field that the proxy must understand, the value is
kept by kind. Regular expressions cost several times as much as the check for the common case: one pass over the whole
head counts the control characters, which must be the line ends alone, and a dictionary contains the names already found
to be tokens. Only other lines are matched against the grammar.

Pure: no I/O, no clock.
"""

import re
from abc import ABC, abstractmethod
from typing import Final, Generic, TypeVar

from fault_rules import COUNTS_FIELD

FORWARD: Final = 0
DROP: Final = 1
HOST: Final = 2
CONTENT_LENGTH: Final = 3
TRANSFER_ENCODING: Final = 4
CONNECTION: Final = 5
UPGRADE: Final = 6
EXPECT: Final = 7
FORWARDED_FOR: Final = 8
VIA: Final = 9
DATE: Final = 10
FULL: Final = 11
MAX_FORWARDS: Final = 12
PROXY_AUTHENTICATE: Final = 13
FORWARDED_PROTO: Final = 14
FORWARDED_HOST: Final = 15
INJECTED: Final = 16
KINDS: Final = 17

TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_PADDED_FIELD = re.compile(rb"(" + TOKEN + rb")[\t ]*:([\t\x20-\x7e\x80-\xff]*)").fullmatch
_FIELD = re.compile(
    rb"(" + TOKEN + rb"):([\t\x20-\x7e\x80-\xff]*)"
).fullmatch  # RFC 9112 section 5, RFC 9110 section 5.5
NO_CONTROLS: Final = bytes((0x09, *range(0x20, 0x7F), *range(0x80, 0x100)))
_DIGITS = re.compile(rb"[0-9]{1,19}").fullmatch
_TOKEN_LIST = re.compile(rb"[ \t]*(?:" + TOKEN + rb")?[ \t]*(?:,[ \t]*(?:" + TOKEN + rb")?[ \t]*)*").fullmatch

_HOP: Final = (
    b"keep-alive",
    b"proxy-connection",
    b"te",
    b"http2-settings",
    b"proxy-authorization",
    b"proxy-authenticate",
)
"""Hop-by-hop fields (RFC 9110 section 7.6.1) that are never forwarded.

HTTP2-Settings serves the h2c upgrade alone. Proxy-Authorization and Proxy-Authenticate are between a client and its own
proxy (RFC 9110 section 11.7).
"""

_COMMON: Final = {
    b"content-length": CONTENT_LENGTH,
    b"transfer-encoding": TRANSFER_ENCODING,
    b"connection": CONNECTION,
    b"upgrade": UPGRADE,
    b"via": VIA,
    **dict.fromkeys(_HOP, DROP),
}

FORWARDING: Final = {
    b"x-forwarded-for": FORWARDED_FOR,
    b"x-forwarded": DROP,
    b"forwarded": DROP,
    b"x-original-forwarded-for": DROP,
    b"x-real-ip": DROP,
    b"x-scheme": DROP,
    b"x-url-scheme": DROP,
    b"front-end-https": DROP,
    b"script-name": DROP,
    b"path-info": DROP,
}
"""Fields by which a proxy describes a client and its request.

Any client can send them, and services trust them. So only X-Forwarded-For is forwarded, with an address appended, and
the fields that the load balancer sets. gunicorn takes SCRIPT_NAME and PATH_INFO from fields of these names.
"""

FORWARDING_PREFIX: Final = b"x-forwarded-"
"""All other fields with this prefix have the kind DROP."""

REQUEST_KINDS: Final = {**_COMMON, **FORWARDING, b"host": HOST, b"expect": EXPECT, b"max-forwards": MAX_FORWARDS}
UNTRUSTED_REQUEST_KINDS: Final = {**REQUEST_KINDS, b"x-forwarded-for": DROP}
"""The kinds for peers that are no trusted proxies, where there are trusted ones."""

TRUSTED_REQUEST_KINDS: Final = {
    **REQUEST_KINDS,
    **dict.fromkeys(FORWARDING, FORWARD),
    b"x-forwarded-for": FORWARDED_FOR,
    b"x-forwarded-proto": FORWARDED_PROTO,
    b"x-forwarded-host": FORWARDED_HOST,
    b"script-name": DROP,
    b"path-info": DROP,
}
"""The kinds for trusted proxies: what they say is forwarded, in the usual form of its name alone."""

RESPONSE_KINDS: Final = {
    **_COMMON,
    b"date": DATE,
    b"proxy-authenticate": PROXY_AUTHENTICATE,
    b"x-comet-full": FULL,
    b"x-comet-injected": INJECTED,
    b"x-comet-worker": DROP,
    b"x-comet-lb": DROP,
    COUNTS_FIELD.lower().encode(): DROP,
}

REQUIRED: Final = {206: b"content-range", 401: b"www-authenticate", 405: b"allow", 416: b"content-range"}
"""The field that a response of this status must have (RFC 9110 section 15): no Connection option removes it."""

# Fields not allowed as trailers: framing, routing, request modifiers, authentication, content (RFC 9110 section 6.5.1).
_NOT_IN_TRAILERS = re.compile(
    rb"(?:age|authorization|cache-control|content-.*|cookie|date|expect|expires|forwarded|host|if-.*|location|max-forwards|pragma"
    rb"|proxy-.*|range|retry-after|set-cookie|te|trailer|vary|warning|www-authenticate|x-forwarded-.*|x-comet-.*)",
    re.IGNORECASE,
).fullmatch

_SEPARATOR = re.compile(rb"[^0-9a-z]")

MAX_NAMES: Final = 1024
MAX_REMEMBERED_HEAD: Final = 4096
"""Bytes of a head above which it is not cached."""

_MAX_SEEN: Final = 4096
"""Keys that a cache remembers as seen once."""

MAX_LENGTH: Final = (1 << 63) - 1


class Refusal(Exception):
    """Refuses input: `status` is that of the response, `reason` its text for the sender, `data` the offending bytes."""

    def __init__(self, status: int, reason: str, data: bytes = b"") -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.data = data


Value = TypeVar("Value")


class Recent(Generic[Value]):
    """A bounded cache with two generations, so that neither a hit nor a miss has to maintain an order.

    A caller may begin with `find`; after a miss there, `recall` also searches the older generation. Only a key that
    `was_seen` reports as seen before is worth storing: keys that occur once would evict the others, and storing
    them costs more than parsing them again.
    """

    __slots__ = ("_capacity", "_found", "_key", "_old", "_seen", "_young")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._seen: set[int] = set()  # hashes of keys seen once
        self._young: dict[bytes, Value] = {}
        self._old: dict[bytes, Value] = {}
        self._key = b""  # what `find` found last
        self._found: Value | None = None

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def find(self, key: bytes) -> Value | None:
        """Return the value of `key` from the younger generation, or None.

        A key that was also the last one costs a comparison; a lookup costs the hash of all its bytes.
        """
        if key == self._key:
            return self._found
        value = self._young.get(key)
        if value is not None:
            self._key, self._found = key, value
        return value

    def recall(self, key: bytes) -> Value | None:
        """Return the value of `key` and move it to the younger generation, or return None."""
        value = self._young.get(key)
        if value is None and self._old and (value := self._old.get(key)) is not None:
            self.remember(key, value)
        return value

    def was_seen(self, key: bytes) -> bool:
        """Say whether `key` was seen before: then it is worth storing."""
        code = hash(key)
        if code in self._seen:
            return True
        if len(self._seen) >= _MAX_SEEN:
            self._seen.clear()
        self._seen.add(code)
        return False

    def remember(self, key: bytes, value: Value) -> None:
        """Store a pair; a full younger generation becomes the older one, which is dropped."""
        if len(self._young) >= self._capacity:
            self._old = self._young
            self._young = {}
        self._young[key] = value

    def forget(self) -> None:
        """Drop all entries."""
        self._key, self._found = b"", None
        self._young.clear()
        self._old.clear()


def split_lines(raw: bytes) -> list[bytes] | None:
    """Return the lines of a head without their CRLFs; None if it contains a control character or a bare CR or LF."""
    lines = raw.split(b"\r\n")
    return lines if len(raw.translate(None, NO_CONTROLS)) == 2 * len(lines) - 2 else None


class FieldReader:
    """Reads the fields of one direction and caches the kind of each name, in the case in which it was sent.

    In responses white space before the colon is removed, as RFC 9112 section 5.1 demands of a proxy. In requests every
    field is dropped that CGI and its successors (WSGI, Rack, PHP) cannot distinguish from one that the load balancer
    interprets or sets, for example X_Forwarded_Proto.
    """

    __slots__ = ("_believes", "_kinds", "_names", "_of_requests")

    def __init__(self, kinds: dict[bytes, int], of_requests: bool = True) -> None:
        self._kinds = kinds
        self._of_requests = of_requests
        self._believes = kinds.get(b"forwarded") == FORWARD
        self._names: dict[bytes, int] = {}

    def read(self, lines: list[bytes]) -> tuple[list[bytes], list[list[bytes] | None]]:
        """Return which of `lines` (from `split_lines`) to forward, and the values of the others by kind.

        Raise Refusal 400 for an invalid field.
        """
        forwarded: list[bytes] = []
        special: list[list[bytes] | None] = [None] * KINDS
        kind_of = self._names.get
        for line in lines:
            name, colon, value = line.partition(b": ")
            kind = kind_of(name)
            if kind is None or not colon or value.strip(b" \t") is not value:
                line, kind, value = self._read_unusual(line)
            if kind == FORWARD:
                forwarded.append(line)
            elif (values := special[kind]) is None:
                special[kind] = [value]
            else:
                values.append(value)
        return forwarded, special

    def _read_unusual(self, line: bytes) -> tuple[bytes, int, bytes]:
        """Return the normalized line, the kind and the value of a field that is new or has an unusual form."""
        match = _FIELD(line) if self._of_requests else _PADDED_FIELD(line)
        if match is None:
            raise Refusal(400, describe_invalid([line]), line)
        name, value = match[1], match[2].strip(b" \t")
        return name + b": " + value, self.kind_of(name), value

    def kind_of(self, name: bytes) -> int:
        """Return the kind of the field with this name, a token in any case."""
        kind = self._names.get(name)
        return self._learn(name) if kind is None else kind

    def _learn(self, name: bytes) -> int:
        if len(self._names) >= MAX_NAMES:
            self._names.clear()
        lower = name.lower()
        kind = self._kinds.get(lower, FORWARD)
        if kind == FORWARD and self._of_requests:
            normalized = _SEPARATOR.sub(b"-", lower)
            if not (self._believes and normalized == lower) and (
                normalized in self._kinds
                or (normalized == b"x-request-id" != lower)
                or normalized.startswith(FORWARDING_PREFIX)
            ):
                kind = DROP
        self._names[name] = kind
        return kind

    def trailers(self, lines: list[bytes], options: list[bytes]) -> list[bytes]:
        """Return the trailer fields that may be forwarded; `options` are the connection options of their head.

        Raise Refusal 400 for an invalid field.
        """
        if not lines:
            return lines
        if split_lines(b"\r\n".join(lines)) != lines:
            raise Refusal(400, "invalid trailer")
        kept, special = self.read(lines)
        if special[CONTENT_LENGTH] or special[TRANSFER_ENCODING]:
            raise Refusal(400, "framing field in a trailer")
        return [line for line in without_named(kept, options) if _NOT_IN_TRAILERS(line[: line.index(b":")]) is None]


def describe_invalid(lines: list[bytes]) -> str:
    """Return what is wrong with the first of `lines` that is not a field."""
    line = next((line for line in lines if _FIELD(line) is None), b"")
    if line[:1] in (b" ", b"\t"):
        return "folded header line"  # obs-fold, RFC 9112 section 5.2
    name, colon, _ = line.partition(b":")
    if not colon:
        return "header line without a colon"
    if name.rstrip(b" \t") != name:
        return "space before the colon of a header field"  # RFC 9112 section 5.1
    return "invalid header field"


def content_length(values: list[bytes]) -> int:
    """Return the length in the one Content-Length field; raise Refusal 400 (RFC 9112 section 6.3, items 4 and 5).

    The RFC allows accepting several equal values, but no legitimate client sends them.
    """
    if len(values) != 1 or _DIGITS(values[0]) is None or (length := int(values[0])) > MAX_LENGTH:
        raise Refusal(400, "invalid Content-Length")
    return length


def token_list(values: list[bytes]) -> list[bytes]:
    """Return the non-empty lower-case members of a list of tokens (RFC 9110 section 5.6.1); raise Refusal 400."""
    joined = b",".join(values)
    if _TOKEN_LIST(joined) is None:
        raise Refusal(400, "invalid Connection or Transfer-Encoding")
    return [member for each in joined.lower().split(b",") if (member := each.strip(b" \t"))]


def as_written(values: list[bytes], option: bytes) -> bytes:
    """Return a connection option in the case in which it was sent, because some peers compare it with the case."""
    return next(
        (each.strip(b" \t") for each in b",".join(values).split(b",") if each.strip(b" \t").lower() == option), option
    )


def without_named(lines: list[bytes], options: list[bytes]) -> list[bytes]:
    """Return `lines` without the fields that the Connection field names (RFC 9110 section 7.6.1)."""
    return [line for line in lines if line[: line.index(b":")].lower() not in options]


class HeadReader(ABC, Generic[Value]):
    """Base class of the readers of both directions: the fields, their limit, and the cache of whole heads."""

    def __init__(self, kinds: dict[bytes, int], max_fields: int, capacity: int, of_requests: bool = True) -> None:
        self.max_fields = max_fields
        self.fields = FieldReader(kinds, of_requests)
        self.recent: Recent[Value] = Recent(capacity)

    def read(self, raw: bytes) -> Value:
        """Return the head in `raw` (with its blank line); raise Refusal if it is malformed or not supported."""
        head = self.recent.recall(raw)
        if head is None:
            head = self.parse(raw)
            if len(raw) <= MAX_REMEMBERED_HEAD and self.recent.was_seen(raw):
                self.recent.remember(raw, head)
        return head

    @abstractmethod
    def parse(self, raw: bytes) -> Value:
        """Return the head in `raw` without using the cache; raise Refusal like `read`."""

    def read_fields(self, lines: list[bytes]) -> tuple[list[bytes], list[list[bytes] | None]]:
        """Read the fields in the lines of a head (from `split_lines`); raise Refusal 431 if there are too many."""
        found = self.fields.read(lines[1:-2])
        if len(lines) - 3 > self.max_fields:
            raise Refusal(431, "too many header fields")
        return found

    def trailers(self, lines: list[bytes], options: list[bytes]) -> list[bytes]:
        """Return the trailer fields that may be forwarded; `options` are the connection options; raise Refusal 400."""
        return self.fields.trailers(lines, options)
