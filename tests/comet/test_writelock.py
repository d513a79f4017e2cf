"""Who keeps the database locked: told by the kernel, judged with patience."""

import contextlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from comet.writelock import PATIENCE, Held, Patience, look, whose

HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "stats.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE numbers (number)")
        yield path


@contextlib.contextmanager
def holder(path: Path) -> Iterator[int]:
    """A process that holds the write lock for the length of the block."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process.pid
        finally:
            process.stdin.close()


def test_patience_ends_with_one_holder_and_no_commit() -> None:
    patience, held = Patience(), Held(7, b"1")
    assert [patience.exhausted(held) for _ in range(2 * PATIENCE)] == ([False] * (PATIENCE - 1) + [True]) * 2


@pytest.mark.parametrize("other", [None, Held(8, b"1"), Held(7, b"2")], ids=["released", "another holder", "committed"])
def test_whatever_moves_restores_patience(other: Held | None) -> None:
    patience, held = Patience(), Held(7, b"1")
    for _ in range(3):
        assert not any(patience.exhausted(each) for each in [*[held] * (PATIENCE - 1), other])


@pytest.mark.slow
def test_the_holder_is_told_and_commits_are_seen(database: Path) -> None:
    assert look(database) is None
    with holder(database) as pid:
        first = look(database)
        assert first is not None
        assert first.pid == pid
        assert look(database) == first
    assert look(database) is None
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("INSERT INTO numbers VALUES (1)")
    with holder(database) as pid:
        second = look(database)
        assert second is not None
        assert (second.pid, second.commits != first.commits) == (pid, True)


def test_a_database_that_is_not_there_is_locked_by_nobody(tmp_path: Path) -> None:
    assert look(tmp_path / "none.db") is None


def test_a_process_is_its_replica_s_or_nobody_s() -> None:
    assert whose(os.getpid(), {os.getpid(): "worker-0"}) == "worker-0"
    assert whose(os.getpid(), {os.getppid(): "worker-1"}) == "worker-1"
    assert whose(os.getpid(), {}) is None
    assert whose(2**22 + 1, {1: "worker-0"}) is None
