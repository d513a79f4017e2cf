"""The SQLite file: recognised before touched, rows registered, added to, folded, reset."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import insert

from tests.support import postgres
from worker_app import address, database
from worker_app.common.errors import NotCommitted, WorkerError
from worker_app.common.identity import CONTAINER, PROCESS, Identity
from worker_app.stats import layout, schema, sqlite
from worker_app.stats.batch import Batch, Record, batch_of
from worker_app.stats.sqlite_reader import SqliteReader
from worker_app.stats.sqlite_store import SqliteStore
from worker_app.stats.store import Store

ORIGINAL_DDL = (
    "CREATE TABLE `worker_stats` (`worker_id` text,`timestamp` datetime,`successful_requests` integer,"
    "`failed_requests` integer,`total_requests` integer,`average_response_time` real,PRIMARY KEY (`worker_id`))"
)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "stats.db")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database of either dialect: what a test says must hold for both."""
    if request.param == "sqlite":
        return str(tmp_path / "stats.db")
    return postgres.schema(request.getfixturevalue("postgres_server")).url


def test_a_new_sqlite_file_has_the_tables_of_the_schema(tmp_path: Path) -> None:
    database.create(str(tmp_path / "quick.db"))
    engine = schema.sqlite_engine(lambda: sqlite3.connect(tmp_path / "thorough.db"))
    schema.build(engine)
    listing = "SELECT name, sql FROM sqlite_master WHERE type = 'table' ORDER BY name"
    quick, thorough = (
        [(name, re.sub(r"\s", "", str(made))) for name, made in sql(str(tmp_path / file), listing)]
        for file in ("quick.db", "thorough.db")
    )
    assert quick == thorough
    assert sql(str(tmp_path / "quick.db"), "SELECT version FROM comet_schema") == [(layout.VERSION,)]


def opened(where: str, name: str = "fdbaa57c12d3", kind: str = CONTAINER) -> Store:
    store = address.database_at(where).store(Identity(kind, name).row_name)
    store.open()
    return store


def some(successful: int = 0, failed: int = 0, us: int = 1000) -> Batch:
    return batch_of([Record(False, us)] * successful + [Record(True, us, injected=("failure",))] * failed)


def rows(where: str) -> list[tuple[str, int, int, int]]:
    reader = address.database_at(where).reader()
    try:
        return [(row.name, row.successful, row.failed, row.duration_us) for row in reader.rows()]
    finally:
        reader.close()


def digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def sql(where: str, *statements: str) -> list[tuple[object, ...]]:
    connection: Any = psycopg.connect(where) if "://" in where else sqlite3.connect(where)
    try:
        found: list[tuple[object, ...]] = []
        for statement in statements:
            cursor = connection.execute(statement)
            found = cursor.fetchall() if cursor.description else []
        connection.commit()
        return found
    finally:
        connection.close()


# The file


def test_the_journal_is_wal_and_commits_do_not_wait_for_the_disk(path: str) -> None:
    store = opened(path)
    assert sql(path, "PRAGMA journal_mode") == [("wal",)]
    connection = store._connection
    assert connection is not None
    assert connection.execute("PRAGMA synchronous").fetchone() == (1,)  # NORMAL
    store.close()


def test_create_is_repeatable_and_leaves_counts_alone(where: str) -> None:
    store = opened(where)
    store.commit(some(3, 1))
    store.close()
    database.create(where)
    assert rows(where) == [("fdbaa57c12d3", 3, 1, 4000)]


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_damaged_file_is_refused_in_one_line_untouched(path: str, content: bytes) -> None:
    Path(path).write_bytes(content)
    before = digest(path)
    with pytest.raises(WorkerError, match=r"not a SQLite database|damaged") as caught:
        database.create(path)
    assert "\n" not in str(caught.value)
    assert digest(path) == before


