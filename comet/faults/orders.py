"""Computes each worker's faults from config.yaml and from what commands have ordered.

An order without a limit sets values that stay until they are cleared. One with a limit is a *lease*: it overrides the
values and ends by itself, at a time of CLOCK_BOOTTIME (the clock that host and containers share) or after a number of
requests. The worker ends it, so neither supervisor nor command is needed for that. Later leases override earlier ones.
Orders belong to a worker's name. The functions have no side effects.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from comet.common.errors import UserError
from comet.common.json_values import build_record, mapping
from comet.common.values import Key, brief, whole
from comet.config.fault_settings import (
    FRONT,
    FRONT_SETTINGS,
    NETWORK,
    SCOPE,
    SETTINGS,
    TEXTS,
    need_time_limit,
    settings_of,
)

LIMITS: dict[str, Key] = {
    "count": Key(
        None, whole(1, 1_000_000), "a whole number from 1 to 1000000", "hold for the next N requests of each worker"
    )
}
CountsLeft = Mapping[tuple[str, str], int]
"""How many requests counted leases still apply to, by target and lease; what is not known is not in there."""

NOT_KNOWN: CountsLeft = {}
MAX_LEASE_SECONDS = 7 * 86400.0
MAX_COUNTED_LEASES = 16
"""Counted leases kept per worker.

What a worker says of its own changes no order, so none is dropped for being used up: the oldest ones are.
"""

SPANS = "a time like 500ms, 30s, 5m or 1h, up to 7d"
"""The times that `span` reads, in words."""

WHOSE = ("a worker", "the front")

_SPAN = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?) ?(ms|s|m|h|d|)")
_ID = re.compile(r"[0-9A-Za-z\-]{1,64}")
_WORKER = re.compile(r"worker-[0-9]{1,6}(?:~[a-z]+)?|front")
_SECONDS = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True)
class BootTime:
    """A time of CLOCK_BOOTTIME, and the boot from which it counts."""

    seconds: float
    boot_id: str


@dataclass(frozen=True)
class Change:
    """One order; `seconds` or `count` make it a lease.

    With an `owner` (a scenario) it concerns only that owner's leases.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    clear: bool = False
    seconds: float | None = None
    count: int | None = None
    owner: str | None = None

    @property
    def leased(self) -> bool:
        return self.seconds is not None or self.count is not None

    def as_dict(self) -> dict[str, Any]:
        """Return the request that `change` reads."""
        fields: dict[str, Any] = dict(self.settings)
        fields |= {"clear": True} if self.clear else {}
        fields |= {"for": self.seconds} if self.seconds is not None else {}
        fields |= {"count": self.count} if self.count is not None else {}
        return fields | ({"owner": self.owner} if self.owner is not None else {})


@dataclass(frozen=True)
class Lease:
    """Settings that end by themselves at `until`, or after `count` requests of each worker that ran at `since`."""

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


def change(request: Mapping[str, Any], target: str = "all") -> Change:
    """Return the order that a request's fields describe; raise UserError (2) with every problem.

    Fields: the names of the target's settings, `for` (seconds, or text like 30s), `count`, `clear`, `owner`. Numbers
    may be given as text.
    """
    problems: list[str] = []
    settings: dict[str, Any] = {}
    known = settings_of(target)
    for name, value in request.items():
        key = known.get(name)
        if key is not None:
            try:
                settings[name] = key.check(value if name in TEXTS else _number(value))
            except ValueError as error:
                problems.append(f"{name}: {error} (allowed: {key.allowed})")
        elif name not in ("for", "count", "clear", "owner"):
            is_others = name in SETTINGS or name in FRONT_SETTINGS
            more = f" for {WHOSE[target == FRONT]}, but for {WHOSE[target != FRONT]}" if is_others else ""
            problems.append(f"{brief(name)}: not known{more} (allowed: {', '.join([*known, 'for', 'count', 'clear'])})")
    seconds, count = request.get("for"), request.get("count")
    try:
        seconds = None if seconds is None else span(seconds)
    except ValueError as error:
        problems.append(f"for: {error} (allowed: {SPANS})")
    try:
        count = None if count is None else LIMITS["count"].check(_number(count))
    except ValueError as error:
        problems.append(f"count: {error} (allowed: {LIMITS['count'].allowed})")
    limited = need_time_limit(settings)
    if limited and (seconds is None or count is not None):
        problems.append(f"{', '.join(limited)}: needs a time limit, and no count (add --for 5s)")
    clear, owner = request.get("clear", False), request.get("owner")
    if not isinstance(clear, bool) or not isinstance(owner, str | None):
        problems.append("clear: neither true nor false")
    if not problems and not settings:
        if not clear:
            problems.append("no fault is named (see --help)")
        elif seconds is not None or count is not None:
            problems.append("a limit needs a fault to limit")
    elif not problems and set(settings) <= SCOPE and (seconds is not None or count is not None):
        problems.append(f"{', '.join(settings)}: says which requests a fault is for (name a fault, too)")
    if problems:
        raise UserError(f"faults: {'; '.join(problems)}; nothing was changed", 2)
    return Change(settings, bool(clear), seconds, count, owner)


