"""Defines what a command is, wherever it is given: on the command line, over the control socket, over HTTP.

Pure. `comet.commands.table` has the commands.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from comet.common.errors import UserError
from comet.common.wording import hint
from comet.faults.orders import span

Schema = dict[str, Any]
Check = Callable[[Any], Any]
"""Takes a value and returns it as the command uses it; raises ValueError with what must be."""

ANYTHING = object
"""The type of a field that the command itself checks."""

Handler = Callable[[Any, Mapping[str, Any]], Any]
"""Takes the `Operations` of the supervisor and the request's fields; returns the result, or what awaits it."""

ACTING = "cli.acting:act"
"""The command line's function for a command that only sends its arguments to the supervisor."""


@dataclass(frozen=True)
class Argument:
    """An argument on the command line.

    `settings` are those of `argparse`. `read` turns the text into the value, or raises ValueError. `words` are the
    values that completion offers; with `replicas` it offers the names of replicas too.
    """

    flags: tuple[str, ...]
    help: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    read: Callable[[str], Any] | None = None
    words: str = ""
    replicas: bool = False


def argument(
    *flags: str,
    help: str | None = None,
    read: Callable[[str], Any] | None = None,
    words: str = "",
    replicas: bool = False,
    **settings: Any,
) -> Argument:
    """Return an argument; one without help is not shown."""
    return Argument(flags, help, settings, read, words, replicas)


def switch(*flags: str, help: str) -> Argument:
    return argument(*flags, help=help, action="store_true")


def value(flag: str, metavar: str, help: str, **more: Any) -> Argument:
    """Return an option with a value, or where the flag has no dashes, an argument."""
    return argument(flag, help=help, metavar=metavar, **more)


@dataclass(frozen=True)
class Input:
    """A field as the page's dialog shows it.

    Its choices are `choices` (value and words), and the names of these replicas: `replicas`, `running` or `workers`. It
    first has the value `first`, or the number of `counts`: `workers` or `lbs`.
    """

    label: str = ""
    names: str = ""
    choices: tuple[tuple[str, str], ...] = ()
    first: str | int | None = None
    counts: str = ""
    unit: str = ""


@dataclass(frozen=True)
class Form:
    """The page's dialog for a command; what is empty is made of the command's name, help and fields.

    `fields` are those that the dialog has without more, if not all. `done` says the outcome: `{name}` stands for that
    field of the request or of the result, `{worker: worker}` for a number of workers. The button comes at its `place`
    in the tool bar; 0 is none. A command that another one undoes names that as `reverse`, and both have one dialog with
    a choice of the `order`. It begins with the reverse where the replica or the cluster is `reversible`.
    """

    title: str = ""
    why: str = ""
    yes: str = ""
    done: str = ""
    is_risky: bool = False
    place: int = 99
    fields: tuple[str, ...] = ()
    order: str = ""
    reverse: str = ""
    reversible: str = ""


@dataclass(frozen=True)
class Field:
    """A field of a command's request.

    `shape` is its type over the control socket; a field that may be null may be missing there. `schema` describes it
    over HTTP; without one it is not allowed there. `check` is applied there, to a missing `required` field too. `input`
    says how the page shows it.
    """

    schema: Schema | None = None
    shape: Any = ANYTHING
    check: Check = lambda value: value
    required: bool = False
    default: Any = None
    input: Input = Input()


@dataclass(frozen=True)
class Command:
    """A command. `run` is the function of the command line, MODULE:FUNCTION below `comet`; "" is no such command.

    `handler` carries it out in the supervisor, `text` says the result in words. With `over_http` it is a path of the
    API and has a dialog on the page (`form`): `check` gets the whole body after its fields were checked, `minimum` is
    the number of fields that it needs.
    `when_complete` is for a command that has to wait until each load balancer of an earlier supervisor is adopted.
    """

    name: str
    help: str = ""
    examples: tuple[str, ...] = ()
    arguments: tuple[Argument, ...] = ()
    run: str = ACTING
    fields: Mapping[str, Field] = field(default_factory=dict)
    handler: Handler | None = None
    text: Callable[[Mapping[str, Any]], str] = str
    over_http: bool = False
    form: Form = Form()
    check: Callable[[Mapping[str, Any]], Any] = lambda body: None
    minimum: int = 0
    when_complete: bool = False

    @property
    def http_fields(self) -> dict[str, Field]:
        return {name: each for name, each in self.fields.items() if each.schema is not None}

    def read(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the request that a body of the HTTP API describes; UserError says what is wrong with it."""
        known = self.http_fields
        for name in body:
            if name not in known:
                raise UserError(f"{name}: unknown field (allowed: {', '.join(sorted(known)) or 'none'})")
        request: dict[str, Any] = {}
        for name, each in known.items():
            if name in body or each.required or each.default is not None:
                try:
                    request[name] = each.check(body.get(name, each.default))
                except ValueError as error:
                    raise UserError(f"{name}: {error}") from None
        self.check(request)
        return request


def words_field(expected: str, **more: Any) -> Field:
    """Return a required field that is a text; `expected` says which."""

    def check(value: Any) -> str:
        if not isinstance(value, str) or not value:
            raise ValueError(f"must be {expected}")
        return value

    return Field({"type": "string", "minLength": 1}, str, check, required=True, **more)


def between(low: float, high: float, allowed: str) -> Check:
    """Return the check of a number."""

    def check(value: Any) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"must be {allowed}")
        return float(value)

    return check


def count(text: str) -> int:
    """Return a whole number from 0."""
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ValueError(f"{text[:40]!r} is not usable (allowed: a whole number from 0 to 999999999)")
    return int(text)


def positive(text: str) -> int:
    """Return a whole number from 1."""
    if not re.fullmatch(r"0*[1-9][0-9]{0,8}", text):
        raise ValueError(f"{text[:40]!r} is not usable (allowed: a whole number from 1 to 999999999)")
    return int(text)


def seconds(text: str) -> float:
    """Return a time in seconds: 5, 0.5, 5s, 500ms or 2m."""
    try:
        return 0.0 if text in ("0", "0s") else span(text)
    except ValueError as error:
        raise ValueError(f"{error} (allowed: a time like 5, 500ms, 30s or 2m, up to 7d)") from None


def several(*known: str) -> Callable[[str], tuple[str, ...]]:
    """Return the reader of a list of these words, separated by commas."""

    def read(text: str) -> tuple[str, ...]:
        found = tuple(dict.fromkeys(text.split(",")))
        for word in found:
            if word not in known:
                raise ValueError(f"{word[:40]!r} is not usable ({hint(word, known)})")
        return found

    return read


def file_path(text: str) -> Path:
    """Return the given path; refuse an empty one, which would mean this folder (from an unset variable)."""
    if not text:
        raise ValueError("the file's name is empty")
    return Path(text)
