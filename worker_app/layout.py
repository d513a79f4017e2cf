"""What all that touch the database agree on, apart from the tables' definition: a start that finds everything in place needs no more."""

from __future__ import annotations

VERSION = 1  # of the schema
TABLES = ("workers", "latency", "injections", "counted_requests")  # beside the one that names the version
RETIRED = "retired"  # the row into which the oldest former workers are folded
ID_LENGTH = 255  # characters kept of a request's id
LOCK = 0x636F6D6574  # PostgreSQL: the advisory lock of those who register, fold, make or migrate ("comet")

HEARTBEAT = 60.0  # seconds between two signs of life of an idle worker
FORMER_ROWS = 1000  # rows of former workers kept one by one
FORMER_AFTER = 600.0  # seconds without a sign of life after which a row counts as a former worker's
