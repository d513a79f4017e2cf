"""The worker's error types.

The text of a `WorkerError` is one line for the user.
"""

from __future__ import annotations


class WorkerError(Exception):
    """Ends the worker or the command with exit code 1 and its text as the only line."""


class NotCommitted(Exception):
    """The transaction has left no trace (database locked, disk full, connection refused); it may be tried again."""


class Undecided(Exception):
    """The commit failed in a way that leaves its outcome unknown; `verify` finds it out."""


class FaultError(Exception):
    """The faults file is not usable; the text names every problem."""
