"""What a client of the generators leaves behind."""

import asyncio
import gc
import ssl
from pathlib import Path

import pytest

from comet.load.closed_model import Connection, RequestSpec
from tests.process.lb.test_tls import certificate


@pytest.mark.slow
def test_a_closed_connection_with_tls_is_closed_at_once(tmp_path: Path) -> None:
    made = certificate(tmp_path, "one")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made["tls_certificate"], made["tls_key"])
    connections: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async def story() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
            client = Connection("127.0.0.1", server.sockets[0].getsockname()[1])
            answer = await client.send_request(RequestSpec("/", tls=True))
            assert answer.status == 200
            assert client._streams is not None
            below = client._streams[1].transport._ssl_protocol._transport  # type: ignore[attr-defined]
            client.close()
            await asyncio.sleep(0)
            assert below._sock is None
            for each in connections:
                each.transport.abort()
            await asyncio.sleep(0)

    asyncio.run(story())
    gc.collect()
