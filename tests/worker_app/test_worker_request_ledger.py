"""`--request-ledger`: each counted request is kept by its id, in the transaction that counts it."""

from __future__ import annotations

import asyncio
import itertools
import random
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from worker_harness import Worker, read_answer, wait_until

from tests import postgres
from worker_app import address, database
from worker_app.identity import CONTAINER, Identity
from worker_app.layout import ID_LENGTH
from worker_app.store import Store
from worker_app.tally import Record, tally


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "stats.db")
    return postgres.schema(request.getfixturevalue("postgres_server")).url


def opened(where: str) -> Store:
    store = address.at(where).store(Identity(CONTAINER, "fdbaa57c12d3").row_name)
    store.open()
    return store


def asked(where: str, statement: str) -> list[Any]:
    connection: Any = psycopg.connect(where) if "://" in where else sqlite3.connect(where)
    try:
        found = connection.execute(statement)
        rows = list(found.fetchall()) if found.description else []
        connection.commit()
        return rows
    finally:
        connection.close()


def kept(where: str) -> list[tuple[str, str, bool]]:
    return sorted((worker, id, bool(failed)) for worker, id, failed in asked(where, "SELECT worker, id, failed FROM counted_requests"))


def test_only_what_has_an_id_is_kept_one_by_one() -> None:
    sums = tally([Record(False, 1), Record(True, 1, id="a"), Record(False, 1, id="")])
    assert sums.requests == [("a", True), ("", False)]
    assert (sums.successful, sums.failed) == (2, 1)


def test_ids_are_kept_as_they_came_and_go_with_a_reset(where: str) -> None:
    store = opened(where)
    odd = '{"a,b"} \\ \'; DROP TABLE workers -- é'
    store.commit(tally([Record(False, 1, id="7"), Record(False, 1, id="7"), Record(True, 1, id=odd), Record(True, 1, id="")]))
    store.commit(tally([Record(False, 1)]))
    name = "fdbaa57c12d3"
    assert kept(where) == sorted([(name, "7", False), (name, "7", False), (name, odd, True), (name, "", True)])
    database.reset(where)
    assert kept(where) == []
    store.close()


def test_a_database_made_before_there_was_such_a_table_gets_it(where: str) -> None:
    opened(where).close()
    asked(where, "DROP TABLE counted_requests")
    database.reset(where)
    store = opened(where)
    store.commit(tally([Record(False, 1, id="a")]))
    store.close()
    assert kept(where) == [("fdbaa57c12d3", "a", False)]


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


def test_nothing_is_kept_unless_it_is_asked_for(tmp_path: Path) -> None:
    with Worker(tmp_path) as worker:
        assert worker.get("/api/v1/hello")[0] == 200
        assert worker.totals() == (1, 0)
        assert kept(str(worker.database)) == []


@pytest.mark.slow
def test_kill_9_under_load_leaves_an_id_for_each_answer_and_each_count(tmp_path: Path) -> None:
    numbers = itertools.count()
    moments = random.Random(2)
    seen: dict[str, int] = {}
    sent: set[str] = set()

    async def client(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
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
        assert all(mine.get(id) is (status == 500) for id, status in seen.items())
    rows = kept(str(tmp_path / "stats.db"))
    assert len(rows) == len({id for _, id, _ in rows})
    assert {id for _, id, _ in rows} <= sent
    assert Counter(name for name, _, _ in rows) == dict(counts())
