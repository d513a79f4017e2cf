"""Parses the faults file: JSON text to the faults that this worker injects (pure).

The file holds base settings by their config.yaml names and, optionally, `overrides`: a list of objects, each with any
of the same settings and a limit. `until` is a deadline in seconds of CLOCK_BOOTTIME, the one clock that host and
containers share and that cannot be set; `boot-id` identifies a deadline of an earlier boot. `count` means the next N
requests of each worker that ran at `since` (same clock); a worker that started later ignores it. Later overrides win.

Every value is checked here: a file with any invalid value is refused as a whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import fault_rules
from fault_rules import WORKER, Override, Settings
from worker_app.common.errors import FaultError


class FaultSettings(Settings, faults=WORKER, neutral=False):
    """The faults of this worker; the defaults are those of config.yaml."""


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """The content of a faults file."""

    base: FaultSettings = field(default_factory=FaultSettings)
    overrides: tuple[Override, ...] = ()
    unknown: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        return fault_rules.summary(self.base, self.overrides)


_LEASE_KEYS = {"id", "until", "since", "count", "boot-id"}


def parse(text: str) -> FaultPlan:
    """Return the plan that the text describes; raise FaultError, which names every problem."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise FaultError(f"not JSON: {error}") from None
    except RecursionError:
        raise FaultError("not JSON: nested too deeply") from None
    if not isinstance(document, dict):
        raise FaultError("not a JSON object")
    problems: list[str] = []
    unknown: list[str] = []
    leases = document.pop("overrides", [])
    base = FaultSettings(**_settings(document, problems, unknown))
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
    values, wrong, strange = FaultSettings.read(document)
    problems += wrong
    unknown += strange
    return values


def _override(number: int, lease: Mapping[str, object], problems: list[str], unknown: list[str]) -> Override:
    values = _settings({key: value for key, value in lease.items() if key not in _LEASE_KEYS}, problems, unknown)
    until, since, count = _number(lease.get("until")), _number(lease.get("since", 0)), lease.get("count")
    if lease.get("until") is not None and until is None:
        problems.append(f"overrides[{number}]: until: not a number of seconds")
    if since is None:
        problems.append(f"overrides[{number}]: since: not a number of seconds")
    if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 0):
        problems.append(f"overrides[{number}]: count: {count!r:.60} is not a whole number from 0")
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
    # The bounds come first: an integer can be too large for a float.
    if isinstance(value, int | float) and not isinstance(value, bool) and -1e15 < value < 1e15:
        return float(value)
    return None
