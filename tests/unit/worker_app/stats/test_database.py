"""The database: recognized before it is touched, created, migrated, and the commands about it."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import threading
from pathlib import Path

import pytest

from tests.support.stats_database import digest, opened, rows, some, sql
from worker_app import database
from worker_app.common.errors import WorkerError
from worker_app.stats import layout, schema, sqlite
from worker_app.stats.sqlite_store import SqliteStore

ORIGINAL_DDL = (
    "CREATE TABLE `worker_stats` (`worker_id` text,`timestamp` datetime,`successful_requests` integer,"
    "`failed_requests` integer,`total_requests` integer,`average_response_time` real,PRIMARY KEY (`worker_id`))"
)


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


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
def test_a_fifo_in_place_of_a_side_file_blocks_nobody(path: str, suffix: str) -> None:
    """SQLite would wait without end for the other end of one that it may only read; root may write to it, too."""
    sqlite.prepare(path)
    for other in ("-wal", "-shm"):
        Path(path + other).unlink(missing_ok=True)
    os.mkfifo(path + suffix, 0o444)
    with pytest.raises(sqlite3.OperationalError, match=f"{suffix} is a link or a special file; remove it"):
        sqlite.connect(path)
    sqlite.prepare(path)  # As the next worker that starts does.
    sqlite.connect(path).close()
    os.mkdir(path + "-journal")
    with pytest.raises(WorkerError, match="-journal is a link or a special file"):
        sqlite.prepare(path)


def test_side_files_are_only_removed_when_they_have_no_owner(path: str) -> None:
    store = opened(path)
    store.commit(some(1))
    sqlite.prepare(path)  # another worker's start
    assert os.path.exists(path + "-wal")
    store.commit(some(1))
    store.close()
    assert rows(path)[0][1] == 2
