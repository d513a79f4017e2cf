"""The chunked transfer coding (RFC 9112 section 7.1), taken apart and built anew.

A chunked body is never relayed as it came: sizes, extensions and line ends are where parsers differ, so they end here. The
reader hands out payload; `frame` wraps it for the next hop. Extensions are dropped (section 7.1.1), trailers are collected as
lines for the caller to judge.

Pure: bytes in, bytes out, whatever the split points.
"""

import re
from typing import Final

from lb.fields import Refusal

LAST_CHUNK: Final = b"0\r\n\r\n"

# chunk-size [ chunk-ext ] CRLF. Sixteen digits hold any size; more could overflow in the next hop. White space before the
# semicolon (BWS, which nobody may send) is refused: parsers differ on it.
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n").fullmatch
_MAX_SIZE_LINE: Final = 1024
_MAX_EXTENSIONS: Final = 16384  # of one body: extensions have no use here but to keep us busy
_MAX_TRAILERS: Final = 8192

_SIZE, _DATA, _DATA_END, _TRAILERS, _DONE = range(5)


class ChunkedReader:
    """Decodes one chunked body fed in pieces. After `done`, `rest` holds what followed it and `trailers` its trailer lines."""

    __slots__ = ("_left", "_line", "_overhead", "_state", "rest", "trailers")

    def __init__(self) -> None:
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
        """Return the payload in `data`, piece by piece. Refusal 400: not the chunked coding, or beyond its limits."""
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
        limit = {_SIZE: _MAX_SIZE_LINE, _DATA_END: 1}.get(self._state, _MAX_TRAILERS)
        if len(self._line) > limit:
            raise Refusal(400, "invalid chunk")

    def _end_line(self, line: bytes) -> None:
        if self._state == _SIZE:
            match = _SIZE_LINE(line)
            if match is None or len(line) > _MAX_SIZE_LINE:
                raise Refusal(400, "invalid chunk size")
            self._overhead += len(line) - len(match[1]) - 2
            if self._overhead > _MAX_EXTENSIONS:
                raise Refusal(400, "too many chunk extensions")
            self._left = int(match[1], 16)
            self._state = _DATA if self._left else _TRAILERS
        elif self._state == _DATA_END:
            if line != b"\r\n":
                raise Refusal(400, "invalid end of a chunk")
            self._state = _SIZE
        elif line == b"\r\n":
            self._state = _DONE
        else:
            self._overhead += len(line)
            if line[-2:] != b"\r\n" or self._overhead > _MAX_EXTENSIONS:
                raise Refusal(400, "invalid trailer")
            self.trailers.append(line[:-2])


def frame(pieces: list[bytes]) -> list[bytes]:
    """Return `pieces` as one chunk, in buffers to be written together; nothing for no payload."""
    if not pieces:
        return []
    return [b"%x\r\n" % sum(map(len, pieces)), *pieces, b"\r\n"]


def last(trailers: list[bytes]) -> bytes:
    """Return the end of a chunked body."""
    return b"0\r\n" + b"\r\n".join(trailers) + b"\r\n\r\n" if trailers else LAST_CHUNK
