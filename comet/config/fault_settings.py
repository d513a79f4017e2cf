"""Defines the fault settings of a worker: each fault's name, default, range and unit.

Config, commands and API check their values against this one table, which is made of `fault_rules`. Pure.
"""

import re
from collections.abc import Mapping
from typing import Any

import fault_rules
from comet.common.values import Key, brief, flag, measured, one_of, or_word, text, whole
from fault_rules import DISTRIBUTIONS, Fault

_ALLOWED = {
    "%": "percent, from 0 to {:.0f}",
    "ms": "milliseconds, from 0 to {:.0f}",
    "B/s": "bytes per second, 0 for at once",
    "MiB/s": "MiB per second, from 0 to {:.0f}",
}
"""What is allowed in each unit, by the largest value."""


def _key(fault: Fault) -> Key:
    if fault.switch:
        return Key(fault.default, flag, "true or false", fault.meaning)
    if fault.statuses is not None:
        low, high = fault.statuses
        return Key(fault.default, whole(low, high), f"a whole number from {low} to {high}", fault.meaning)
    if not fault.unit:
        *others, last = DISTRIBUTIONS
        allowed = f"{', '.join(others)} or {last}"
        return Key(fault.default, one_of(*DISTRIBUTIONS), allowed, fault.meaning, choices=tuple(DISTRIBUTIONS))
    check = measured(0, fault.limit, fault_rules.UNITS[fault.unit])
    return Key(fault.default, check, _ALLOWED[fault.unit].format(fault.limit), fault.meaning)


NETWORK = {fault.name: _key(fault) for fault in fault_rules.NETWORK}
"""The faults of a worker's network. Each needs a time limit, and is nothing that a faults file says."""

SETTINGS: dict[str, Key] = {fault.name: _key(fault) for fault in fault_rules.WORKER} | NETWORK
WORKER_ONLY = tuple(fault.name for fault in fault_rules.WORKER if fault.worker_only)
"""Faults that a load balancer cannot inject."""

UNITS = {
    fault.name: fault.unit for fault in (*fault_rules.FRONT, *fault_rules.WORKER, *fault_rules.NETWORK) if fault.unit
}

FRONT = "front"
"""The target of the faults that clients meet at the load balancers' own address."""


FRAMING = ("connection", "content-length", "transfer-encoding")
"""Header fields that say where an answer ends: a wrong one is a fault of its own (`wrong-length`, `bad-framing`)."""


def _headers(value: Any) -> list[str]:
    lines = [value] if isinstance(value, str) and value else value
    if not isinstance(lines, list | tuple) or len(lines) > 50:
        raise ValueError(f"{brief(value)} is not usable")
    for line in lines:
        if not isinstance(line, str) or not re.fullmatch(r"[!#-'*+.0-9A-Z^_`a-z|~-]+:[\t -~]{0,4000}", line):
            raise ValueError(f"{brief(line)} is not a header field")
        if line.partition(":")[0].lower() in FRAMING:
            raise ValueError(
                f"{brief(line)} is not free: Comet frames the answer, wrong-length and bad-framing break it"
            )
    return list(lines)


_METHODS = (or_word("any", text(r"[A-Za-z]+(?: *, *[A-Za-z]+)*"), ""), "any, or methods like POST or PUT,PATCH")

_OWN_ANSWER = {
    "headers": Key([], _headers, "`Name: value`, or a list of such", "header fields of these answers"),
    "body": Key(
        "none",
        or_word("none", text(r"(?s).{0,65536}"), None),
        "none, or text of up to 65536 characters",
        "body of these answers",
    ),
}
_ORDERS = {
    "refuse": Key(False, flag, "true or false, with a time limit", "whether the address refuses connections"),
    "method": Key("any", *_METHODS, "which requests: their methods"),
    "path": Key(
        "any", or_word("any", text(r"[/*?\[]\S{0,1000}"), ""), "any, or a pattern like /api/*", "which: their path"
    ),
    "header": Key(
        "any",
        or_word("any", text(r"[!#-'*+.0-9A-Z^_`a-z|~-]+(?: *:[\t -~]{0,1000})?"), ""),
        "any, or a name, or `Name: pattern`",
        "which: a header field that they have",
    ),
    "seed": Key(
        "none",
        or_word("none", whole(0, 2**63 - 1), None),
        "none, or a whole number from 0",
        "what the draws begin with",
    ),
}
_OF_FRONT = {fault.name: _key(fault) for fault in fault_rules.FRONT}
_BEFORE = list(_OF_FRONT)[: list(_OF_FRONT).index("status") + 1]
FRONT_SETTINGS: dict[str, Key] = {**{name: _OF_FRONT[name] for name in _BEFORE}, **_OWN_ANSWER, **_OF_FRONT, **_ORDERS}
"""The faults of the front. Each of its orders may be for some requests only."""

TEXTS = ("headers", "body", "method", "path", "header")
"""Settings that are text, also where they look like a number."""


SCOPE = frozenset(("method", "path", "header"))
"""Settings that say which requests the others of an order are for."""


def need_time_limit(settings: Mapping[str, Any]) -> list[str]:
    """Return those of the settings that hold for a time only."""
    return [name for name in ("refuse", *NETWORK) if settings.get(name)]


def settings_of(target: str) -> dict[str, Key]:
    """Return the fault settings of a target: the front, a worker's name, or `all` workers."""
    return FRONT_SETTINGS if target == FRONT else SETTINGS
