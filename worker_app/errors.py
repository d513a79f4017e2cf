"""The worker's error types; the text of a `WorkerError` is one line made for the user."""

from __future__ import annotations


class WorkerError(Exception):
    """Ends the worker or the command with exit code 1 and its text as the only line."""


class NotCommitted(Exception):
    """The transaction has surely left no trace (locked, disk full, connection refused...); it may be tried again."""


class Undecided(Exception):
    """The commit broke off in a way that leaves open whether it took; `verify` must tell."""


class FaultError(Exception):
    """A faults file that cannot be used; the text names every problem."""
