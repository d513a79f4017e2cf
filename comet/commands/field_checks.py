"""Checks the fields of requests, so that every way to give a command refuses the same values with the same message.

Pure. A check of one field returns the value as the command uses it, or raises ValueError with what must be. One of
several fields takes all of them, and raises UserError.
"""

import re
from collections.abc import Mapping
from typing import Any

from comet.commands.command import Check, Schema
from comet.common.errors import UserError
from comet.common.values import Key
from comet.faults.orders import SPANS, change, span


def scaled(key: Key) -> Check:
    def check(value: Any) -> Any:
        try:
            return key.check(value)
        except ValueError as error:
            raise ValueError(f"{error} (allowed: {key.allowed}); nothing was changed") from None

    return check


def require_a_number(body: Mapping[str, Any]) -> None:
    if not body:
        raise UserError("scale: worker, pool or both must be given (whole numbers)")


def signal(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError("must be a name or a number")
    if not re.fullmatch(r"[A-Za-z0-9+]{1,20}", str(value), re.ASCII):
        raise ValueError("no such signal (allowed: KILL, TERM, STOP, CONT, SEGV, … or its number)")
    return str(value)


def pause(value: Any) -> float | None:
    try:
        return None if value is None else span(value)
    except ValueError as error:
        raise ValueError(f"{error} (allowed: {SPANS}); nothing was changed") from None


def target(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a worker's name or all")
    return value


def faults(body: Mapping[str, Any]) -> None:
    wanted = {name: value for name, value in body.items() if name != "target"}
    if wanted:
        change(wanted, body["target"])


def setting_schema(key: Key) -> Schema:
    if isinstance(key.default, bool):
        return {"type": "boolean"}
    if isinstance(key.default, list):
        return {"type": ["string", "array"], "items": {"type": "string"}}
    return {"type": ["number", "string"]}
