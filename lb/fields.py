"""Header field lines: the grammar that both requests and responses obey.

Strict on purpose (RFC 9112 section 11: framing is security): one CRLF ends a line, a name is a token, nothing stands between
name and colon, a value holds no control character. What fails is refused, never repaired, because whoever repairs it otherwise
than the next hop does has opened the door to request smuggling.

An ordinary field becomes the line to send on (kind FORWARD), of one that the proxy must understand the value is kept by kind.
The common case is judged without regular expressions, which cost several times as much: no control character but the line ends,
counted in one pass over the whole head, and a name that was found to be a token before. The rest goes through the grammar.

Pure: no I/O, no clock.
"""

import re
from abc import ABC, abstractmethod
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
FULL: Final = 11
MAX_FORWARDS: Final = 12
KINDS: Final = 13

TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_FIELD = re.compile(rb"(" + TOKEN + rb"):([\t\x20-\x7e\x80-\xff]*)").fullmatch  # RFC 9112 section 5, RFC 9110 section 5.5
NO_CONTROLS: Final = bytes((0x09, *range(0x20, 0x7F), *range(0x80, 0x100)))
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
    b"max-forwards": MAX_FORWARDS,
    b"x-forwarded-for": FORWARDED_FOR,
    b"x-forwarded-proto": DROP,
    b"x-forwarded-host": DROP,
}
RESPONSE_KINDS: Final = {**_COMMON, b"date": DATE, b"x-comet-full": FULL, b"x-comet-worker": DROP, b"x-comet-lb": DROP}

# Fields that must not come as trailers: framing, routing, request modifiers, authentication, content (RFC 9110 section 6.5.1).
_NOT_IN_TRAILERS = re.compile(
    rb"(?:age|authorization|cache-control|content-.*|cookie|date|expect|expires|forwarded|host|if-.*|location|max-forwards|pragma"
    rb"|proxy-.*|range|retry-after|set-cookie|te|trailer|vary|warning|www-authenticate|x-forwarded-.*|x-comet-.*)",
    re.IGNORECASE,
).fullmatch

MAX_NAMES: Final = 1024
MAX_REMEMBERED_HEAD: Final = 4096
_DOOR: Final = 4096
MAX_LENGTH: Final = (1 << 63) - 1


