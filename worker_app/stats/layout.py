"""Defines what everything that uses the database agrees on, apart from the definition of the tables.

It imports nothing, so a start that finds the database complete does not pay for SQLAlchemy.
"""

from __future__ import annotations

VERSION = 1
"""Version of the schema."""

TABLES = ("workers", "latency", "injections", "counted_requests")
"""The tables besides `comet_schema`, which holds the version."""

RETIRED = "retired"
"""Name of the row into which the oldest former workers are merged."""

ID_LENGTH = 255
"""Characters kept of a request's id."""

LOCK = 0x636F6D6574
"""Key ("comet") of the PostgreSQL advisory lock held to register, merge rows, and create or migrate tables."""

HEARTBEAT_INTERVAL = 60.0
"""Seconds between two writes of an idle worker, which show that it is alive."""

MAX_FORMER_ROWS = 1000
"""Number of former workers whose rows are kept separately."""

FORMER_AFTER = 600.0
"""Seconds without a write after which a row counts as that of a former worker."""
