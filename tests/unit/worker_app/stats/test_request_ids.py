"""`--request-ledger`: each counted request is kept by its id, in the transaction that counts it."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support import postgres
from worker_app import address, database
from worker_app.common.identity import CONTAINER, Identity
from worker_app.stats.batch import Record, batch_of
from worker_app.stats.store import Store


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "stats.db")
    return postgres.schema(request.getfixturevalue("postgres_server")).url


def opened(where: str) -> Store:
    store = address.database_at(where).store(Identity(CONTAINER, "fdbaa57c12d3").row_name)
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
    return sorted(
        (worker, id, bool(failed))
        for worker, id, failed in asked(where, "SELECT worker, id, failed FROM counted_requests")
    )


def test_only_requests_with_an_id_are_recorded() -> None:
    sums = batch_of([Record(False, 1), Record(True, 1, id="a"), Record(False, 1, id="")])
    assert sums.requests == [("a", True), ("", False)]
    assert (sums.successful, sums.failed) == (2, 1)


def test_request_ids_are_kept_until_a_reset(where: str) -> None:
    store = opened(where)
    odd = '{"a,b"} \\ \'; DROP TABLE workers -- é'
    store.commit(
        batch_of([Record(False, 1, id="7"), Record(False, 1, id="7"), Record(True, 1, id=odd), Record(True, 1, id="")])
    )
    store.commit(batch_of([Record(False, 1)]))
    name = "fdbaa57c12d3"
    assert kept(where) == sorted([(name, "7", False), (name, "7", False), (name, odd, True), (name, "", True)])
    database.reset(where)
    assert kept(where) == []
    store.close()


def test_an_older_database_gets_the_request_table(where: str) -> None:
    opened(where).close()
    asked(where, "DROP TABLE counted_requests")
    database.reset(where)
    store = opened(where)
    store.commit(batch_of([Record(False, 1, id="a")]))
    store.close()
    assert kept(where) == [("fdbaa57c12d3", "a", False)]
