"""`--request-ledger`: each counted request is kept by its id, in the transaction that counts it."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import postgres
from tests.support.waiting import PATIENCE, wait_until
from tests.support.workers import Worker, read_answer
from tests.unit.worker_app.stats.test_request_ids import asked, kept
from worker_app.stats.layout import ID_LENGTH

ESCAPED = ("\\xc3\\xa9" * 127)[:ID_LENGTH]


def test_long_ids_and_missing_ones(tmp_path: Path) -> None:
    async def send(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for field in (f"X-Request-Id: {'x' * 400}\r\n", ""):
            writer.write(f"GET /api/v1/hello HTTP/1.1\r\nHost: test\r\n{field}\r\n".encode())
            assert (await read_answer(reader))[0] == 200
        writer.close()

    with Worker(tmp_path, args=("--request-ledger",)) as worker:
        asyncio.run(send(worker.port))
        assert kept(str(worker.database)) == [(str(worker.pid), "", False), (str(worker.pid), "x" * ID_LENGTH, False)]


@pytest.mark.parametrize(
    ("encoding", "stored"), [("UTF8", "Ã©" * 127), ("LATIN1", "Ã©" * 127), ("EUC_JP", ESCAPED), ("SQL_ASCII", ESCAPED)]
)
def test_an_id_that_the_database_cannot_hold_delays_nobody(
    tmp_path: Path, postgres_server: postgres.Server, encoding: str, stored: str
) -> None:
    """The bytes of an id are read as ISO 8859-1, as all of a head; EUC_JP has no such letters, and SQL_ASCII counts
    bytes in place of characters.
    """
    ids = [("é" * 127).encode(), *(b"%d" % number for number in range(20))]

    async def ask(port: int, id: bytes) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /api/v1/hello HTTP/1.1\r\nHost: test\r\nX-Request-Id: %s\r\n\r\n" % id)
        status = (await read_answer(reader))[0]
        writer.close()
        return status

    async def ask_all(port: int) -> list[int]:
        return await asyncio.gather(*(ask(port, id) for id in ids))

    url = postgres.database(postgres_server, encoding).url
    with Worker(tmp_path, database=url, args=("--request-ledger",)) as worker:
        began = time.monotonic()
        assert asyncio.run(ask_all(worker.port)) == [200] * len(ids)
        assert time.monotonic() - began < 2.0 * PATIENCE
        assert worker.totals() == (len(ids), 0)
    assert {id for _, id, _ in kept(f"{url}?client_encoding=UTF8")} == {stored, *(str(number) for number in range(20))}


def test_nothing_is_kept_unless_it_is_asked_for(tmp_path: Path) -> None:
    with Worker(tmp_path) as worker:
        assert worker.get("/api/v1/hello")[0] == 200
        assert worker.totals() == (1, 0)
        assert kept(str(worker.database)) == []


def test_kill_9_under_load_leaves_an_id_for_each_count(tmp_path: Path) -> None:
    numbers = itertools.count()
    moments = random.Random(2)
    seen: dict[str, int] = {}
    sent: set[str] = set()

    async def client(port: int) -> None:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:  # It is killed before all have come.
            return
        try:
            while True:
                id = str(next(numbers))
                sent.add(id)
                writer.write(f"GET /api/v1/hello HTTP/1.1\r\nHost: test\r\nX-Request-Id: {id}\r\n\r\n".encode())
                seen[id] = (await read_answer(reader))[0]
        except (OSError, asyncio.IncompleteReadError):
            writer.close()

    async def scenario(worker: Worker) -> None:
        load = [asyncio.create_task(client(worker.port)) for _ in range(30)]
        # Under way for all, then a moment of chance more.
        while len(seen) < 100:
            await asyncio.sleep(0.001)
        await asyncio.sleep(moments.random() * 0.05)
        worker.process.kill()
        await asyncio.gather(*load)

    def counts() -> Iterator[tuple[str, int]]:
        return iter(asked(str(tmp_path / "stats.db"), "SELECT name, successful + failed FROM workers"))

    for _ in range(4):
        seen.clear()
        with Worker(tmp_path, faults={"avg-delay": 2, "failure": 10}, args=("--request-ledger",)) as worker:
            asyncio.run(scenario(worker))
            wait_until(lambda: worker.process.poll() is not None)
            row = str(worker.pid)
        mine = {id: failed for name, id, failed in kept(str(tmp_path / "stats.db")) if name == row}
        assert all(mine.get(id) is {200: False, 500: True, 503: None}[status] for id, status in seen.items())
    rows = kept(str(tmp_path / "stats.db"))
    assert len(rows) == len({id for _, id, _ in rows})
    assert {id for _, id, _ in rows} <= sent
    assert Counter(name for name, _, _ in rows) == dict(counts())
