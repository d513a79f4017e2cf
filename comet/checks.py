"""Checks of single values that a user wrote (YAML, a command line, JSON): the value as it is to be used, or ValueError with the reason.

A `Key` puts a check into a table with its default and, in words, what is allowed and what it means; error texts and documentation
are read from there. Pure.
"""

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Check = Callable[[Any], Any]
"""Takes the YAML value and returns the checked one; raises ValueError with the reason."""

MEMORY_UNITS = {"": 1, "b": 1, "k": 1024, "m": 1024**2, "g": 1024**3}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def whole(low: int, high: int) -> Check:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"{shown(value)} is not a whole number")
        if not low <= value <= high:
            raise ValueError(f"{value} is out of range")
        return value

    return check


def number(low: float, high: float) -> Check:
    def check(value: Any) -> float:
        if not _is_number(value):
            raise ValueError(f"{shown(value)} is not a number")
        # A NaN fails both comparisons, so it is refused too.
        if not low <= value <= high:
            raise ValueError(f"{value} is out of range")
        return float(value)

    return check


def one_of(*names: str) -> Check:
    def check(value: Any) -> str:
        if value not in names:
            raise ValueError(f"{shown(value)} is not known")
        return str(value)

    return check


def text(pattern: str = r".+") -> Check:
    def check(value: Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise ValueError(f"{shown(value)} is not usable")
        return value

    return check


def memory(value: Any) -> int:
    """Bytes from 268435456, 256m or 1g (the units of docker run --memory)."""
    match = re.fullmatch(r"(\d+)([bkmg]?)", str(value).lower()) if not isinstance(value, bool) else None
    if match is None:
        raise ValueError(f"{shown(value)} is not an amount of memory")
    amount = int(match[1]) * MEMORY_UNITS[match[2]]
    if amount < 32 * MEMORY_UNITS["m"]:
        raise ValueError(f"{shown(value)} is too little")
    if amount >= 2**63:
        raise ValueError(f"{shown(value)} is too much")
    return amount


def words(value: Any) -> tuple[str, ...]:
    """A command line as text, split as a shell would, or as a list of words."""
    if isinstance(value, list) and value and all(isinstance(word, str | int | float) and not isinstance(word, bool) for word in value):
        return tuple(str(word) for word in value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{shown(value)} is not a command line")
    try:
        return tuple(shlex.split(value))
    except ValueError as error:
        raise ValueError(f"{value!r} is not a command line: {str(error).lower()}") from None


def environment(value: Any) -> tuple[tuple[str, str], ...]:
    """Variables by name; a number is taken as it is written, true and false as words."""
    if not isinstance(value, dict):
        raise ValueError(f"{shown(value)} is not usable")
    for name, given in value.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", str(name)):
            raise ValueError(f"{name!r} is no name of a variable")
        if not isinstance(given, str | int | float):
            raise ValueError(f"{name}: {shown(given)} is not text")
    return tuple((str(name), given if isinstance(given, str) else _shown(given)) for name, given in value.items())


def volumes(value: Any) -> tuple[tuple[str, str, bool], ...]:
    """(source, target, read-only) of each SOURCE:TARGET[:ro|:rw]."""
    if not isinstance(value, list):
        raise ValueError(f"{shown(value)} is not a list")
    found = []
    for each in value:
        match = re.fullmatch(r"([^:]+):(/[^:]*)(?::(ro|rw))?", each) if isinstance(each, str) else None
        if match is None:
            raise ValueError(f"{shown(each)} is no volume")
        found.append((match[1], match[2], match[3] == "ro"))
    return tuple(found)


def constraints(value: Any) -> tuple[str, ...]:
    """Conditions on nodes, as `docker service create --constraint` takes them."""
    if not isinstance(value, list):
        raise ValueError(f"{shown(value)} is not a list")
    for each in value:
        if not isinstance(each, str) or not re.fullmatch(r"(node|engine)\.[\w.\-]+ *[=!]= *[\w.\-/:]+", each):
            raise ValueError(f"{shown(each)} is no condition on a node")
    return tuple(value)


def flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{shown(value)} is neither true nor false")
    return value


def or_word(word: str, check: Check, meaning: Any) -> Check:
    """`word` (or an empty value, where the word is `none`) stands for `meaning`; anything else goes to `check`."""

    def checked(value: Any) -> Any:
        return meaning if value == word or (value is None and word == "none") else check(value)

    return checked


def refused(value: Any) -> Any:
    """The check of what is no single value."""
    raise ValueError(f"{shown(value)} is not usable")


@dataclass(frozen=True)
class Key:
    """One setting: its default (as YAML), how it is checked, what is allowed (in words) and what it means."""

    default: Any
    check: Check
    allowed: str
    meaning: str


_PASSWORD = re.compile(r"(\w://[^\s/@:]*:)[^\s@]*@")


def shown(value: Any) -> str:
    """A value as a message quotes it: without the password of a URL, for messages are logged, kept and shown to everybody."""
    return _PASSWORD.sub(r"\1***@", _shown(value))


def _shown(value: Any) -> str:
    return (
        "nothing"
        if value is None
        else repr(value)
        if isinstance(value, str)
        else str(value).lower()
        if value in (True, False)
        else str(value)
    )
