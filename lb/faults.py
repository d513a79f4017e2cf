"""What is to go wrong on the way to one worker, where the load balancers do it (pure but for the random numbers and the tickets).

The supervisor writes one JSON file per worker: settings by their config.yaml names and, under `overrides`, leases with a limit:
`until` in seconds of CLOCK_BOOTTIME, of the boot that `boot-id` names, or `count`, the next N requests. Later overrides win. What is
malformed counts as not said: the supervisor checks what users write.

The kinds share one draw as intervals side by side (hang, reset, truncate, failure), so each has exactly its own percentage. A
count is shared by all load balancers through a file to which each appends a byte per request: with O_APPEND the place where one's
own byte came to lie is the number of the ticket (open(2)), so no two take the same and none is lost when one of them dies.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import exp, log1p
from random import Random
from statistics import NormalDist
from typing import Any, Final

KINDS: Final = ("hang", "reset", "truncate", "failure")
SIGMA: Final = 0.5
_NORMAL: Final = NormalDist()

# One uniform number in [0, 1) -> a factor of the mean delay, which is 1 on average.
DISTRIBUTIONS: Final[dict[str, Callable[[float], float]]] = {
    "uniform": lambda u: 0.5 + u,
    "constant": lambda u: 1.0,
    "exponential": lambda u: -log1p(-u),
    "lognormal": lambda u: exp(SIGMA * _NORMAL.inv_cdf(max(u, 2.0**-54)) - SIGMA**2 / 2),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """Rates in percent of requests, `avg_delay` in ms, `slow_body` in bytes per second (0: at once)."""

    avg_delay: float = 0.0
    delay_distribution: str = "uniform"
    failure: float = 0.0
    status: int = 500
    hang: float = 0.0
    reset: float = 0.0
    truncate: float = 0.0
    slow_body: float = 0.0

    @property
    def harmless(self) -> bool:
        """Say whether requests may go straight to the worker."""
        return not (self.avg_delay or self.failure or self.hang or self.reset or self.truncate or self.slow_body)


@dataclass(frozen=True, slots=True)
class Override:
    """Settings that end by themselves: at `until` (seconds of CLOCK_BOOTTIME), or after `count` requests."""

    id: str
    values: Mapping[str, Any]
    until: float | None = None
    count: int | None = None
    boot_id: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole file."""

    base: Settings = field(default_factory=Settings)
    overrides: tuple[Override, ...] = ()


@dataclass(frozen=True, slots=True)
class Draw:
    """One request's fate: `kind` is None for a plain success, `delay` in seconds, `settings` what was in force."""

    kind: str | None
    delay: float
    settings: Settings


def parse(text: str) -> Plan:
    """Read a file. ValueError: not a JSON object."""
    document = json.loads(text)
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")
    overrides = [each for each in document.get("overrides", []) if isinstance(each, dict)]
    return Plan(replace(Settings(), **_values(document)), tuple(_override(number, each) for number, each in enumerate(overrides)))


def _values(document: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in document.items():
        name = key.replace("-", "_")
        if name == "delay_distribution":
            found |= {name: value} if value in DISTRIBUTIONS else {}
        elif name in Settings.__slots__ and isinstance(value, int | float) and not isinstance(value, bool):
            found[name] = value
    return found


def _override(number: int, lease: Mapping[str, Any]) -> Override:
    until, count, boot = lease.get("until"), lease.get("count"), lease.get("boot-id")
    return Override(
        id=str(lease.get("id", number)),
        values=_values(lease),
        until=float(until) if isinstance(until, int | float) else None,
        count=count if isinstance(count, int) else None,
        boot_id=None if boot is None else str(boot),
    )


def draw(settings: Settings, chance: float, position: float) -> Draw:
    """Return the fate for two uniform numbers in [0, 1). Hangs, resets and failures come at once; the rest takes its delay."""
    edge = 0.0
    for kind, rate in zip(KINDS, (settings.hang, settings.reset, settings.truncate, settings.failure), strict=True):
        edge += rate
        if chance * 100 < edge:
            late = kind == "truncate"
            return Draw(kind, _delay(settings, position) if late else 0.0, settings)
    return Draw(None, _delay(settings, position), settings)


def _delay(settings: Settings, position: float) -> float:
    if not settings.avg_delay:
        return 0.0
    return settings.avg_delay / 1000 * DISTRIBUTIONS[settings.delay_distribution](position)


class Faults:
    """The plan in force for one worker. `tickets` is the folder of the counts; `now` is CLOCK_BOOTTIME in seconds."""

    def __init__(self, worker: str, tickets: str, boot_id: str) -> None:
        self.plan = Plan()
        self._worker = worker
        self._tickets = tickets
        self._boot_id = boot_id
        self._random = Random()
        self._spent: set[str] = set()

    def next(self, now: float) -> Draw:
        """Draw for the next request."""
        return draw(self._apply(now, spend=True), self._random.random(), self._random.random())

    def current(self, now: float) -> Settings:
        """Return what is in force, without using up a count."""
        return self._apply(now, spend=False)

    def _apply(self, now: float, *, spend: bool) -> Settings:
        settings = self.plan.base
        for item in self.plan.overrides:
            if self._living(item, now) and (item.count is None or not spend or self._take(item.id, item.count)):
                settings = replace(settings, **item.values)
        return settings

    def _living(self, item: Override, now: float) -> bool:
        of_this_boot = item.boot_id is None or item.boot_id == self._boot_id
        return of_this_boot and (item.until is None or now < item.until) and item.id not in self._spent

    def _take(self, lease: str, count: int) -> bool:
        """Take one of the lease's tickets; False when none is left."""
        path = os.path.join(self._tickets, f"{self._worker}.{lease}.taken")
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError:
            return False
        try:
            os.write(file, b"x")
            number = os.lseek(file, 0, os.SEEK_CUR)
        except OSError:
            return False
        finally:
            os.close(file)
        if number >= count:
            self._spent.add(lease)
        return number <= count
