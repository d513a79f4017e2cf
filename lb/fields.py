"""Header field lines: the grammar that both requests and responses obey, and a memory of lines already judged.

Strict on purpose (RFC 9112 section 11: framing is security): one CRLF ends a line, a name is a token, nothing stands between
name and colon, a value holds no control character. What fails is refused, never repaired, because whoever repairs it otherwise
than the next hop does has opened the door to request smuggling.

A field is read to a pair (kind, bytes): of an ordinary field FORWARD and the line to send on, of one that the proxy must
understand its kind and the value. Clients and workers repeat themselves, so a line once read is remembered.

Pure: no I/O, no clock.
"""

import re
from typing import Final, Generic, TypeVar

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
KINDS: Final = 11

Field = tuple[int, bytes]

TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_FIELD = re.compile(rb"(" + TOKEN + rb"):([\t\x20-\x7e\x80-\xff]*)").fullmatch  # RFC 9112 section 5, RFC 9110 section 5.5
_DIGITS = re.compile(rb"[0-9]{1,19}").fullmatch
_TOKEN_LIST = re.compile(rb"[ \t]*(?:" + TOKEN + rb")?[ \t]*(?:,[ \t]*(?:" + TOKEN + rb")?[ \t]*)*").fullmatch

# Hop-by-hop fields (RFC 9110 section 7.6.1) that end here whatever they say. HTTP2-Settings only serves the h2c upgrade, and
# Proxy-Authorization and Proxy-Authenticate are between a client and its own proxy (RFC 9110 section 11.7).
_HOP: Final = (b"keep-alive", b"proxy-connection", b"te", b"http2-settings", b"proxy-authorization", b"proxy-authenticate")

_COMMON: Final = {
    b"content-length": CONTENT_LENGTH,
    b"transfer-encoding": TRANSFER_ENCODING,
    b"connection": CONNECTION,
    b"upgrade": UPGRADE,
    b"via": VIA,
    **dict.fromkeys(_HOP, DROP),
}
REQUEST_KINDS: Final = {
    **_COMMON,
    b"host": HOST,
    b"expect": EXPECT,
    b"x-forwarded-for": FORWARDED_FOR,
    b"x-forwarded-proto": DROP,
    b"x-forwarded-host": DROP,
}
RESPONSE_KINDS: Final = {**_COMMON, b"date": DATE, b"x-comet-worker": DROP, b"x-comet-lb": DROP}

# Fields that must not come as trailers: framing, routing, request modifiers, authentication, content (RFC 9110 section 6.5.1).
_NOT_IN_TRAILERS = re.compile(
    rb"(?:age|authorization|cache-control|content-.*|cookie|date|expect|expires|forwarded|host|if-.*|location|max-forwards|pragma"
    rb"|proxy-.*|range|retry-after|set-cookie|te|trailer|vary|warning|www-authenticate|x-forwarded-.*|x-comet-.*)",
    re.IGNORECASE,
).fullmatch

MAX_REMEMBERED_LINE: Final = 512
MAX_LENGTH: Final = (1 << 63) - 1


class Refusal(Exception):
    """What arrived is refused: `status` is the answer's code, `reason` its text for the sender."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


Value = TypeVar("Value")


class Recent(Generic[Value]):
    """A bounded memory of what was used recently: two generations, so that neither a hit nor a miss keeps any order.

    `young` is open for the caller's own lookup; after a miss there `recall` looks at the older generation.
    """

    __slots__ = ("_capacity", "_old", "young")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self.young: dict[bytes, Value] = {}
        self._old: dict[bytes, Value] = {}

    def __len__(self) -> int:
        return len(self.young) + len(self._old)

    def recall(self, key: bytes) -> Value | None:
        """Return the value of `key`, made young again, or None."""
        value = self.young.get(key)
        if value is None and (value := self._old.get(key)) is not None:
            self.remember(key, value)
        return value

    def remember(self, key: bytes, value: Value) -> None:
        """Store a pair; what was not used since the last change of generations is forgotten."""
        if len(self.young) >= self._capacity:
            self._old = self.young
            self.young = {}
        self.young[key] = value

    def forget(self) -> None:
        """Drop all."""
        self.young.clear()
        self._old.clear()


class FieldReader:
    """Reads field lines of one direction and remembers them."""

    __slots__ = ("_kinds", "recent")

    def __init__(self, kinds: dict[bytes, int], capacity: int = 1024) -> None:
        self._kinds = kinds
        self.recent: Recent[Field] = Recent(capacity)

    def read(self, line: bytes) -> Field:
        """Return the field of `line` (without its CRLF). Refusal 400: it is none."""
        field = self.recent.recall(line)
        if field is None:
            match = _FIELD(line)
            if match is None:
                raise Refusal(400, _what_is_wrong(line))
            name, value = match[1], match[2].strip(b" \t")
            kind = self._kinds.get(name.lower(), FORWARD)
            field = (FORWARD, name + b": " + value) if kind is FORWARD else (kind, value)
            if len(line) <= MAX_REMEMBERED_LINE:
                self.recent.remember(line, field)
        return field

    def trailers(self, lines: list[bytes]) -> list[bytes]:
        """Return the trailer fields that may be sent on. Refusal 400: a line is no field."""
        kept = [line for kind, line in map(self.read, lines) if kind is FORWARD]
        return [line for line in kept if _NOT_IN_TRAILERS(line[: line.index(b":")]) is None]


def _what_is_wrong(line: bytes) -> str:
    if line[:1] in (b" ", b"\t"):
        return "folded header line"  # obs-fold, RFC 9112 section 5.2
    name, colon, _ = line.partition(b":")
    if not colon:
        return "header line without a colon"
    if name.rstrip(b" \t") != name:
        return "space before the colon of a header field"  # RFC 9112 section 5.1
    return "invalid header field"


def content_length(values: list[bytes]) -> int:
    """Return the length that exactly one Content-Length field states. Refusal 400 (RFC 9112 section 6.3, items 4 and 5).

    Several equal values may be accepted by the RFC; nobody who means well sends them.
    """
    if len(values) != 1 or _DIGITS(values[0]) is None or (length := int(values[0])) > MAX_LENGTH:
        raise Refusal(400, "invalid Content-Length")
    return length


def token_list(values: list[bytes]) -> list[bytes]:
    """Return the lower-case members of a list of tokens, empty ones left out (RFC 9110 section 5.6.1). Refusal 400."""
    joined = b",".join(values)
    if _TOKEN_LIST(joined) is None:
        raise Refusal(400, "invalid Connection or Transfer-Encoding")
    return [member for each in joined.lower().split(b",") if (member := each.strip(b" \t"))]


def without_named(lines: list[bytes], options: list[bytes]) -> list[bytes]:
    """Return `lines` less the fields that a Connection field names (RFC 9110 section 7.6.1)."""
    return [line for line in lines if line[: line.index(b":")].lower() not in options]