def span(value: Any) -> float:
    """Return the seconds of 30, 30s, 500ms, 5m, 1h or 7d."""
    seconds = 0.0
    if isinstance(value, int | float) and not isinstance(value, bool):
        # The comparison comes before the conversion, because not every whole number can be a float.
        seconds = float(value) if 0 < value <= MAX_LEASE_SECONDS else 0.0
    elif isinstance(value, str) and (match := _SPAN.fullmatch(value.strip().lower())):
        seconds = float(match[1]) * _SECONDS[match[2]]
    if not 0.0 < seconds <= MAX_LEASE_SECONDS:
        raise ValueError(f"{brief(value)} is not usable")
    return seconds


def apply(ordered: Ordered, change: Change, now: BootTime, identity: str) -> Ordered:
    """Return what is ordered for a worker after a change; `identity` is the id of the lease that it may create."""
    leases = tuple(lease for lease in ordered.leases if is_active(lease, now))
    settings = dict(ordered.settings)
    if change.owner is not None:
        leases = tuple(lease for lease in leases if lease.owner != change.owner)
    elif change.clear:
        settings, leases = {}, ()
    if not change.settings:
        return Ordered(settings, leases)
    if not change.leased:
        # The new values are effective now, so they are removed from every lease that would override them.
        left = (replace(lease, settings=_without(lease.settings, change.settings)) for lease in leases)
        return Ordered(settings | dict(change.settings), tuple(lease for lease in left if lease.settings))
    until = None if change.seconds is None else now.seconds + change.seconds
    made = Lease(identity, dict(change.settings), now.seconds, until, change.count, now.boot_id, change.owner)
    return Ordered(settings, _bounded((*leases, made)))


def is_active(lease: Lease, now: BootTime) -> bool:
    """Return whether a lease can still be effective: it is of this boot and has not expired."""
    return lease.boot_id == now.boot_id and (lease.until is None or lease.until > now.seconds)


def document(base: Mapping[str, Any], ordered: Ordered, now: BootTime) -> dict[str, Any]:
    """Return the content of a worker's faults file. What its network does is not in it."""
    active = [lease for lease in ordered.leases if is_active(lease, now)]
    own = [replace(lease, settings=_without(lease.settings, NETWORK)) for lease in active]
    leases = [_override(lease) for lease in own if lease.settings]
    return _without({**base, **ordered.settings, **({"overrides": leases} if leases else {})}, NETWORK)


def network_leases(ordered: Ordered, now: BootTime) -> list[dict[str, Any]]:
    """Return the leases that concern a worker's network, the latest last, as `worker_app.network` reads them."""
    found = []
    for lease in ordered.leases:
        settings = {name: value for name, value in lease.settings.items() if name in NETWORK}
        if settings and is_active(lease, now):
            found.append({**settings, "until": lease.until, "boot-id": lease.boot_id})
    return found


def is_effective(name: str, lease: Lease, now: BootTime, left: CountsLeft) -> bool:
    """Return whether a lease still applies to a target, as far as that is known."""
    return is_active(lease, now) and left.get((name, lease.id)) != 0


