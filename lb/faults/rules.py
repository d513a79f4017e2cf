"""Decides which fault a request to one worker gets, where the load balancers inject the faults.

Pure except for the random numbers and the ticket files.

The supervisor writes one JSON file per worker: settings by their config.yaml names and, under `overrides`, leases with
a limit. Later overrides win. A malformed value is ignored: the supervisor checks what users write.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import fault_rules
from fault_rules import Override, Sample, sample
from lb.faults.leases import Draws, Leases, decode, overrides


class Settings(
    fault_rules.Settings,
    faults=[each for each in fault_rules.WORKER if not each.worker_only],
    neutral=True,
    others={"seed": None},
):
    """The faults that are injected in front of one worker."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The content of a worker's file."""

    base: Settings = field(default_factory=Settings)
    overrides: tuple[Override, ...] = ()

    def __str__(self) -> str:
        return fault_rules.summary(self.base, self.overrides)


def parse(text: str) -> Plan:
    """Parse a file's text; raise ValueError if it is not a JSON object."""
    document = decode(text)
    return Plan(Settings(**_values(document)), overrides(document, _values))


def _values(document: Mapping[str, Any]) -> dict[str, Any]:
    values, seed = Settings.read(document)[0], document.get("seed")
    return values | ({"seed": seed} if isinstance(seed, int) and not isinstance(seed, bool) else {})


class Faults:
    """Samples faults from the current plan of one worker.

    `tickets` returns the path of the folder with the ticket files; `now` is in seconds of CLOCK_BOOTTIME; `balancer`
    is the name of this load balancer.
    """

    def __init__(self, worker: str, tickets: Callable[[], str], boot_id: str, balancer: str = "") -> None:
        self.plan = Plan()
        self._leases = Leases(worker, tickets, boot_id)
        self._draws = Draws(f"{balancer} {worker}")

    def next(self, now: float) -> Sample:
        """Return the sample of the next request."""
        settings = self._apply(now, spend=True)
        self._draws.begin(settings.seed)
        return sample(settings, self._draws.next(), self._draws.next())

    def current(self, now: float) -> Settings:
        """Return the effective settings without using up a count."""
        return self._apply(now, spend=False)

    def _apply(self, now: float, *, spend: bool) -> Settings:
        settings = self.plan.base
        for item in self._leases.active(self.plan.overrides, now):
            if not spend or self._leases.take(item):
                settings = settings.having(item.values)
        return settings
