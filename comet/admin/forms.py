"""The bodies of writes -> the commands of the control socket. Pure.

Only shape and names are checked here, so that a mistake is told as 400 with what is allowed; whether a thing exists, and whether its
time is now, is the supervisor's to say.
"""

from collections.abc import Callable, Mapping
from typing import Any

from comet.config import KEYS
from comet.errors import UserError
from comet.faults import SETTINGS, change

Form = Callable[[dict[str, Any]], dict[str, Any]]


def _scale(body: dict[str, Any]) -> dict[str, Any]:
    if not body:
        raise UserError("scale: name worker, pool or both, whole numbers")
    for name, value in body.items():
        try:
            KEYS[name].check(value)
        except ValueError as error:
            raise UserError(f"{name}: {error} (allowed: {KEYS[name].allowed}); nothing was changed") from None
    return body


def _restart(body: dict[str, Any]) -> dict[str, Any]:
    return {"target": _text(body, "target", "a replica's name, worker, lb or all")}


def _kill(body: dict[str, Any]) -> dict[str, Any]:
    signal = body.get("signal", "KILL")
    if isinstance(signal, bool) or not isinstance(signal, str | int):
        raise UserError("signal: a name or a number is wanted")
    return {"name": _text(body, "name", "a replica's name"), "signal": str(signal)}


def _faults(body: dict[str, Any]) -> dict[str, Any]:
    target = body.get("target", "all")
    if not isinstance(target, str):
        raise UserError("target: a worker's name or all is wanted")
    wanted = {name: value for name, value in body.items() if name != "target"}
    if wanted:
        change(wanted)
    return {"target": target, **wanted}


def _nothing(body: dict[str, Any]) -> dict[str, Any]:
    return {}


def _text(body: Mapping[str, Any], name: str, what: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise UserError(f"{name}: {what} is wanted")
    return value


FORMS: dict[str, tuple[Form, frozenset[str]]] = {
    "scale": (_scale, frozenset({"worker", "pool"})),
    "restart": (_restart, frozenset({"target"})),
    "kill": (_kill, frozenset({"name", "signal"})),
    "faults": (_faults, frozenset({"target", "for", "count", "clear", *SETTINGS})),
    "reload": (_nothing, frozenset()),
    "stop": (_nothing, frozenset()),
}
"""By command: how its body is read, and the names that may stand in it."""


def read(command: str, body: Any) -> dict[str, Any]:
    """The fields of the command; UserError says what is wrong with the body."""
    if not isinstance(body, dict):
        raise UserError("the body must be a JSON object")
    form, names = FORMS[command]
    for name in body:
        if name not in names:
            raise UserError(f"{name}: unknown field (allowed: {', '.join(sorted(names)) or 'none'})")
    return form(body)
