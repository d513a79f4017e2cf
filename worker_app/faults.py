"""The faults file: JSON text -> what this worker is to do wrong (pure).

A file holds base settings by their config.yaml names and, optionally, `overrides`: a list of objects, each with any of the same
settings and a limit. `until` is a deadline in seconds of CLOCK_BOOTTIME, the one clock that host and containers share and that
nobody sets; `boot-id` tells a deadline of an earlier boot. `count` means the next N requests of each worker that ran at `since`
(same clock); a worker started later ignores it. Later overrides win. Everything is checked here: a file with any bad value is
refused as a whole.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

from worker_app.distributions import DISTRIBUTIONS
from worker_app.errors import FaultError


@dataclass(frozen=True, slots=True)
class FaultSettings:
    """What is wrong with this worker. Rates are percent of requests; the defaults are config.yaml's."""

    avg_delay: float = 500.0  # ms
    delay_distribution: str = "uniform"
    failure: float = 12.0
    status: int = 500  # which 5xx an injected failure answers
    hang: float = 0.0  # accept and never answer; at 100 /healthz hangs too
    reset: float = 0.0  # cut the connection with a RST
    truncate: float = 0.0  # close in the middle of the body
    slow_body: float = 0.0  # bytes of the body per second; 0 = at once
    cpu: float = 0.0  # ms of processor time burnt per request
    memory: float = 0.0  # MiB the worker grows by per second, until its limit kills it

    def __str__(self) -> str:
        """What is in force, in the words of config.yaml: all that is not nought."""
        values = {key: getattr(self, name) for key, name in _KEYS.items()}
        return ", ".join(f"{key} {value if isinstance(value, str) else f'{value:g}'}" for key, value in values.items() if value)


@dataclass(frozen=True, slots=True)
class Override:
    """Settings that end by themselves; `values` maps field names of `FaultSettings`."""

    id: str
    values: Mapping[str, float | str]
    until: float | None = None
    since: float = 0.0
    count: int | None = None
    boot_id: str | None = None


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """A whole file."""

    base: FaultSettings = FaultSettings()
    overrides: tuple[Override, ...] = ()
    unknown: tuple[str, ...] = field(default=())


_RATES = {"failure", "hang", "reset", "truncate"}
_LIMITS: dict[str, tuple[float, float]] = {
    "avg_delay": (0.0, 600_000.0),
    "slow_body": (0.0, 1e9),
    "cpu": (0.0, 600_000.0),
    "memory": (0.0, 1e6),
    **dict.fromkeys(_RATES, (0.0, 100.0)),
}
_KEYS = {item.name.replace("_", "-"): item.name for item in fields(FaultSettings)}
_LEASE_KEYS = {"id", "until", "since", "count", "boot-id"}


def parse(text: str) -> FaultPlan:
    """The plan a file's text describes; FaultError names every problem in it."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise FaultError(f"not JSON: {error}") from None
    if not isinstance(document, dict):
        raise FaultError("not a JSON object")
    problems: list[str] = []
    unknown: list[str] = []
    leases = document.pop("overrides", [])
    base = replace(FaultSettings(), **_settings(document, problems, unknown))  # type: ignore[arg-type]
    overrides: list[Override] = []
    if not isinstance(leases, list):
        problems.append("overrides: not a list")
        leases = []
    for number, lease in enumerate(leases):
        if isinstance(lease, dict):
            overrides.append(_override(number, lease, problems, unknown))
        else:
            problems.append(f"overrides[{number}]: not an object")
    if problems:
        raise FaultError("; ".join(problems))
    return FaultPlan(base, tuple(overrides), tuple(unknown))


def _settings(document: Mapping[str, object], problems: list[str], unknown: list[str]) -> dict[str, float | str]:
    values: dict[str, float | str] = {}
    for key, value in document.items():
        name = _KEYS.get(key)
        if name is None:
            unknown.append(key)
        elif name == "delay_distribution":
            if value in DISTRIBUTIONS:
                values[name] = str(value)
            else:
                problems.append(f"{key}: {value!r} is none of {', '.join(DISTRIBUTIONS)}")
        elif name == "status":
            if isinstance(value, int) and not isinstance(value, bool) and 500 <= value <= 599:
                values[name] = value
            else:
                problems.append(f"{key}: {value!r} is no status from 500 to 599")
        else:
            low, high = _LIMITS[name]
            number = _number(value)
            if number is not None and low <= number <= high:
                values[name] = number
            else:
                problems.append(f"{key}: {value!r} is no number from {low:g} to {high:g}")
    return values


def _override(number: int, lease: Mapping[str, object], problems: list[str], unknown: list[str]) -> Override:
    values = _settings({key: value for key, value in lease.items() if key not in _LEASE_KEYS}, problems, unknown)
    until, since, count = _number(lease.get("until")), _number(lease.get("since", 0)), lease.get("count")
    if lease.get("until") is not None and until is None:
        problems.append(f"overrides[{number}]: until: not a number of seconds")
    if since is None:
        problems.append(f"overrides[{number}]: since: not a number of seconds")
    if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 0):
        problems.append(f"overrides[{number}]: count: {count!r} is no whole number")
        count = None
    boot_id = lease.get("boot-id")
    return Override(
        id=str(lease.get("id", number)),
        values=values,
        until=until,
        since=since or 0.0,
        count=count,
        boot_id=None if boot_id is None else str(boot_id),
    )


def _number(value: object) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None
