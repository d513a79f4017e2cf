"""Ends TLS for clients: the certificate, its renewal while running, and a connection's way from accept to its client.

A connection's handshake uses the certificate of its start, so that a renewal disturbs none. The header of the PROXY
protocol comes before the handshake and is read from the socket byte by byte as far as it goes, because what follows
belongs to TLS.
"""

import asyncio
import contextlib
import logging
import os
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final

from lb.http.proxy_protocol import MAX_V2, NO_HEADER, ProxyHeader, read
from lb.http.trust import Readers, client_address
from lb.interface.settings import Settings
from lb.system.regular_files import opened

HANDSHAKE_TIMEOUT: Final = 10.0
"""Seconds for the PROXY protocol's header and the handshake together."""

logger = logging.getLogger("lb")


def context(settings: Settings) -> ssl.SSLContext | None:
    """Return the context of a certificate, None without one; raise OSError (SSLError included) if it is not usable."""
    if settings.tls_certificate is None:
        return None
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.set_alpn_protocols(["http/1.1"])
    with contextlib.ExitStack() as stack:
        paths = []
        for path in (settings.tls_certificate, settings.tls_key):
            file = opened(path or "", os.O_RDONLY)
            stack.callback(os.close, file)
            paths.append(f"/proc/self/fd/{file}")
        made.load_cert_chain(paths[0], paths[1], password="")  # nosec B106 - asks nobody
    return made


async def accept(
    loop: asyncio.AbstractEventLoop,
    sock: socket.socket,
    certificate: ssl.SSLContext,
    readers: Readers,
    make_client: Callable[[], Any],
    refused: Callable[[bytes, str, bytes], None],
) -> None:
    """Make a TLS connection of an accepted socket, whose protocol `make_client` returns; close it if that fails.

    `refused` gets the peer of a malformed header of the PROXY protocol, why, and the bytes.
    """
    try:
        async with asyncio.timeout(HANDSHAKE_TIMEOUT):
            peer = client_address(sock.getpeername())
            header = await _header(loop, sock, peer, refused) if readers.trusts(peer) else NO_HEADER
            await loop.connect_accepted_socket(
                lambda: _Addressed(make_client(), header) if header.address is not None else make_client(),
                sock,
                ssl=certificate,
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT,
            )
    except (OSError, ValueError, TimeoutError):  # Whatever a client does wrong ends its connection alone.
        sock.close()
    except asyncio.CancelledError:
        sock.close()
        raise


async def _header(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, peer: bytes, refused: Callable[[bytes, str, bytes], None]
) -> ProxyHeader:
    """Take the PROXY protocol's header, if there is one, from a socket; leave what follows."""
    while True:
        data = sock.recv(MAX_V2, socket.MSG_PEEK) if await _readable(loop, sock) else b""
        if not data:
            raise ConnectionError("closed before the handshake")
        try:
            header = read(data)
        except ValueError as error:
            refused(peer, str(error), data)
            raise
        if header is not None:
            sock.recv(header.size) if header.size else None
            return header
        await asyncio.sleep(0.01)  # The socket stays readable while the header is incomplete.


async def _readable(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> bool:
    ready: asyncio.Future[bool] = loop.create_future()
    fd = os.dup(sock.fileno())  # uvloop keeps the number for the transport.
    loop.add_reader(fd, lambda: None if ready.done() else ready.set_result(True))
    try:
        return await ready
    finally:
        loop.remove_reader(fd)
        os.close(fd)


class _Addressed(asyncio.Protocol):
    """Gives a client the address from the PROXY protocol's header, then the connection."""

    def __init__(self, client: Any, header: ProxyHeader) -> None:
        self._client = client
        self._header = header

    def connection_made(self, transport: Any) -> None:
        self._client.connection_made(transport)
        self._client.set_address(self._header.address)
        transport.set_protocol(self._client)

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.connection_lost(exc)


class Certificate:
    """The certificate in use, renewed when the settings say that it changed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.context = context(settings)

    def configure(self, settings: Settings) -> None:
        """Use another certificate from now on; an unusable one is logged, and the present one stays in use."""
        before, now = _identity(self._settings), _identity(settings)
        if before == now:
            return
        try:
            self.context = context(settings)
        except OSError as error:
            logger.error("the certificate cannot be used: %s", error)
            return
        self._settings = settings
        logger.info("TLS %s", "is off" if self.context is None else "uses a new certificate")


def _identity(settings: Settings) -> tuple[str | None, str | None, str]:
    return settings.tls_certificate, settings.tls_key, settings.tls_digest
