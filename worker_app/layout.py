"""What all that touch the database agree on, apart from the tables' definition: a start that finds everything in place needs no more."""

from __future__ import annotations

VERSION = 1  # of the schema
RETIRED = "retired"  # the row into which the oldest former workers are folded
