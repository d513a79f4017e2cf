"""Decodes and encodes the chunked transfer coding (RFC 9112 section 7.1).

A chunked body is never relayed as received. Parsers differ in sizes, extensions and line ends, so none of them is
passed on. The reader returns the payload, and `frame` encodes it for the next hop. Extensions are dropped (section
7.1.1). Trailers are collected as lines, and the caller decides about them.

Workers may send some of what RFC 9112 does not allow, as other proxies accept it too: lines that end in a bare LF
(section 2.2), white space after a size (section 7.1.1), leading zeros beyond sixteen digits. None of this is passed on.

Pure: bytes in, bytes out, independent of where the input is split.
"""

import re
from typing import Final

from lb.http.fields import Refusal

LAST_CHUNK: Final = b"0\r\n\r\n"

# chunk-size [ chunk-ext ] CRLF. Sixteen digits hold any size; more could overflow in the next hop. White space before
# the semicolon (BWS, which a sender must not generate) is refused in requests: parsers differ on it.
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n").fullmatch
_SIZE_PREFIX = re.compile(rb"[0-9A-Fa-f]{0,16}(?:(?<=[0-9A-Fa-f])(?:;[\t\x20-\x7e\x80-\xff]*)?\r?)?").fullmatch
_LAX_SIZE_LINE = re.compile(rb"0*+([0-9A-Fa-f]{0,16})(?<=[0-9A-Fa-f])[\t ]*+(?:;[^\r\n]*+)?\r?\n").fullmatch
_LAX_SIZE_PREFIX = re.compile(rb"0*+[0-9A-Fa-f]{0,16}(?:(?<=[0-9A-Fa-f])[\t ]*+(?:;[^\r\n]*+)?\r?)?").fullmatch
_MAX_SIZE_LINE: Final = 1024
_MAX_TRAILERS: Final = 8192
_MAX_EXTENSIONS: Final = 16384
"""Bytes of extensions and trailers in one body: extensions have no use here and cost time."""

_SIZE: Final = 0
_DATA: Final = 1
_DATA_END: Final = 2
_TRAILERS: Final = 3
_DONE: Final = 4


class ChunkedReader:
    """Decodes one chunked body, fed in pieces; after `done`, `rest` is what followed and `trailers` its trailers.

    `lax` accepts what workers may send and clients may not.
    """

    __slots__ = ("_lax", "_left", "_line", "_overhead", "_state", "rest", "trailers")

    def __init__(self, lax: bool = False) -> None:
        self._lax = lax
        self._state = _SIZE
        self._left = 0
        self._line = b""
        self._overhead = 0
        self.rest = b""
        self.trailers: list[bytes] = []

    @property
    def done(self) -> bool:
        """Say whether the body is complete."""
        return self._state == _DONE

    def feed(self, data: bytes) -> list[bytes]:
        """Return the payload in `data` as pieces; raise Refusal 400 for an invalid coding or an exceeded limit."""
        pieces: list[bytes] = []
        at, end = 0, len(data)
        while at < end:
            if self._state == _DATA:
                stop = min(at + self._left, end)
                pieces.append(data if stop - at == end else data[at:stop])
                self._left -= stop - at
                at = stop
                if not self._left:
                    self._state = _DATA_END
            else:
                newline = data.find(b"\n", at)
                if newline < 0:
                    self._line += data[at:]
                    self._check_partial()
                    break
                line = self._line + data[at : newline + 1]
                self._line = b""
                at = newline + 1
                self._end_line(line)
                if self._state == _DONE:
                    self.rest = data[at:]
                    break
        return pieces

    def _check_partial(self) -> None:
        """Raise Refusal 400 as soon as the beginning of a line cannot become a valid line."""
        line = self._line
        if self._state == _SIZE:
            if len(line) > _MAX_SIZE_LINE or (_LAX_SIZE_PREFIX if self._lax else _SIZE_PREFIX)(line) is None:
                raise Refusal(400, "invalid chunk size", line)
        elif self._state == _DATA_END:
            if line != b"\r":
                raise Refusal(400, "invalid end of a chunk", line)
        elif len(line) > _MAX_TRAILERS:
            raise Refusal(400, "trailer too long", line)

    def _end_line(self, line: bytes) -> None:
        if self._state == _SIZE:
            match = (_LAX_SIZE_LINE if self._lax else _SIZE_LINE)(line)
            if match is None or len(line) > _MAX_SIZE_LINE:
                raise Refusal(400, "invalid chunk size", line)
            extension = line.find(b";")
            self._overhead += len(line) - extension if extension >= 0 else 0
            if self._overhead > _MAX_EXTENSIONS:
                raise Refusal(400, "too many chunk extensions", line)
            self._left = int(match[1] or b"0", 16)
            self._state = _DATA if self._left else _TRAILERS
        elif self._state == _DATA_END:
            if line != b"\r\n" and not (self._lax and line == b"\n"):
                raise Refusal(400, "invalid end of a chunk", line)
            self._state = _SIZE
        elif line == b"\r\n" or (self._lax and line == b"\n"):
            self._state = _DONE
        else:
            self._overhead += len(line)
            if self._overhead > _MAX_EXTENSIONS or not (self._lax or line[-2:] == b"\r\n"):
                raise Refusal(400, "invalid trailer", line)
            self.trailers.append(line[:-1].removesuffix(b"\r"))


def frame(pieces: list[bytes]) -> list[bytes]:
    """Return `pieces` as one chunk, in buffers to be written together; no buffers if there is no payload."""
    if not pieces:
        return []
    return [b"%x\r\n" % sum(map(len, pieces)), *pieces, b"\r\n"]


def last(trailers: list[bytes]) -> bytes:
    """Return the end of a chunked body."""
    return b"0\r\n" + b"\r\n".join(trailers) + b"\r\n\r\n" if trailers else LAST_CHUNK
