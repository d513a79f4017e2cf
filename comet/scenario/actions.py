"""What a step does to the cluster: the words of `do:`, parsed. Pure."""

import random
import re
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from comet.common.values import shown
from comet.common.yaml_lines import Entries, plain
from comet.config.keys import KEYS
from comet.faults.orders import span

WORDS = ("kill", "signal", "pause", "resume", "restart", "scale", "reload", "drain", "undrain")

ALLOWED = (
    "a list of: kill: NAME, signal: {NAME: STOP}, pause: 2s, resume, restart: NAME, scale: {worker: 4}, reload, "
    "drain: NAME, undrain: NAME"
)

RANDOM = {"random": ("worker", "lb"), "random worker": ("worker",), "random lb": ("lb",)}
"""Names that stand for one replica of these roles, chosen when the action begins."""

ROLES = ("worker", "lb", "all")
"""Words for several replicas, where an action takes them."""

_NAME = re.compile(r"(?:worker|lb)-[0-9]{1,6}")


@dataclass(frozen=True)
class Action:
    """A command of the control socket, and its fields. `names` are its replicas; words of RANDOM are among them."""

    command: str
    names: tuple[str, ...] = ()
    fields: dict[str, Any] = field(default_factory=dict)

    def orders(self, present: Sequence[str], choice: random.Random) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the messages for the supervisor; a random replica is one of those that are `present`.

        The choice does not depend on their states, so the same seed makes the same choices.
        """
        if not self.names:
            yield self.command, self.fields
        for name in self.names:
            victims = [each for each in present if each.partition("-")[0] in RANDOM[name]] if name in RANDOM else [name]
            if victims:
                key = "target" if self.command == "restart" else "name"
                yield self.command, {key: choice.choice(victims), **self.fields}


def parse(value: Any) -> tuple[Action, ...]:
    """Return the actions of `do:`; ValueError says what is wrong."""
    if not isinstance(value, list) or isinstance(value, Entries) or not value:
        raise ValueError(f"{shown(plain(value))} is not usable")
    found: list[Action] = []
    for each in value:
        try:
            found += _actions(each)
        except ValueError as error:
            raise ValueError(f"{shown(plain(each))}: {error}" if isinstance(each, Entries) else str(error)) from None
    return tuple(found)


def kills(value: Any) -> Action:
    """Return the action of `kill: NAME` or `kill: [NAME, …]`."""
    return Action("kill", _names(value, [*RANDOM]), {"signal": "KILL"})


def _actions(value: Any) -> Iterator[Action]:
    if isinstance(value, str) and value in ("resume", "reload"):
        yield Action(value)
        return
    if not isinstance(value, Entries) or len(value) != 1:
        raise ValueError(f"{shown(plain(value))} is not usable")
    _, word, given = value[0]
    if word == "kill":
        yield kills(given)
    elif word == "signal" and isinstance(given, Entries) and given:
        for _, name, number in given:
            yield Action("kill", _names(name, [*RANDOM]), {"signal": _signal(plain(number))})
    elif word == "pause":
        yield Action("pause", fields={"for": span(plain(given))})
    elif word == "restart":
        yield Action("restart", _names(given, [*ROLES, *RANDOM]))
    elif word == "scale" and isinstance(given, Entries) and given:
        yield Action("scale", fields=_numbers(given))
    elif word in ("drain", "undrain"):
        yield Action(word, _names(given, ["random worker"]))
    else:
        raise ValueError(f"{word}: {shown(plain(given))} is not usable")


def _names(value: Any, words: Sequence[str]) -> tuple[str, ...]:
    names = value if isinstance(value, list) and not isinstance(value, Entries) else [value]
    for name in names:
        if not isinstance(name, str) or not (name in words or _NAME.fullmatch(name)):
            raise ValueError(f"{shown(plain(value))} is not usable")
    if not names:
        raise ValueError("[] is not usable")
    return tuple(names)


def _signal(value: Any) -> str:
    known = {number.name.removeprefix("SIG") for number in signal.Signals} | {str(int(each)) for each in signal.Signals}
    if isinstance(value, bool) or str(value).upper().removeprefix("SIG") not in known:
        raise ValueError(f"{shown(value)} is no signal")
    return str(value)


def _numbers(given: Entries) -> dict[str, int]:
    found: dict[str, int] = {}
    for _, name, number in given:
        if name not in ("worker", "lb", "pool") or isinstance(number, bool) or not isinstance(number, int):
            raise ValueError(f"scale: {shown(plain(given))} is not usable")
        key = "pool" if name == "lb" else name
        if key in found:
            raise ValueError(f"scale: {name} appears twice in it")
        try:
            found[key] = KEYS[key].check(number)
        except ValueError as error:
            raise ValueError(f"scale: {name}: {error}") from None
    return found
