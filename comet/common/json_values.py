"""Decodes and checks JSON that another program wrote.

Every reader of a file or message calls this module first and needs no other check. `decode` also refuses what
`json.loads` accepts, or fails on with another error than ValueError: endless nesting, numbers that are not finite,
integers of thousands of digits. It replaces halves of surrogate pairs, which no output can encode. `build_record` makes
a dataclass of a mapping by the types of its fields, so that a field is declared once. The functions have no side
effects. Every refusal is a ValueError.
"""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal, NoReturn, TypeVar, Union

T = TypeVar("T")

MAX_BYTES = 16 << 20
"""The size of a JSON text in bytes, far above anything that Comet writes."""

MAX_DEPTH = 64
"""Levels of nesting; code that handles a value later may be recursive."""

MAX_INTEGER = 2**63
"""The limit of whole numbers; no counter, PID or time reaches it."""


def decode(data: str | bytes, most: int = MAX_BYTES) -> Any:
    """Return the JSON value in `data`; all its text can be encoded and all its numbers are finite."""
    if len(data) > most:
        raise ValueError(f"longer than {most} bytes")
    try:
        text = data if isinstance(data, str) else data.decode()
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_whole)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg.lower()} at character {error.pos})") from None
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _require_depth(value, MAX_DEPTH)
    return encodable(value) if "\\u" in text or not text.isascii() else value


def encodable(value: Any) -> Any:
    """Return the value with U+FFFD in place of each half of a surrogate pair.

    JSON can escape such halves, but UTF-8 cannot encode them.
    """
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [encodable(each) for each in value]
    return {encodable(key): encodable(each) for key, each in value.items()} if isinstance(value, dict) else value


def mapping(value: Any) -> dict[str, Any]:
    """Return the value if it is a JSON object; raise ValueError if not."""
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_whole(value: Any, low: int = -MAX_INTEGER, high: int = MAX_INTEGER) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value < high


def has_shape(value: Any, hint: Any) -> bool:
    """Return whether a JSON value has the type of a hint.

    `float` also accepts whole numbers. Otherwise no type accepts values of another.
    """
    return _checker(hint)(value)


def require_shape(value: Any, shape: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value if it is a JSON object with (at least) these fields, each of its type."""
    given = mapping(value)
    for name, hint in shape.items():
        if name not in given or not has_shape(given[name], hint):
            raise ValueError(f"{name}: missing, or not of its type")
    return given


def build_record(cls: type[T], value: Any) -> T:
    """Return the dataclass that a JSON object describes.

    Fields of a later version are ignored. A field without a default must not be missing.
    """
    given, hints = mapping(value), _hints(cls)  # type: ignore[arg-type]
    known: dict[str, Any] = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if field.name in given:
            if not has_shape(given[field.name], hints[field.name]):
                raise ValueError(f"{field.name}: not of its type")
            known[field.name] = given[field.name]
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{field.name}: missing")
    return cls(**known)


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


@cache
def _checker(hint: Any) -> Callable[[Any], bool]:
    simple: dict[Any, Callable[[Any], bool]] = {
        Any: lambda value: True,
        None: lambda value: value is None,
        types.NoneType: lambda value: value is None,
        bool: lambda value: isinstance(value, bool),
        int: is_whole,
        float: is_number,
        str: lambda value: isinstance(value, str),
    }
    if hint in simple:
        return simple[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return lambda value: any(has_shape(value, each) for each in arguments)
    if origin is Literal:
        return lambda value: any(type(value) is type(each) and value == each for each in arguments)
    if origin is list:
        return lambda value: isinstance(value, list) and all(has_shape(each, arguments[0]) for each in value)
    if origin in (dict, Mapping):
        return lambda value: isinstance(value, dict) and all(has_shape(each, arguments[1]) for each in value.values())
    raise TypeError(f"no JSON is of type {hint}")


def _require_depth(value: Any, left: int) -> None:
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if not left and below:
        raise ValueError("nested too deeply")
    for each in below:
        if isinstance(each, list | dict):
            _require_depth(each, left - 1)


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")


def _finite(text: str) -> float:
    number = float(text)
    if not abs(number) < MAX_INTEGER:
        raise ValueError("a number beyond all bounds")
    return number


def _whole(text: str) -> int:
    if len(text) > 20 or not -MAX_INTEGER <= (number := int(text)) < 2 * MAX_INTEGER:
        raise ValueError("a number beyond all bounds")
    return number
