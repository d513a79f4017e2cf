"""Decides which fault a client's request gets at the front: between the client and the data path.

Pure except for the random numbers and the ticket files.

A plan has settings that hold until they are cleared, and leases; later leases win. Each of them may be for some
requests only: those with a method, a path or a header. A request may also ask for a fault itself, where the plan allows
that.

The kinds are adjacent intervals of one random number, so each has exactly its own percentage. Delays and speeds are no
kinds: they apply to a `share` of the other requests. Each request takes the same number of random numbers, so that with
a seed the n-th request gets the n-th draw.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from random import Random
from typing import Any, Final

from fault_rules import FRONT, UNITS, Override, Settings, amount
from lb.faults.leases import Draws, Leases, overrides

NAME: Final = "front"
ASKING_FIELD: Final = "x-comet-fault"
MAX_TEXT: Final = 65536

SLOW: Final = [fault for fault in FRONT if fault.harmful and not fault.drawn]
"""Delays and speeds: they are not drawn, but apply to a share of the requests."""

_PLAIN = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,6})?").fullmatch
_TEXTS: Final = frozenset(("body", "method", "path", "header"))


_OTHERS: Final = {"headers": (), "body": None, "method": "", "path": "", "header": "", "refuse": False, "seed": None}
"""What an order for the front has besides faults, with its defaults: its own answer, and which requests it is for."""


class FrontSettings(Settings, faults=FRONT, neutral=True, others=_OTHERS):
    """The faults that clients meet."""

    @property
    def slow(self) -> bool:
        return any(self.values[each.attribute] for each in SLOW)


@dataclass(frozen=True, slots=True)
class FrontPlan:
    """What is ordered for the front; `on_request` allows requests to ask for faults."""

    base: FrontSettings = field(default_factory=FrontSettings)
    overrides: tuple[Override, ...] = ()
    on_request: bool = False


_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?]*(.*)", re.DOTALL).fullmatch


@dataclass(frozen=True, slots=True)
class Request:
    """What the rules know of a request; the names of `fields` are in lower case."""

    method: str
    target: str
    fields: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class FrontSample:
    """What one request gets: a fault `kind` (None: its own answer), a `delay` in seconds, and how slow it goes."""

    kind: str | None
    delay: float
    settings: FrontSettings
    random: Random

    @property
    def slow(self) -> bool:
        return bool(self.delay) or self.settings.slow


def parse(document: Mapping[str, Any]) -> FrontPlan:
    """Return the plan that the supervisor sent."""
    return FrontPlan(FrontSettings(**values(document)), overrides(document, values), document.get("on-request") is True)


def values(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the valid settings of a document, by their names here."""
    found = FrontSettings.read(document)[0]
    for name, value in document.items():
        if name == "seed":
            found |= {name: value} if isinstance(value, int) and not isinstance(value, bool) else {}
        elif name == "refuse":
            found |= {name: value} if isinstance(value, bool) else {}
        elif name == "headers":
            found |= {name: tuple(map(str, value))} if isinstance(value, list | tuple) else {}
        elif name in _TEXTS:
            found |= {name: value} if isinstance(value, str) and len(value) <= MAX_TEXT else {}
    return found


def asked(text: str) -> dict[str, Any]:
    """Return the settings that a request asks for, such as `reset`, `failure=30%, status=503` or `avg-delay=2s`.

    What is not understood is ignored. A request cannot ask for what concerns others.
    """
    document: dict[str, Any] = {}
    for entry in text.split(","):
        name, _, given = (part.strip() for part in entry.partition("="))
        fault = FrontSettings.faults.get(name)
        if fault is None:
            continue
        given = given or "100"
        if fault.statuses is not None:
            document[name] = int(given) if given.isascii() and given.isdigit() and len(given) == 3 else None
        elif fault.unit:
            document[name] = float(given) if _PLAIN(given) else amount(given, UNITS[fault.unit])
        else:
            document[name] = given
    return values(document)


def in_origin_form(target: str) -> str:
    """Return the path and query of a request's target, also where it is in absolute form (RFC 9112 section 3.2)."""
    match = _ABSOLUTE(target)
    if match is None:
        return target
    return match[1] if match[1].startswith("/") else f"/{match[1]}"


def matches(settings: Mapping[str, Any] | FrontSettings, request: Request) -> bool:
    """Return whether settings are for this request."""
    if isinstance(settings, FrontSettings):
        method, path, header = settings.method, settings.path, settings.header
    else:
        method, path, header = (settings.get(name, "") for name in ("method", "path", "header"))
    if method and request.method not in method.upper().replace(" ", "").split(","):
        return False
    if path and not fnmatchcase(in_origin_form(request.target).partition("?")[0], path):
        return False
    name, _, pattern = header.partition(":")
    value = request.fields.get(name.strip().lower())
    return not header or (value is not None and fnmatchcase(value, pattern.strip() or "*"))


def sample(settings: FrontSettings, chance: float, position: float, share: float) -> FrontSample:
    """Return the sample for three uniform numbers in [0, 1)."""
    kind = settings.kind(chance)
    if share * 100 >= settings.share:
        settings = settings.having({each.attribute: 0.0 for each in SLOW})
    return FrontSample(kind, settings.delay(position), settings, Random(position))


class FrontFaults:
    """Samples faults from the current plan; `now` is in seconds of CLOCK_BOOTTIME."""

    def __init__(self, tickets: Callable[[], str], boot_id: str, balancer: str) -> None:
        self.plan = FrontPlan()
        self._leases = Leases(NAME, tickets, boot_id)
        self._draws = Draws(f"{balancer} {NAME}")

    def next(self, request: Request, now: float) -> FrontSample:
        """Return the sample of a request."""
        plan, lease = self.plan, ""
        settings = plan.base if matches(plan.base, request) else FrontSettings(seed=plan.base.seed)
        for item in self._leases.active(plan.overrides, now):
            if matches(item.values, request) and self._leases.take(item):
                settings = settings.having(item.values)
                lease = item.id if "seed" in item.values else lease
        if plan.on_request and ASKING_FIELD in request.fields:
            settings = settings.having(asked(request.fields[ASKING_FIELD]))
        self._draws.begin(settings.seed, lease)
        return sample(settings, self._draws.next(), self._draws.next(), self._draws.next())

    def is_active(self, now: float) -> bool:
        """Return whether any request may get a fault now."""
        leases = self._leases.active(self.plan.overrides, now)
        return (
            self.plan.on_request
            or not self.plan.base.harmless
            or any(not FrontSettings(**each.values).harmless for each in leases)
        )

    def refuses(self, now: float) -> bool:
        """Return whether connections are refused now."""
        return any(each.values.get("refuse") is True for each in self._leases.active(self.plan.overrides, now))
