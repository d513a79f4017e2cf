"""Describes why no Docker engine can be used, as an error with a code for the set-up scripts."""

from __future__ import annotations

from enum import IntEnum

from comet.common.errors import UserError


class ErrorKind(IntEnum):
    """Why an engine cannot be used; the value is the exit code of `python -m comet.engine.connection`."""

    ABSENT = 10
    FORBIDDEN = 11
    REMOTE = 12
    SILENT = 13


class EngineError(UserError):
    """The error that no Docker engine is usable.

    `kind` says why, `message` what to do about it.
    """

    def __init__(self, kind: ErrorKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind
