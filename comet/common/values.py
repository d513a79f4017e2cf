"""Checks single values that a user wrote in YAML, on a command line or in JSON.

A check returns the value as it is to be used, or raises ValueError with the reason. A `Key` lists a check with its
default and, in words, what is allowed and what it means. Error texts and documentation are read from there. The
functions have no side effects.
"""

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

from comet.common.redaction import concealed
from fault_rules import amount

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
            raise ValueError(f"{shown(value)} is out of range")
        return value

    return check


def number(low: float, high: float) -> Check:
    def check(value: Any) -> float:
        if not _is_number(value):
            raise ValueError(f"{shown(value)} is not a number")
        # NaN fails both comparisons, so it is refused too.
        if not low <= value <= high:
            raise ValueError(f"{shown(value)} is out of range")
        return float(value)

    return check


SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
"""Units of time that people write behind a number, in lower case, each with what it means in seconds."""


def measured(low: float, high: float, units: Mapping[str, float]) -> Check:
    """Return the check of a number that may be text with a unit: 2s, 500ms, 12%."""
    plain = number(low, high)

    def check(value: Any) -> float:
        read = amount(value, units) if isinstance(value, str) else None
        if read is None:
            return float(plain(value))
        if not low <= read <= high:
            raise ValueError(f"{shown(value)} is out of range")
        return read

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


def host(value: Any) -> str:
    """Return an IP address or host name. Digits and dots alone, or a colon, make an address, which must be one."""
    found: str = text(r"[0-9A-Za-z_.:\-]+")(value)
    if ":" in found or re.fullmatch(r"[0-9.]+", found):
        try:
            ip_address(found)
        except ValueError:
            raise ValueError(f"{shown(value)} is no IP address") from None
    return found


