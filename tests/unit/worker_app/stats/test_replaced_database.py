"""A database that is deleted, replaced, or moved with its folder."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from tests.support.stats_database import digest, opened, rows, some, sql
from worker_app.common.errors import NotCommitted
from worker_app.stats import sqlite
from worker_app.stats.sqlite_database import SqliteReader


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


LOST = [("-wal",), ("-shm",), ("-wal", "-shm")]


@pytest.mark.parametrize("suffixes", LOST, ids="".join)
def test_removed_side_files_lose_no_count(path: str, suffixes: tuple[str, ...]) -> None:
    """As a cleaner of `*-wal` removes them: who connects later would see other ones than who is connected."""
    first, second = opened(path, "first"), opened(path, "second")
    reader = SqliteReader(path)
    for store in (first, second):
        store.commit(some(5))
    assert len(reader.rows()) == 2
    for suffix in suffixes:
        os.unlink(path + suffix)
    second.commit(some(1))
    assert not second.replaced()
    first.tick(time.time())
    second.commit(some(1))
    assert second.replaced()  # so that it is committed once more
    second.reopen()
    second.commit(some(1))
    late = opened(path, "late")
    late.commit(some(1))
    for store in (first, second):
        store.tick(time.time())
        store.commit(some(1))
        assert not store.replaced()
    assert [(row.name, row.successful) for row in reader.rows()] == [("first", 6), ("second", 8), ("late", 1)]
    for each in (reader, late, second, first):
        each.close()
    assert sorted((name, good) for name, good, *_ in rows(path)) == [("first", 6), ("late", 1), ("second", 8)]
    assert sql(path, "PRAGMA integrity_check") == [("ok",)]
    assert os.listdir(os.path.dirname(path)) == [os.path.basename(path)]


@pytest.mark.parametrize("suffixes", LOST, ids="".join)
def test_a_repair_that_is_not_possible_blocks_no_worker(
    path: str, suffixes: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = opened(path, "first"), opened(path, "second")
    for suffix in suffixes:
        os.unlink(path + suffix)

    def full(source: str, target: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("shutil.copyfile", full)
        with pytest.raises(NotCommitted, match="No space left"):
            first.tick(time.time())
        for store in (first, second):
            store.commit(some(1))
    first.tick(time.time())
    assert second.replaced()
    second.reopen()
    assert [(name, good) for name, good, *_ in rows(path)] == [("first", 1), ("second", 1)]
    first.close()
    second.close()


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