def test_somebody_elses_database_is_refused_and_left_untouched(where: str) -> None:
    sql(where, "CREATE TABLE addresses (name varchar(9))", "INSERT INTO addresses VALUES ('x')")
    sqlite_file = "://" not in where
    before = digest(where) if sqlite_file else ""
    with pytest.raises(WorkerError, match=r"not a Comet statistics database.*addresses"):
        database.create(where)
    if sqlite_file:
        assert digest(where) == before
        assert sql(where, "PRAGMA journal_mode") == [("delete",)]
    else:
        assert sql(where, "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()") == [("addresses",)]


def test_a_newer_schema_is_refused(where: str) -> None:
    database.create(where)
    sql(where, f"UPDATE comet_schema SET version = {layout.VERSION + 1}")
    with pytest.raises(WorkerError, match="newer Comet"):
        database.create(where)


def test_an_older_schema_is_migrated(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(where)
    store.commit(some(1))
    store.close()
    monkeypatch.setattr(layout, "VERSION", layout.VERSION + 1)
    step = {
        layout.VERSION - 1: lambda connection: connection.exec_driver_sql(
            "ALTER TABLE workers ADD COLUMN colour VARCHAR(9) DEFAULT 'red'"
        )
    }
    monkeypatch.setattr(schema, "MIGRATIONS", step)
    database.create(where)
    assert sql(where, "SELECT version FROM comet_schema") == [(layout.VERSION,)]
    assert sql(where, "SELECT colour, successful FROM workers") == [("red", 1)]


def test_a_file_of_the_original_program_is_taken_over(path: str) -> None:
    sql(
        path,
        ORIGINAL_DDL,
        "INSERT INTO worker_stats VALUES ('b', '2023-10-11 10:00:01', 5, 2, 7, 498.5)",
        "INSERT INTO worker_stats VALUES ('a', '2023-10-11 10:00:02', 0, 0, 0, 0)",
    )
    store = opened(path)
    store.commit(some(1, us=1))
    store.close()
    assert rows(path) == [("b", 5, 2, 498_500 * 7), ("a", 0, 0, 0), ("fdbaa57c12d3", 1, 0, 1)]
    assert sql(path, "SELECT count(*) FROM original_worker_stats") == [(2,)]


def test_an_original_table_with_other_columns_is_refused(path: str) -> None:
    sql(path, "CREATE TABLE worker_stats (worker_id, mood)")
    with pytest.raises(WorkerError, match="not a Comet statistics database"):
        database.create(path)


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match=r"nowhere.*No such file"):
        database.create(str(tmp_path / "nowhere" / "stats.db"))


def test_many_workers_make_one_database(where: str) -> None:
    """Started at the same moment on no file at all, as the first start of a cluster is."""
    stores: list[SqliteStore] = []
    failures: list[BaseException] = []

    def start(number: int) -> None:
        try:
            stores.append(opened(where, f"w{number}"))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=start, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for store in stores:
        store.close()
    assert failures == []
    assert sorted(name for name, *_ in rows(where)) == [f"w{number}" for number in range(8)]


# The rows


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


def test_a_full_disk_is_an_error_that_leaves_no_trace_and_passes(path: str) -> None:
    store = opened(path)
    store.commit(some(1))
    connection = store._connection
    assert connection is not None
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    filler = Batch(successful=1, buckets=some(1).buckets)
    filler.injections.update({f"kind-{number:04d}-{'x' * 20}": 1 for number in range(2000)})
    with pytest.raises(NotCommitted, match="full"):
        store.commit(filler)
    connection.execute("PRAGMA max_page_count = 1000000")
    store.commit(some(1))
    store.close()
    assert rows(path)[0][1] == 2
    assert sql(path, "PRAGMA integrity_check") == [("ok",)]


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
    with address.database_at(where).engine().connect() as connection:
        former = [
            {
                "name": f"w{number:04d}",
                "first_started": float(number),
                "updated": 0.0,
                "successful": 1,
                "failed": 1,
                "duration_us": 5,
            }
            for number in range(1, 1001)
        ]
        connection.execute(insert(schema.workers), former)
        connection.commit()
    answer = json.loads(database.stats(where))
    assert answer["TotalRequests"][0] == {"total": 2000}
    assert len(answer["FailedRequests"]) == 1001


