"""Forwards a request body: reads its framing, frames it again for the upstream, and holds it for a retry.

A held body is kept from its first byte, until it is clear that no retry is possible or it exceeds MAX_HELD bytes.

Pure: bytes in, buffers for the upstream out.
"""

from typing import Final

from lb.http.chunked import ChunkedReader, frame, last
from lb.http.fields import Refusal
from lb.http.request import RequestReader
from lb.http.request_head import CHUNKED

MAX_HELD: Final = 65536
"""Bytes of a body that are held at most."""


class RequestBody:
    """The body of one request; after `done`, `rest` is what followed it on the connection."""

    __slots__ = ("_chunks", "_left", "_limit", "_options", "_reader", "_received", "done", "held", "held_size", "rest")

    def __init__(self, length: int, limit: int | None, reader: RequestReader, options: list[bytes]) -> None:
        """Take `length` and `options` as in RequestHead, `limit` is max_body; raise Refusal 413 if it is too large."""
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
        """Return the buffers to send to the upstream; raise Refusal 400 (invalid chunks) or 413."""
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
        """Say whether more than MAX_HELD bytes are held."""
        return self.held is not None and self.held_size > MAX_HELD

    def forget(self) -> None:
        """Drop the held body, so that no retry is possible."""
        self.held = None
        self.held_size = 0