def user(value: Any) -> str:
    """Return a user, or USER:GROUP, each by name or number; YAML reads a single number as an integer."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**32 - 1:
        return str(value)
    return str(text(r"[\w.\-]+(?::[\w.\-]+)?")(value))


def memory(value: Any) -> int:
    """Return the bytes of 268435456, 256m or 1g (the units of docker run --memory)."""
    match = (
        re.fullmatch(r"([0-9]{1,25})([bkmg]?)", _shown(value).strip("'").lower())
        if not isinstance(value, bool)
        else None
    )
    if match is None:
        raise ValueError(f"{shown(value)} is not an amount of memory")
    amount = int(match[1]) * MEMORY_UNITS[match[2]]
    if amount < 32 * MEMORY_UNITS["m"]:
        raise ValueError(f"{shown(value)} is too little")
    if amount >= 2**63:
        raise ValueError(f"{shown(value)} is too much")
    return amount


def words(value: Any) -> tuple[str, ...]:
    """Return the words of a command line, given as text, which is split as a shell would, or as a list of words."""
    if (
        isinstance(value, list)
        and value
        and all(isinstance(word, str | int | float) and not isinstance(word, bool) for word in value)
    ):
        found = tuple(str(word) for word in value)
    elif isinstance(value, str) and value.strip():
        try:
            found = tuple(shlex.split(value))
        except ValueError as error:
            raise ValueError(f"{guarded(value)} is not a command line: {str(error).lower()}") from None
    else:
        raise ValueError(f"{guarded(value)} is not a command line")
    if not found[0]:
        raise ValueError(f"{guarded(value)} is not a command line: its first word is empty")
    return found


def environment(value: Any) -> tuple[tuple[str, str], ...]:
    """Return variables by name; a number is taken as it is written, true and false as words."""
    if not isinstance(value, dict):
        raise ValueError(f"{guarded(value)} is not usable")
    for name, given in value.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", str(name)):
            raise ValueError(f"{shown(name)} is no name of a variable")
        if not isinstance(given, str | int | float):
            raise ValueError(f"{brief(name)}: {guarded(given)} is not text")
    return tuple((str(name), given if isinstance(given, str) else _shown(given)) for name, given in value.items())


def weights(low: int, high: int) -> Check:
    """Return a check of whole numbers by the names of workers, which become pairs."""

    def check(value: Any) -> tuple[tuple[str, int], ...]:
        if not isinstance(value, dict):
            raise ValueError(f"{shown(value)} is not usable")
        for name in value:
            if not re.fullmatch(r"worker-[0-9]{1,3}", str(name)):
                raise ValueError(f"{shown(name)} is no name of a worker")
        number = whole(low, high)
        return tuple((str(name), number(weight)) for name, weight in value.items())

    return check


def listed(check: Callable[[str], Any]) -> Check:
    """Return a check of one word or number, or of a list of them, which become one text; `check` raises ValueError."""

    def checked(value: Any) -> str:
        parts = value if isinstance(value, list) else [value]
        for part in parts:
            try:
                if isinstance(part, bool) or not isinstance(part, str | int):
                    raise ValueError
                check(str(part))
            except ValueError:
                raise ValueError(f"{shown(part)} is not usable") from None
        if not parts:
            raise ValueError("the list is empty")
        return ",".join(map(str, parts))

    return checked


def networks(value: Any) -> str:
    """Return addresses and networks as a list in one text."""
    if not isinstance(value, list):
        raise ValueError(f"{shown(value)} is not a list")
    wrong = [each for each in value if not isinstance(each, str) or not _is_network(each)]
    if wrong:
        verb = "is no address or network" if len(wrong) == 1 else "are no addresses or networks"
        raise ValueError(f"{', '.join(map(shown, wrong[:5]))} {verb}")
    return ",".join(value)


def _is_network(text: str) -> bool:
    try:
        ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def volumes(value: Any) -> tuple[tuple[str, str, bool], ...]:
    """Return (source, target, read-only) of each SOURCE:TARGET[:ro|:rw], or of a mapping with these names.

    The source may contain colons: the target begins with the last `:/`.
    """
    if not isinstance(value, list):
        raise ValueError(f"{shown(value)} is not a list")
    found = []
    for each in value:
        match = re.fullmatch(r"(?s)(.+):(/[^:]*?)(?::(ro|rw))?", each) if isinstance(each, str) else None
        if match is not None:
            found.append((match[1], match[2], match[3] == "ro"))
        elif isinstance(each, dict) and {"source", "target"} <= set(each) <= {"source", "target", "read-only"}:
            source, target, read_only = each["source"], each["target"], each.get("read-only", False)
            if (
                not isinstance(source, str)
                or not source
                or not str(target).startswith("/")
                or not isinstance(read_only, bool)
            ):
                raise ValueError(f"{shown(each)} is no volume")
            found.append((source, str(target), read_only))
        else:
            raise ValueError(f"{shown(each)} is no volume")
    return tuple(found)


def constraints(value: Any) -> tuple[str, ...]:
    """Return conditions on nodes, as `docker service create --constraint` takes them."""
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
    """Return a check that takes `word` as `meaning` and passes anything else to `check`.

    If the word is `none`, an empty value has the same meaning.
    """

    def checked(value: Any) -> Any:
        return meaning if value == word or (value is None and word == "none") else check(value)

    return checked


def url_host(host: str) -> str:
    """Return a host as it stands before a port: an IPv6 address gets its brackets."""
    return f"[{host}]" if ":" in host else host


def refused(value: Any) -> Any:
    """Refuse every value; this is the check of a key that has no single value."""
    raise ValueError(f"{shown(value)} is not usable")


@dataclass(frozen=True)
class Key:
    """One setting: its default (as YAML), how it is checked, what is allowed (in words) and what it means.

    One that is `fixed` cannot change while the cluster runs: its sockets and its database stay where they are.
    `choices` are its values where they are a few words.
    """

    default: Any
    check: Check
    allowed: str
    meaning: str
    fixed: bool = False
    choices: tuple[str, ...] = ()


MAX_QUOTED = 100
"""Characters of a value that a message quotes; a line of a file may have any length."""


def shown(value: Any) -> str:
    """Return a value as a message quotes it, without passwords.

    Messages are logged, kept and shown to everybody.
    """
    # Redaction comes before the cut, because a password without its end would not be recognized.
    text = concealed(_shown(value)[: 100 * MAX_QUOTED])
    return text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}…"


def brief(value: Any) -> str:
    """Return a value as `shown` does, but without quotation marks where it needs none, as it was typed."""
    plain = isinstance(value, str) and value.isprintable() and 0 < len(value) <= MAX_QUOTED // 2
    return concealed(value) if plain else shown(value)


MIN_SECRET = 6
"""The length in characters up to which a value is always quoted; no password is that short."""


def guarded(value: Any) -> str:
    """Return a value for a message by its kind instead of its content, because all of it may be a secret."""
    kinds = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "a mapping",
        type(None): "nothing",
    }
    whole = _shown(value)
    return whole if len(whole) <= MIN_SECRET else kinds.get(type(value), f"a {type(value).__name__}")


def _shown(value: Any) -> str:
    if isinstance(value, int) and not -(10**MAX_QUOTED) < value < 10**MAX_QUOTED:
        return "a number of more than a hundred digits"  # Python refuses to convert even longer numbers.
    return (
        "nothing"
        if value is None
        else repr(value)
        if isinstance(value, str)
        else str(value).lower()
        if value in (True, False)
        else str(value)
    )