class Refusal(Exception):
    """What arrived is refused: `status` is the answer's code, `reason` its text for the sender."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


Value = TypeVar("Value")


class Recent(Generic[Value]):
    """A bounded memory of what repeats itself: two generations, so that neither a hit nor a miss keeps any order.

    `young` is open for the caller's own lookup; after a miss there `recall` looks at the older generation. To be stored only when it
    `returns`: keys that never do would push out those that do, and cost more to store than to read again.
    """

    __slots__ = ("_capacity", "_old", "_seen", "young")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._seen: set[int] = set()  # hashes of keys offered once
        self.young: dict[bytes, Value] = {}
        self._old: dict[bytes, Value] = {}

    def __len__(self) -> int:
        return len(self.young) + len(self._old)

    def recall(self, key: bytes) -> Value | None:
        """Return the value of `key`, made young again, or None."""
        value = self.young.get(key)
        if value is None and self._old and (value := self._old.get(key)) is not None:
            self.remember(key, value)
        return value

    def returns(self, key: bytes) -> bool:
        """Say whether `key` was asked about before: then it is worth remembering."""
        code = hash(key)
        if code in self._seen:
            return True
        if len(self._seen) >= _DOOR:
            self._seen.clear()
        self._seen.add(code)
        return False

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


def split_lines(raw: bytes) -> list[bytes] | None:
    """Return the lines of a head without their CRLFs; None when a control character or bare CR or LF stands in it."""
    lines = raw.split(b"\r\n")
    return lines if len(raw.translate(None, NO_CONTROLS)) == 2 * len(lines) - 2 else None


class FieldReader:
    """Reads the fields of one direction. Names met, in whatever case, are remembered with their kind."""

    __slots__ = ("_kinds", "_names")

    def __init__(self, kinds: dict[bytes, int]) -> None:
        self._kinds = kinds
        self._names: dict[bytes, int] = {}

    def read(self, lines: list[bytes]) -> tuple[list[bytes], list[list[bytes] | None]]:
        """Return which of `lines` (as of `split_lines`) to forward, and the values of the others by kind. Refusal 400: no field."""
        forwarded: list[bytes] = []
        special: list[list[bytes] | None] = [None] * KINDS
        kind_of = self._names.get
        for line in lines:
            name, colon, value = line.partition(b": ")
            kind = kind_of(name)
            if kind is None or not colon or value.strip(b" \t") is not value:
                line, kind, value = self._read_odd(line)
            if kind == FORWARD:
                forwarded.append(line)
            elif (values := special[kind]) is None:
                special[kind] = [value]
            else:
                values.append(value)
        return forwarded, special

    def _read_odd(self, line: bytes) -> tuple[bytes, int, bytes]:
        """Return a line that is new or unusual in its usual form, its kind and value."""
        match = _FIELD(line)
        if match is None:
            raise Refusal(400, what_is_wrong([line]))
        name, value = match[1], match[2].strip(b" \t")
        return name + b": " + value, self.kind_of(name), value

    def kind_of(self, name: bytes) -> int:
        """Return the kind of the field of this name, a token in whatever case."""
        kind = self._names.get(name)
        return self._learn(name) if kind is None else kind

    def _learn(self, name: bytes) -> int:
        if len(self._names) >= MAX_NAMES:
            self._names.clear()
        kind = self._names[name] = self._kinds.get(name.lower(), FORWARD)
        return kind

    def trailers(self, lines: list[bytes], options: list[bytes]) -> list[bytes]:
        """Return the trailer fields that may be sent on; `options` are the connection options of their head. Refusal 400: a line is no
        field."""
        if not lines:
            return lines
        if split_lines(b"\r\n".join(lines)) != lines:
            raise Refusal(400, "invalid trailer")
        kept, special = self.read(lines)
        if special[CONTENT_LENGTH] or special[TRANSFER_ENCODING]:
            raise Refusal(400, "framing field in a trailer")
        return [line for line in without_named(kept, options) if _NOT_IN_TRAILERS(line[: line.index(b":")]) is None]


def what_is_wrong(lines: list[bytes]) -> str:
    """Return a word on the first of `lines` that is no field."""
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


class HeadReader(ABC, Generic[Value]):
    """What readers of both directions have in common: the fields, their limit, and the memory of whole heads."""

    def __init__(self, kinds: dict[bytes, int], max_fields: int, capacity: int) -> None:
        self.max_fields = max_fields
        self.fields = FieldReader(kinds)
        self.recent: Recent[Value] = Recent(capacity)

    def read(self, raw: bytes) -> Value:
        """Return the head that `raw` is, blank line included. Refusal: it is malformed or not understood."""
        head = self.recent.recall(raw)
        if head is None:
            head = self.parse(raw)
            if len(raw) <= MAX_REMEMBERED_HEAD and self.recent.returns(raw):
                self.recent.remember(raw, head)
        return head

    @abstractmethod
    def parse(self, raw: bytes) -> Value:
        """Return the head that `raw` is, whatever is remembered. Refusal as `read`."""

    def read_fields(self, lines: list[bytes]) -> tuple[list[bytes], list[list[bytes] | None]]:
        """`FieldReader.read` of all lines of a head (as of `split_lines`). Refusal 431 too: there are too many."""
        found = self.fields.read(lines[1:-2])
        if len(lines) - 3 > self.max_fields:
            raise Refusal(431, "too many header fields")
        return found

    def trailers(self, lines: list[bytes], options: list[bytes]) -> list[bytes]:
        """Return the trailer fields that may be sent on; `options` are the connection options of their head. Refusal 400."""
        return self.fields.trailers(lines, options)
