"""The statistics database with rows of any type: its readers understand or refuse them, and no worker stops."""

import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.fuzz_inputs import FULL, INPUTS
from worker_app.common.errors import NotCommitted, WorkerError
from worker_app.stats.sqlite_database import SqliteDatabase

pytestmark = pytest.mark.slow  # Random input, and much of it.

CELLS = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.just("many"),
)
COLUMNS = (
    "name",
    "first_started",
    "updated",
    "successful",
    "failed",
    "unplanned",
    "disconnected",
    "duration_us",
    "last_batch",
)
TABLES = {
    "workers": COLUMNS,
    "latency": ("worker", "bucket", "count"),
    "injections": ("worker", "kind", "count"),
    "comet_schema": ("version",),
}


def test_rows_of_any_type_are_read_or_refused_and_stop_no_worker(tmp_path: Path) -> None:
    from worker_app import database

    path = tmp_path / "stats.db"

    @settings(
        max_examples=INPUTS // 10,
        deadline=None,
        derandomize=not FULL,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(
        st.lists(
            st.tuples(st.sampled_from([(table, column) for table in TABLES for column in TABLES[table]]), CELLS),
            max_size=3,
        )
    )
    def run(cells: list[tuple[tuple[str, str], Any]]) -> None:
        for suffix in ("", "-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
        kept = SqliteDatabase(str(path))
        kept.create()
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("INSERT INTO workers VALUES (1, '4711', 5.0, 5.0, 3, 1, 0, 0, 900, 7)")
            connection.execute("INSERT INTO latency VALUES ('4711', 3, 4)")
            connection.execute("INSERT INTO injections VALUES ('4711', 'hang', 4)")
            for (table, column), value in cells:
                with contextlib.suppress(sqlite3.Error):  # A column that may not be null.
                    connection.execute(f"UPDATE {table} SET {column} = ?", (value,))
        with contextlib.suppress(WorkerError):
            assert "workers" in json.loads(database.report(str(path)), parse_constant=pytest.fail)
        with contextlib.suppress(WorkerError):
            assert "TotalRequests" in json.loads(database.stats(str(path)))
        with contextlib.suppress(WorkerError, NotCommitted):
            store = kept.store(lambda taken: "4712" if "4711" in taken else "4711")
            try:
                store.open()
            finally:
                store.close()

    run()
