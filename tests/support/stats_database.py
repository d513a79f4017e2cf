"""Writes and reads the statistics database in tests."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path
from typing import Any

import psycopg

from worker_app import address
from worker_app.common.identity import CONTAINER, Identity
from worker_app.stats.batch import Batch, Record, batch_of
from worker_app.stats.store import Store


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
