"""Who keeps the database locked: told by the kernel, judged with patience."""

import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.waiting import wait_until
from tests.unit.statistics.test_writer_lock import lock_holder

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
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process.pid
        finally:
            process.stdin.close()


def test_the_lock_holder_and_commits_are_detected(database: Path) -> None:
    assert lock_holder(database) is None
    # /proc/locks is read in pages: where other locks end meanwhile, a line may be missing.
    with holder(database) as pid:
        first = wait_until(lambda: lock_holder(database))
        assert first is not None
        assert first.pid == pid
        assert wait_until(lambda: lock_holder(database)) == first
    assert lock_holder(database) is None
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("INSERT INTO numbers VALUES (1)")
    with holder(database) as pid:
        second = wait_until(lambda: lock_holder(database))
        assert second is not None
        assert (second.pid, second.commits != first.commits) == (pid, True)
