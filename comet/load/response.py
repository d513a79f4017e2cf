"""Reads HTTP/1.1 answers as a client must (RFC 9112): interim answers, chunked, sized and unsized bodies.

An answer that breaks the rules raises ValueError, one that ends too early EOFError.
"""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass

SWITCHING = 101
NO_BODY = (204, 304)

MAX_HEAD = 65536
"""Bytes of a head; asyncio's streams buffer no more."""

_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: [^\r\n]*)?")
_SIZE = re.compile(rb"[0-9A-Fa-f]{1,15}")


@dataclass(frozen=True)
class Head:
    """The head of an answer; field names are in lower case, several fields of one name are joined by commas."""

    status: int
    fields: Mapping[str, str]
    http_1_0: bool

    def tokens(self, name: str) -> list[str]:
        return [token.strip().lower() for token in self.fields.get(name, "").split(",") if token.strip()]

    @property
    def keeps_connection(self) -> bool:
        """Whether another request may follow, if the body has an end of its own."""
        tokens = self.tokens("connection")
        return "close" not in tokens and (not self.http_1_0 or "keep-alive" in tokens)


async def read_answer(reader: asyncio.StreamReader, method: str, first: bytes) -> tuple[Head, bytes, bool]:
    """Return the final answer to a request: its head, its body, and whether the connection may be used again.

    `first` are bytes of it that were read already.
    """
    head = await _head(reader, first)
    while 100 <= head.status < 200 and head.status != SWITCHING:
        head = await _head(reader, b"")
    if method == "HEAD" or head.status in NO_BODY:
        return head, b"", head.keeps_connection
    if head.status == SWITCHING:
        return head, b"", False
    codings = head.tokens("transfer-encoding")
    if codings:
        if codings[-1] == "chunked":
            return head, await _chunked(reader), head.keeps_connection
        return head, await reader.read(), False
    length = _length(head)
    if length is None:
        return head, await reader.read(), False
    return head, await reader.readexactly(length), head.keeps_connection


async def _head(reader: asyncio.StreamReader, first: bytes) -> Head:
    text = first + await reader.readuntil(b"\r\n\r\n")
    line, *rest = text.removesuffix(b"\r\n\r\n").split(b"\r\n")
    match = _STATUS.fullmatch(line)
    if match is None:
        raise ValueError(f"not a status line: {line[:60]!r}")
    fields: dict[str, str] = {}
    for each in rest:
        name, colon, value = each.decode("latin-1").partition(":")
        if not colon or not name or name != name.strip():
            raise ValueError(f"not a field: {each[:60]!r}")
        key = name.lower()
        fields[key] = f"{fields[key]}, {value.strip()}" if key in fields else value.strip()
    return Head(int(match[2]), fields, match[1] == b"0")


def _length(head: Head) -> int | None:
    """Return the length of the body; None where it ends with the connection."""
    values = set(head.tokens("content-length"))
    if not values:
        return None
    (value, *others) = values
    if others or not re.fullmatch(r"[0-9]{1,15}", value):
        raise ValueError("Content-Length: not one number")
    return int(value)


async def _chunked(reader: asyncio.StreamReader) -> bytes:
    """Return the body of a chunked answer; its trailers are read and dropped."""
    parts: list[bytes] = []
    while True:
        size = (await reader.readuntil(b"\r\n"))[:-2].partition(b";")[0].strip()
        if not _SIZE.fullmatch(size):
            raise ValueError(f"not the size of a chunk: {size[:20]!r}")
        length = int(size, 16)
        if not length:
            break
        parts.append(await reader.readexactly(length))
        if await reader.readexactly(2) != b"\r\n":
            raise ValueError("a chunk is longer than its size")
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass
    return b"".join(parts)
