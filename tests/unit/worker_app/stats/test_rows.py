"""The rows of the statistics: registered, added to, folded, reset."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from typing import Any

import psycopg
import pytest

from tests.support.stats_database import opened, rows, some, sql
from worker_app import database
from worker_app.common.errors import NotCommitted
from worker_app.common.identity import CONTAINER, PROCESS
from worker_app.stats.batch import Batch, Record, batch_of
from worker_app.stats.sqlite_store import SqliteStore
from worker_app.stats.store import Store


def test_rows_stand_in_order_of_first_start_zeros_included(where: str) -> None:
    for name in ("zz", "aa", "mm"):
        opened(where, name).close()
    opened(where, "zz").close()
    assert rows(where) == [("zz", 0, 0, 0), ("aa", 0, 0, 0), ("mm", 0, 0, 0)]


def test_the_order_holds_when_the_clock_is_set_back(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(where, "first").close()
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    opened(where, "second").close()
    assert [name for name, *_ in rows(where)] == ["first", "second"]


def test_former_workers_stay_in_the_totals_until_reset(where: str) -> None:
    store = opened(where, "former")
    store.commit(some(2))
    store.close()
    opened(where, "present").close()
    assert json.loads(database.stats(where))["TotalRequests"] == [{"total": 2}, {"former": 2}, {"present": 0}]
    database.reset(where, keep=["present"])
    assert json.loads(database.stats(where))["TotalRequests"] == [{"total": 0}, {"present": 0}]


def test_a_restarted_container_goes_on_and_a_reused_pid_does_not(where: str) -> None:
    for kind in (CONTAINER, PROCESS):
        for _ in range(2):
            store = opened(where, f"id-{kind}", kind)
            store.commit(some(1))
            store.close()
    assert [(name, good) for name, good, *_ in rows(where)] == [
        ("id-container", 2),
        ("id-process", 1),
        ("id-process.2", 1),
    ]


def test_writers_add_and_never_overwrite(where: str) -> None:
    first, second = opened(where, "same"), opened(where, "same")
    for _ in range(50):
        first.commit(some(1, 1))
        second.commit(some(2))
    first.close()
    second.close()
    assert rows(where) == [("same", 150, 50, 200_000)]


def test_the_average_is_over_all_requests_failed_ones_included(where: str) -> None:
    store = opened(where)
    store.commit(batch_of([Record(False, 900_000), Record(False, 300_000), Record(True, 0)]))
    store.close()
    assert json.loads(database.stats(where))["AverageResponseTime"] == [{"total": 400.0}, {"fdbaa57c12d3": 400.0}]


def test_a_row_says_when_it_was_last_written(where: str) -> None:
    store = opened(where)
    began = sql(where, "SELECT updated FROM workers")[0][0]
    time.sleep(0.01)
    store.commit(some(1))
    store.close()
    assert sql(where, f"SELECT 1 FROM workers WHERE updated > {began!r}") == [(1,)]


@pytest.mark.slow
def test_a_locked_database_is_an_error_that_leaves_no_trace(where: str) -> None:
    store = opened(where)
    store.commit(some(7))
    other: Any = psycopg.connect(where) if "://" in where else sqlite3.connect(where, isolation_level=None)
    other.execute("LOCK TABLE workers" if "://" in where else "BEGIN EXCLUSIVE")
    with pytest.raises(NotCommitted, match="lock"):
        store.commit(some(1))
    other.execute("ROLLBACK")
    other.close()
    store.commit(some(1))
    store.close()
    assert rows(where)[0][1] == 8


def run_full(store: Store) -> sqlite3.Connection:
    """Have a commit meet a full disk, which then has room again."""
    assert isinstance(store, SqliteStore)
    connection = store._connection
    assert connection is not None
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    filler = Batch(successful=1, buckets=some(1).buckets)
    filler.injections.update({f"kind-{number:04d}-{'x' * 20}": 1 for number in range(2000)})
    with pytest.raises(NotCommitted, match="full"):
        store.commit(filler)
    connection.execute("PRAGMA max_page_count = 1000000")
    return connection


def test_a_full_disk_is_an_error_that_leaves_no_trace_and_passes(path: str) -> None:
    store = opened(path)
    store.commit(some(1))
    run_full(store)
    assert not store.try_commit(some(1))
    store.commit(some(1))
    assert store.try_commit(some(1))
    store.close()
    assert rows(path)[0][1] == 3
    assert sql(path, "PRAGMA integrity_check") == [("ok",)]


def test_a_reader_of_the_wal_after_a_full_disk_stops_no_commit(path: str) -> None:
    """It can be written back up to what the reader sees; the rest follows once the reader has ended."""
    store = opened(path)
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM workers").fetchall()
    store.commit(some(1))
    connection = run_full(store)
    for _ in range(2):
        assert not store.try_commit(some(1))
        store.commit(some(1))
    reader.execute("ROLLBACK")
    reader.close()
    store.tick(time.time())
    assert store.try_commit(some(1))
    ((_, frames, written),) = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    assert frames == written
    store.close()
    assert rows(path)[0][1] == 4


@pytest.mark.slow
def test_a_wal_written_back_by_another_is_not_added_to(path: str) -> None:
    store = opened(path)
    store.commit(some(1))
    run_full(store)
    # SQLite's lock for writing the WAL back (WAL_CKPT_LOCK), held by another process.
    code = (
        "import fcntl, sys; file = open(sys.argv[1], 'r+b'); "
        "fcntl.lockf(file, fcntl.LOCK_EX, 1, 121); print(flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, f"{path}-shm"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(NotCommitted, match="another worker is writing the WAL back"):
            store.commit(some(1))
        holder.communicate(b"\n")
    store.commit(some(1))
    store.close()
    assert rows(path)[0][1] == 2


def test_a_reset_under_a_living_worker_is_not_undone(where: str) -> None:
    store = opened(where)
    store.commit(some(5))
    database.reset(where)
    assert rows(where) == []
    store.tick(time.time())
    assert rows(where) == [("fdbaa57c12d3", 0, 0, 0)]
    store.commit(some(1))
    store.close()
    assert rows(where)[0][1] == 1


def test_a_reregistered_row_keeps_its_place(where: str) -> None:
    first, second = opened(where, "first"), opened(where, "second")
    database.reset(where)
    second.tick(time.time())
    first.tick(time.time())
    assert [name for name, *_ in rows(where)] == ["first", "second"]
    first.close()
    second.close()


def test_former_rows_past_the_limit_are_folded_into_one(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker_app.stats.sqlite_store.MAX_FORMER_ROWS", 3)
    monkeypatch.setattr("worker_app.stats.postgres_store.MAX_FORMER_ROWS", 3)
    for number in range(6):
        store = opened(where, f"old-{number}")
        store.commit(some(1, 1))
        store.close()
    sql(where, "UPDATE workers SET updated = 0")
    living = opened(where, "living")
    living.commit(some(1))
    living.close()
    assert [(name, good, bad) for name, good, bad, _ in rows(where)] == [
        ("retired", 3, 3),
        ("old-3", 1, 1),
        ("old-4", 1, 1),
        ("old-5", 1, 1),
        ("living", 1, 0),
    ]
    assert sql(where, "SELECT sum(count) FROM latency") == [(13,)]
    assert sql(where, "SELECT count FROM injections WHERE worker = 'retired'") == [(3,)]


def test_living_workers_are_never_folded(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker_app.stats.sqlite_store.MAX_FORMER_ROWS", 1)
    monkeypatch.setattr("worker_app.stats.postgres_store.MAX_FORMER_ROWS", 1)
    for number in range(4):
        opened(where, f"w{number}").close()
    assert len(rows(where)) == 4


def test_a_thousand_rows_are_answered(where: str) -> None:
    database.create(where)
    columns = "name, first_started, updated, successful, failed, unplanned, disconnected, duration_us, last_batch"
    former = ", ".join(f"('w{number:04d}', {number}, 0, 1, 1, 0, 0, 5, 0)" for number in range(1, 1001))
    sql(where, f"INSERT INTO workers ({columns}) VALUES {former}")
    answer = json.loads(database.stats(where))
    assert answer["TotalRequests"][0] == {"total": 2000}
    assert len(answer["FailedRequests"]) == 1001
