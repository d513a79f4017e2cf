"""What arrives at the front: heads, and the bytes that follow them."""

import asyncio

from lb.faults.streams import CHUNK_SIZE, MAX_SIZE


class Input:
    """Bytes that arrive: heads one by one, and what follows them."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self.data = b""
        self.taken = 0
        """Bytes that were read from it."""

    @property
    def has_ended(self) -> bool:
        return self._reader.at_eof()

    async def more(self) -> bool:
        """Read another piece into `data`; return False at the end."""
        piece = await self._reader.read(CHUNK_SIZE)
        self.data += piece
        self.taken += len(piece)
        return bool(piece)

    async def wait(self) -> None:
        """Return when something has arrived, or the end."""
        if not self.data:
            await self.more()

    async def head(self) -> bytes:
        """Return the next head; b"" where none comes: `data` is then what came instead."""
        while (end := self.data.find(b"\r\n\r\n")) < 0:
            if len(self.data) > MAX_SIZE or not await self.more():
                return b""
        head, self.data = self.data[: end + 4], self.data[end + 4 :]
        return head

    async def read(self, size: int) -> bytes:
        if not self.data and not await self.more():
            return b""
        piece, self.data = self.data[:size], self.data[size:]
        return piece
