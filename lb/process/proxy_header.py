"""Reads the PROXY protocol's header from trusted peers, before a client connection gets its first byte.

The header is optional: a trusted peer that begins with a request sends none. From other peers it is a malformed
request. The connection is a client from its first moment, so that deadlines and limits apply.
"""

import asyncio
from collections.abc import Callable
from typing import cast

from lb.http.proxy_protocol import read
from lb.proxy.client_connection import Downstream


class ProxyHeaderReader(asyncio.Protocol):
    """Stands in for `client` until the header, or something else, has arrived.

    A malformed header ends the connection; `refused` gets the peer, why, and the bytes.
    """

    def __init__(self, client: Downstream, refused: Callable[[bytes, str, bytes], None]) -> None:
        self._client = client
        self._refused = refused
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._client.connection_made(transport)
        if not self._client.is_trusted:
            self._hand_over()

    def data_received(self, data: bytes) -> None:
        self._data += data
        try:
            header = read(self._data)
        except ValueError as error:
            self._refused(self._client.peer, str(error), self._data)
            self._transport.abort()
            return
        if header is None:
            return
        if header.address is not None:
            self._client.set_address(header.address)
        self._hand_over()
        if rest := self._data[header.size :]:
            self._client.data_received(rest)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.connection_lost(exc)

    def pause_writing(self) -> None:
        self._client.pause_writing()

    def resume_writing(self) -> None:
        self._client.resume_writing()

    def _hand_over(self) -> None:
        self._transport.set_protocol(cast(asyncio.BaseProtocol, self._client))
