"""Strict clients: each request is sent once and must get a complete answer; every other outcome is recorded.

Every request has its own number, which is its `X-Request-Id`. The clients share one event loop; half of them keep their
connection, the others open one for every request. A keep-alive client that sees its connection closed before it sends
opens a new one, like any client; once it has sent, the request counts.
"""

import asyncio
import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from comet.load.closed_model import INJECTED
from scripts.bench.ids import Seen
from scripts.bench.ledger import ClientBook, Failure

PATH: Final = "/api/v1/hello"
ANSWER_TIMEOUT: Final = 40.0  # beyond every deadline of the LB
GREETING: Final = ("hello from container: ", "hello from process: ")


@dataclass
class ClosedModel:
    """The clients of one run; `books` by load balancer, `seen` by id; `numbers` gives every request its own number."""

    books: dict[str, ClientBook]
    numbers: Iterator[int]
    seen: dict[str, Seen] = field(default_factory=dict)
    finished: bool = False


@dataclass
class _Answer:
    """A complete answer: `row` is the worker's own name, `worker` its name according to the load balancer, `bad`
    describes what is wrong with it.
    """

    status: int
    row: str | None
    worker: str | None
    closes: bool
    bad: str = ""


def make_clients(names: list[str]) -> ClosedModel:
    return ClosedModel({name: ClientBook() for name in names}, itertools.count(1))


async def run_clients(clients: ClosedModel, ports: dict[str, int], each: int) -> None:
    """Load every load balancer with `each` clients of both kinds until `clients.finished`."""
    tasks = [
        _client(clients, name, port, keep)
        for name, port in ports.items()
        for keep in (True, False)
        for _ in range(each)
    ]
    await asyncio.gather(*tasks)


async def _client(clients: ClosedModel, name: str, port: int, keep: bool) -> None:
    book = clients.books[name]
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    reused = False
    while not clients.finished:
        if streams is not None and streams[0].at_eof():
            streams[1].close()
            streams, reused = None, False
        number, began = next(clients.numbers), time.monotonic()
        book.sent += 1
        kind, answer = "", None
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                if streams is None:
                    streams = await asyncio.open_connection("127.0.0.1", port)
                answer = await _exchange(streams, book, number, keep)
                kind = answer.bad
        except ConnectionRefusedError:
            kind = "refused"
        except TimeoutError:
            kind = "timeout"
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            kind = "malformed" if isinstance(error, ValueError) else "broken"
        ended = time.monotonic()
        if kind:
            book.failures.append(Failure(number, name, kind, began, ended, reused))
        found = (answer.status, answer.row, answer.worker) if answer is not None else (None, None, None)
        clients.seen[str(number)] = Seen(name, *found, began, ended)
        if (answer is None or answer.bad or answer.closes or not keep) and streams is not None:
            streams[1].close()
            streams, reused = None, False
        else:
            reused = True
        if kind:
            await asyncio.sleep(0.01)
    if streams is not None:
        streams[1].close()


async def _exchange(
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter], book: ClientBook, number: int, keep: bool
) -> _Answer:
    """Send one request, read its complete answer, and record it."""
    reader, writer = streams
    ending = "" if keep else "Connection: close\r\n"
    writer.write(f"GET {PATH} HTTP/1.1\r\nHost: bench\r\nX-Request-Id: {number}\r\n{ending}\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    status = head[9:12]
    fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
    body = await reader.readexactly(int(fields["content-length"]))
    answer = _Answer(int(status), None, fields.get("x-comet-worker"), fields.get("connection") == "close")
    if status == "200":
        answer.row = row = served_by(body)
        book.served[row] = book.served.get(row, 0) + 1
    elif status == "500" and body.strip() == INJECTED:
        book.injected += 1
    else:
        answer.bad = f"status {status} {body.strip().decode(errors='replace')}"
    return answer


def served_by(body: bytes) -> str:
    """Return the worker's own name in its greeting. ValueError if it is not a greeting."""
    message = json.loads(body)["message"]
    for greeting in GREETING:
        if message.startswith(greeting):
            return str(message.removeprefix(greeting))
    raise ValueError(f"no greeting: {message!r}")
