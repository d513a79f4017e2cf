"""What the generator of the open model says of itself."""

import asyncio

from comet.load.closed_model import RequestSpec
from scripts.bench import paced


def test_a_generator_that_waits_is_idle() -> None:
    """Of a low rate the only request is sent at once, and the rest of the time belongs to the load, too."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await reader.read()
        writer.close()
        await writer.wait_closed()
        ended.set()

    ended = asyncio.Event()

    async def story() -> float:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            result = await paced.offer({"lb-0": port}, [RequestSpec("/")], 0.01, 60, 1, 10)
            await ended.wait()
            assert result["sending"]["due"] == 1
            return float(result["sending"]["cpu"])

    assert asyncio.run(story()) < 50