# Deleted and replaced


@pytest.mark.parametrize("suffixes", [("",), ("", "-wal", "-shm")])
def test_a_deleted_database_is_recreated(path: str, suffixes: tuple[str, ...]) -> None:
    """Also when its side files stay behind: they belong to the file that is gone and must not spoil the next one."""
    first, second = opened(path, "first"), opened(path, "second")
    first.commit(some(5))
    second.commit(some(5))
    for suffix in suffixes:
        os.unlink(path + suffix)
    for store in (first, second):
        store.commit(some(1))
        assert store.replaced()
        store.reopen()
        store.commit(some(1))
        assert not store.replaced()
    second.commit(some(1))
    first.close()
    second.close()
    assert sorted((name, good) for name, good, *_ in rows(path)) == [("first", 1), ("second", 2)]
    assert sql(path, "PRAGMA integrity_check") == [("ok",)]


def test_a_replaced_database_is_used(path: str, tmp_path: Path) -> None:
    store = opened(path)
    other = str(tmp_path / "other.db")
    opened(other, "elsewhere").close()
    os.replace(other, path)
    store.commit(some(1))
    assert store.replaced()
    store.reopen()
    store.commit(some(1))
    store.close()
    assert [(name, good) for name, good, *_ in rows(path)] == [("fdbaa57c12d3", 1), ("elsewhere", 0)]
    assert sql(path, "PRAGMA integrity_check") == [("ok",)]


def test_a_foreign_replacement_database_is_not_touched(path: str, tmp_path: Path) -> None:
    store = opened(path)
    other = str(tmp_path / "other.db")
    sql(other, "CREATE TABLE addresses (name)")
    os.replace(other, path)
    before = digest(path)
    assert store.replaced()
    with pytest.raises(NotCommitted, match="addresses"):
        store.reopen()
    store.commit(some(1))
    assert store.replaced()  # so the ledger does not take that commit for one
    store.close()
    assert digest(path) == before


def test_an_idle_worker_reregisters_after_a_deletion(path: str) -> None:
    store = opened(path)
    os.unlink(path)
    store.tick(time.time())
    assert rows(path) == [("fdbaa57c12d3", 0, 0, 0)]
    store.close()


def test_a_reader_follows_a_replaced_database(path: str) -> None:
    store = opened(path)
    reader = SqliteReader(path)
    assert len(reader.rows()) == 1
    os.unlink(path)
    with pytest.raises(NotCommitted):
        reader.rows()
    store.tick(time.time())
    assert len(reader.rows()) == 1
    reader.close()
    store.close()


# Moved with its directory


def moved(path: str, other: bool) -> str:
    """Rename the directory, and, if `other`, make another one with a database of its own in its place; where the
    database is now.
    """
    directory, name = os.path.split(path)
    os.rename(directory, f"{directory}-renamed")
    if other:
        os.mkdir(directory)
        opened(path, "other").close()
    return os.path.join(f"{directory}-renamed", name)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The database of a cluster in a folder of its own."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    monkeypatch.setenv("COMET_FOLDER", f"{folder.stat().st_ino}:{folder}")
    return str(folder / "stats.db")