def listing(
    name: str, base: Mapping[str, Any], ordered: Ordered, now: BootTime, left: CountsLeft = NOT_KNOWN
) -> dict[str, Any]:
    """Return one worker of `faults --json`.

    `settings` are the effective ones and `from` is the source of each. Settings limited by a count are only under
    `leases`, until it is used up.
    """
    settings, origin = dict(base), dict.fromkeys(base, "config")
    settings |= ordered.settings
    origin |= dict.fromkeys(ordered.settings, "command")
    leases = [lease for lease in ordered.leases if is_effective(name, lease, now, left)]
    for lease in leases:
        if lease.count is None:
            settings |= lease.settings
            origin |= dict.fromkeys(lease.settings, "lease")
    shown = [_lease(lease, now, left.get((name, lease.id))) for lease in leases]
    return {"name": name, "settings": settings, "from": origin, "leases": shown}


def from_dict(content: Any) -> dict[str, Ordered]:
    """Return the orders in the output of `to_dict`; raise ValueError for anything else."""
    return {
        _worker(name): _ordered(mapping(entry), name)
        for name, entry in mapping(mapping(content).get("workers")).items()
    }


def _ordered(entry: Mapping[str, Any], name: str) -> Ordered:
    leases = entry.get("leases")
    if not isinstance(leases, list):
        raise ValueError("leases: not a list")
    made = tuple(build_record(Lease, lease) for lease in leases)
    for lease in made:
        # The id becomes part of a file name. The times are bounded because they count seconds since boot.
        times = (lease.since, lease.until or 0.0)
        if (
            not _ID.fullmatch(lease.id)
            or not all(-1e12 < each < 1e12 for each in times)
            or not 0 < (lease.count or 1) < 1e12
        ):
            raise ValueError("not a lease")
    checked = tuple(replace(lease, settings=_checked(lease.settings, name)) for lease in made)
    return Ordered(_checked(mapping(entry.get("settings")), name), checked)


def _checked(settings: Mapping[str, Any], target: str) -> dict[str, Any]:
    """Return settings checked like those of a command; raise ValueError for any other."""
    known = settings_of(target)
    if not set(settings) <= set(known):
        raise ValueError("not a fault setting")
    return {name: known[name].check(value) for name, value in settings.items() if value not in (None, "")}


def _worker(name: str) -> str:
    if not _WORKER.fullmatch(name):
        raise ValueError(f"{name!r}: no worker's name")
    return name


def to_dict(orders: Mapping[str, Ordered]) -> dict[str, Any]:
    """Return all orders by worker as JSON."""
    workers = {
        name: {"settings": dict(each.settings), "leases": [vars(lease) for lease in each.leases]}
        for name, each in orders.items()
    }
    return {
        "version": 1,
        "workers": {name: entry for name, entry in workers.items() if entry["settings"] or entry["leases"]},
    }


def _number(value: Any) -> Any:
    """Convert a number that was given as text, as on a command line."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,30}", value):
        return int(value)
    if isinstance(value, str) and re.fullmatch(
        r"[+-]?([0-9]{1,30}\.[0-9]{0,30}|\.?[0-9]{1,30})(e[+-]?[0-9]{1,5})?", value.lower()
    ):
        return float(value)
    return value


def _without(settings: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in names}


def _bounded(leases: tuple[Lease, ...]) -> tuple[Lease, ...]:
    counted = [lease.id for lease in leases if lease.count is not None]
    dropped = set(counted[:-MAX_COUNTED_LEASES])
    return tuple(lease for lease in leases if lease.id not in dropped)


def _override(lease: Lease) -> dict[str, Any]:
    limits = {
        "id": lease.id,
        "since": lease.since,
        "until": lease.until,
        "count": lease.count,
        "boot-id": lease.boot_id,
    }
    return {**lease.settings, **{name: value for name, value in limits.items() if value is not None}}


def _lease(lease: Lease, now: BootTime, count_left: int | None) -> dict[str, Any]:
    return {
        "settings": dict(lease.settings),
        "left_s": None if lease.until is None else round(lease.until - now.seconds, 1),
        "count": lease.count,
        "count_left": count_left,
        "age_s": round(now.seconds - lease.since, 1),
        "owner": lease.owner,
    }
