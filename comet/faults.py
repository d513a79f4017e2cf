"""What is to go wrong with each worker: what config.yaml says, what commands have ordered on top of it, and what follows. Pure.

An order without a limit sets values that stay until they are cleared. One with a limit is a *lease*: it lies on top and ends by itself,
at a moment of CLOCK_BOOTTIME (the clock that host and containers share) or after so many requests; the worker sees to that, so it needs
neither supervisor nor command to end. Later leases lie on top of earlier ones. What is ordered belongs to a worker's name.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from comet.checks import Key, number, one_of, whole
from comet.errors import UserError

_PERCENT = (number(0, 100), "percent, from 0 to 100")
_DELAY = (number(0, 600000), "milliseconds, from 0 to 600000")

SETTINGS: dict[str, Key] = {
    "avg-delay": Key(500, *_DELAY, "mean delay of /api/v1/hello"),
    "delay-distribution": Key(
        "uniform",
        one_of("uniform", "constant", "exponential", "lognormal"),
        "uniform, constant, exponential or lognormal",
        "distribution of the delay",
    ),
    "failure": Key(12, *_PERCENT, "share of requests that fail on purpose"),
    "status": Key(500, whole(500, 599), "a whole number from 500 to 599", "status of a failure on purpose"),
    "hang": Key(0, *_PERCENT, "share of requests that are never answered; at 100 the health check hangs too"),
    "reset": Key(0, *_PERCENT, "share of requests whose connection is cut without an answer"),
    "truncate": Key(0, *_PERCENT, "share of answers that end in the middle of their body"),
    "slow-body": Key(0, number(0, 1e9), "bytes per second, 0 for at once", "speed of the answer's body"),
    "cpu": Key(0, *_DELAY, "processor time burnt by each request"),
    "memory": Key(0, number(0, 1e6), "MiB per second, from 0 to 1000000", "growth of the worker, until its memory limit kills it"),
}
WORKER_ONLY = ("cpu", "memory")
"""What no load balancer can bring about."""

UNITS = {"avg-delay": "ms", "failure": "%", "hang": "%", "reset": "%", "truncate": "%", "slow-body": "B/s", "cpu": "ms", "memory": "MiB/s"}

LIMITS: dict[str, Key] = {
    "count": Key(None, whole(1, 1_000_000), "a whole number from 1 to 1000000", "hold for the next so many requests of each worker"),
}
LONGEST_LEASE = 7 * 86400.0
MOST_COUNTED = 16
"""Counted leases kept per worker. Nobody but the worker knows when one is used up, so the oldest make room."""

_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|)")
_SECONDS = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True)
class Moment:
    """`now` in seconds of CLOCK_BOOTTIME, and which boot it counts from."""

    now: float
    boot_id: str


@dataclass(frozen=True)
class Change:
    """One order. `seconds` and `count` make it a lease. With an `owner` (a scenario) it concerns that owner's leases alone."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    clear: bool = False
    seconds: float | None = None
    count: int | None = None
    owner: str | None = None

    @property
    def leased(self) -> bool:
        return self.seconds is not None or self.count is not None

    def as_dict(self) -> dict[str, Any]:
        """The request that `change` reads."""
        told: dict[str, Any] = dict(self.settings)
        told |= {"clear": True} if self.clear else {}
        told |= {"for": self.seconds} if self.seconds is not None else {}
        told |= {"count": self.count} if self.count is not None else {}
        return told | ({"owner": self.owner} if self.owner is not None else {})


@dataclass(frozen=True)
class Lease:
    """Settings that end by themselves: at `until`, or after `count` requests of each worker that ran at `since`."""

    id: str
    settings: Mapping[str, Any]
    since: float
    until: float | None
    count: int | None
    boot_id: str
    owner: str | None = None


