"""A request body on its way: measured out by its framing, framed anew for the upstream, held while it may be sent again.

Held means: kept from the first byte until it is clear that no repeat is possible, or until HOLD bytes, whichever comes first.

Pure: bytes in, buffers for the upstream out.
"""

from typing import Final

from lb.chunked import ChunkedReader, frame, last
from lb.fields import Refusal
from lb.request import CHUNKED, RequestReader

HOLD: Final = 65536


class RequestBody:
    """One request's body. After `done`, `rest` is what followed it on the connection."""

    __slots__ = ("_chunks", "_left", "_limit", "_options", "_reader", "_received", "done", "held", "held_size", "rest")

    def __init__(self, length: int, limit: int | None, reader: RequestReader, options: list[bytes]) -> None:
        """`length` and `options` as in RequestHead; `limit` is max_body. Refusal 413: known to be too large."""
        if limit is not None and length > limit:
            raise Refusal(413, "request body too large")
        self._chunks = ChunkedReader() if length == CHUNKED else None
        self._left = length
        self._limit = limit
        self._reader = reader
        self._options = options
        self._received = 0
        self.done = False
        self.rest = b""
        self.held: list[bytes] | None = []
        self.held_size = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Return the buffers to send upstream. Refusal 400 (bad chunks) or 413."""
        if self._chunks is None:
            left = self._left - len(data)
            if left < 0:
                data, self.rest = data[:left], data[left:]
            self._left = max(left, 0)
            self.done = left <= 0
            buffers = [data]
        else:
            pieces = self._chunks.feed(data)
            self._received += sum(map(len, pieces))
            if self._limit is not None and self._received > self._limit:
                raise Refusal(413, "request body too large")
            buffers = frame(pieces)
            if self._chunks.done:
                buffers.append(last(self._reader.trailers(self._chunks.trailers, self._options)))
                self.rest, self.done = self._chunks.rest, True
        if self.held is not None:
            self.held += buffers
            self.held_size += sum(map(len, buffers))
        return buffers

    @property
    def overfull(self) -> bool:
        """Say whether more is held than should be."""
        return self.held is not None and self.held_size > HOLD

    def forget(self) -> None:
        """Give up the possibility of a repeat."""
        self.held = None
        self.held_size = 0
