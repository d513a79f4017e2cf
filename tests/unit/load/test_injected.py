"""Which answers say that they are injected, to clients that ask for the head alone, too."""

import asyncio

import pytest

from comet.load.closed_model import Answer, Connection, RequestSpec, ResultCounts

INJECTED = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: 28\r\n\r\n"
    b'{"error":"injected failure"}'
)
OTHER = INJECTED.replace(b"injected failure", b"no healthy worker").replace(b"28", b"29")


async def answer_of(method: str, response: bytes) -> Answer:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        writer.write(response.partition(b"{")[0] if asked.startswith(b"HEAD") else response)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        connection = Connection("127.0.0.1", server.sockets[0].getsockname()[1])
        found = await connection.send_request(RequestSpec("/", method))
        connection.close()
        return found


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_an_injected_failure_is_no_error(method: str) -> None:
    counts = ResultCounts()
    for response in (INJECTED, OTHER):
        counts.note(asyncio.run(answer_of(method, response)), 0.1)
    assert (counts.injected, dict(counts.errors)) == (1, {"503": 1})