@dataclass(frozen=True)
class Ordered:
    """What commands have ordered for one worker."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    leases: tuple[Lease, ...] = ()


def change(request: Mapping[str, Any]) -> Change:
    """The order that a request's fields describe; UserError (2) names every problem.

    Fields: the names of `SETTINGS`, `for` (seconds, or text like 30s), `count`, `clear`, `owner`. Numbers may be given as text.
    """
    problems: list[str] = []
    settings: dict[str, Any] = {}
    for name, value in request.items():
        key = SETTINGS.get(name)
        if key is not None:
            try:
                settings[name] = key.check(_number(value))
            except ValueError as error:
                problems.append(f"{name}: {error} (allowed: {key.allowed})")
        elif name not in ("for", "count", "clear", "owner"):
            problems.append(f"{name}: not known (allowed: {', '.join([*SETTINGS, 'for', 'count', 'clear'])})")
    seconds, count = request.get("for"), request.get("count")
    try:
        seconds = None if seconds is None else span(seconds)
    except ValueError as error:
        problems.append(f"for: {error} (allowed: a time like 500ms, 30s, 5m or 1h, up to 7d)")
    try:
        count = None if count is None else LIMITS["count"].check(_number(count))
    except ValueError as error:
        problems.append(f"count: {error} (allowed: {LIMITS['count'].allowed})")
    clear, owner = request.get("clear", False), request.get("owner")
    if not isinstance(clear, bool) or not isinstance(owner, str | None):
        problems.append("clear: neither true nor false")
    if not problems and not settings:
        if not clear:
            problems.append("no fault is named (see --help)")
        elif seconds is not None or count is not None:
            problems.append("a limit needs a fault to limit")
    if problems:
        raise UserError(f"faults: {'; '.join(problems)}; nothing was changed", 2)
    return Change(settings, bool(clear), seconds, count, owner)


def span(value: Any) -> float:
    """Seconds from 30, 30s, 500ms, 5m, 1h, 7d."""
    match = None if isinstance(value, bool) else _SPAN.fullmatch(str(value).strip())
    seconds = float(match[1]) * _SECONDS[match[2]] if match else 0.0
    if not 0.0 < seconds <= LONGEST_LEASE:
        raise ValueError(f"{value} is not usable")
    return seconds


def apply(ordered: Ordered, change: Change, moment: Moment, identity: str) -> Ordered:
    """What is ordered for a worker after a change; `identity` names the lease that it may make."""
    leases = tuple(lease for lease in ordered.leases if living(lease, moment))
    settings = dict(ordered.settings)
    if change.owner is not None:
        leases = tuple(lease for lease in leases if lease.owner != change.owner)
    elif change.clear:
        settings, leases = {}, ()
    if not change.settings:
        return Ordered(settings, leases)
    if not change.leased:
        # What is said now is to hold now: it is taken out of every lease that would hide it.
        left = (replace(lease, settings=_without(lease.settings, change.settings)) for lease in leases)
        return Ordered(settings | dict(change.settings), tuple(lease for lease in left if lease.settings))
    until = None if change.seconds is None else moment.now + change.seconds
    made = Lease(identity, dict(change.settings), moment.now, until, change.count, moment.boot_id, change.owner)
    return Ordered(settings, _bounded((*leases, made)))


def living(lease: Lease, moment: Moment) -> bool:
    """Whether it can still be in force: of this boot, and not run out. Only the worker knows what is left of a count."""
    return lease.boot_id == moment.boot_id and (lease.until is None or lease.until > moment.now)


def document(base: Mapping[str, Any], ordered: Ordered, moment: Moment) -> dict[str, Any]:
    """The content of a worker's faults file."""
    leases = [_override(lease) for lease in ordered.leases if living(lease, moment)]
    return {**base, **ordered.settings, **({"overrides": leases} if leases else {})}


def listing(name: str, base: Mapping[str, Any], ordered: Ordered, moment: Moment) -> dict[str, Any]:
    """One worker in `faults --json`: `settings` are in force now, `from` says why; what a count limits is under `leases` alone."""
    settings, origin = dict(base), dict.fromkeys(base, "config")
    settings |= ordered.settings
    origin |= dict.fromkeys(ordered.settings, "command")
    leases = [lease for lease in ordered.leases if living(lease, moment)]
    for lease in leases:
        if lease.count is None:
            settings |= lease.settings
            origin |= dict.fromkeys(lease.settings, "lease")
    return {"name": name, "settings": settings, "from": origin, "leases": [_lease(lease, moment) for lease in leases]}


def from_dict(content: Mapping[str, Any]) -> dict[str, Ordered]:
    """What `to_dict` made; ValueError, KeyError or TypeError where it is something else."""
    return {
        str(name): Ordered(dict(entry["settings"]), tuple(Lease(**lease) for lease in entry["leases"]))
        for name, entry in content["workers"].items()
    }


def to_dict(orders: Mapping[str, Ordered]) -> dict[str, Any]:
    """JSON of all that is ordered, by worker."""
    workers = {name: {"settings": dict(each.settings), "leases": [vars(lease) for lease in each.leases]} for name, each in orders.items()}
    return {"version": 1, "workers": {name: entry for name, entry in workers.items() if entry["settings"] or entry["leases"]}}


def _number(value: Any) -> Any:
    """A number that was given as text, as on a command line."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+", value):
        return int(value)
    if isinstance(value, str) and re.fullmatch(r"[+-]?(\d+\.\d*|\.?\d+)(e[+-]?\d+)?", value.lower()):
        return float(value)
    return value


def _without(settings: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in names}


def _bounded(leases: tuple[Lease, ...]) -> tuple[Lease, ...]:
    counted = [lease.id for lease in leases if lease.count is not None]
    dropped = set(counted[:-MOST_COUNTED])
    return tuple(lease for lease in leases if lease.id not in dropped)


def _override(lease: Lease) -> dict[str, Any]:
    limits = {"id": lease.id, "since": lease.since, "until": lease.until, "count": lease.count, "boot-id": lease.boot_id}
    return {**lease.settings, **{name: value for name, value in limits.items() if value is not None}}


def _lease(lease: Lease, moment: Moment) -> dict[str, Any]:
    left = None if lease.until is None else round(lease.until - moment.now, 1)
    age = round(moment.now - lease.since, 1)
    return {"settings": dict(lease.settings), "left_s": left, "count": lease.count, "age_s": age, "owner": lease.owner}