@pytest.mark.parametrize("other", [False, True])
def test_a_database_is_followed_where_its_folder_is_renamed(cluster: str, other: bool) -> None:
    store, reader = opened(cluster), SqliteReader(cluster)
    store.commit(some(1))
    now = moved(cluster, other)
    store.commit(some(1))
    assert not store.replaced()
    store.tick(time.time())
    store.commit(some(1))
    late = SqliteReader(now)
    for each in (reader, late):
        assert [row.successful for row in each.rows()] == [3]
    if not other:
        store.close()
        late.close()
        reader.close()
    else:
        # SQLite removes the side files by the path at which it has opened them.
        there = opened(cluster, "there")
        sides = {suffix: sqlite.identity(cluster + suffix) for suffix in ("-wal", "-shm")}
        store.close()
        reader.close()
        late.close()
        assert {suffix: sqlite.identity(cluster + suffix) for suffix in sides} == sides
        there.close()
        assert [name for name, *_ in rows(cluster)] == ["other", "there"]
    assert [(name, good) for name, good, *_ in rows(now)] == [("fdbaa57c12d3", 3)]
    assert os.path.exists(os.path.dirname(cluster)) == other


def test_a_database_in_a_renamed_folder_is_followed(cluster: str) -> None:
    store = opened(cluster)
    now = moved(cluster, other=False)
    store.tick(time.time())
    os.unlink(now)
    store.tick(time.time())
    assert rows(now) == [("fdbaa57c12d3", 0, 0, 0)]
    store.commit(some(1))
    os.rename(os.path.dirname(now), os.path.dirname(cluster))
    store.commit(some(1))
    assert not store.replaced()
    store.close()
    assert [(name, good) for name, good, *_ in rows(cluster)] == [("fdbaa57c12d3", 2)]


def test_a_replaced_database_directory_is_used(cluster: str) -> None:
    """The cluster's folder is where it was: somebody has put the database's directory away."""
    path = os.path.join(os.path.dirname(cluster), "stats", "stats.db")
    os.mkdir(os.path.dirname(path))
    store = opened(path)
    moved(path, other=True)
    store.commit(some(1))
    assert store.replaced()
    store.reopen()
    store.commit(some(1))
    store.close()
    assert [(name, good) for name, good, *_ in rows(path)] == [("fdbaa57c12d3", 1), ("other", 0)]


# The command


def run(*words: str) -> int:
    return database.main(list(words))


def test_stats_and_reset_commands(
    where: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COMET_DATABASE", where if "://" in where else f"sqlite:///{where}")
    assert run("stats") == 1
    assert not os.path.exists(where)
    assert run("create") == 0
    store = opened(where)
    store.commit(some(2, 1, us=250_000))
    store.close()
    capsys.readouterr()
    assert run("stats") == 0
    assert json.loads(capsys.readouterr().out)["TotalRequests"] == [{"total": 3}, {"fdbaa57c12d3": 3}]
    assert run("report") == 0
    (worker,) = json.loads(capsys.readouterr().out)["workers"]
    assert (worker["successful"], worker["failed"], worker["injections"], worker["mean_ms"]) == (
        2,
        1,
        {"failure": 1},
        250.0,
    )
    assert 250.0 <= worker["p99_ms"] <= 300.0
    assert run("reset", "--keep", "fdbaa57c12d3") == 0
    assert rows(where) == [("fdbaa57c12d3", 0, 0, 0)]
    assert run("reset") == 0
    assert rows(where) == []


@pytest.mark.parametrize(
    "url", ["", "mysql://user:secret@host/db", "postgresql://user:secret%@host/db", "sqlite://", "nonsense"]
)
@pytest.mark.parametrize("command", ["create", "stats", "report", "reset"])
def test_a_bad_database_url_is_one_line(
    url: str, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COMET_DATABASE", url)
    assert run(command) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "secret" not in error


@pytest.mark.parametrize("command", ["create", "stats", "report", "reset"])
def test_a_damaged_file_is_one_line(
    command: str, path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(path).write_bytes(b"junk" * 2000)
    monkeypatch.setenv("COMET_DATABASE", f"sqlite:///{path}")
    assert run(command) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "Traceback" not in error
    assert path in error


def test_side_files_are_only_removed_when_they_have_no_owner(path: str) -> None:
    store = opened(path)
    store.commit(some(1))
    sqlite.prepare(path)  # another worker's start
    assert os.path.exists(path + "-wal")
    store.commit(some(1))
    store.close()
    assert rows(path)[0][1] == 2
