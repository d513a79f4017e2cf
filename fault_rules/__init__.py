"""Declares the faults once, for supervisor, load balancers and workers, and says how they are read and drawn.

Pure, and of the standard library alone: it is part of the workers' image and of every load balancer. A fault is one row
of WORKER, FRONT or NETWORK; what it does is in `worker_app/http/exchange.py`, `lb/faults/injector.py`,
`lb/faults/front_connection.py`, `worker_app/faults/packet_rules.py` or `worker_app/faults/packet_delay.py`.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import exp, log1p
from statistics import NormalDist
from typing import Any, ClassVar, Self

LIMITS = {"%": 100.0, "ms": 600_000.0, "B/s": 1e9, "MiB/s": 1e6}
"""The largest value of each unit; the smallest is 0, which means no fault."""

_BYTES = {"b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 1024.0, "mib": 1024.0**2, "gib": 1024.0**3}


def _speeds(one: float) -> dict[str, float]:
    """Return the units of a speed, each as a multiple of `one` bytes per second."""
    return {name + end: size / one for name, size in _BYTES.items() for end in ("", "/s")}


UNITS: Mapping[str, Mapping[str, float]] = {
    "%": {"%": 1.0},
    "ms": {"ms": 1.0, "s": 1e3, "m": 60e3, "h": 3600e3},
    "B/s": _speeds(1.0),
    "MiB/s": _speeds(1024.0**2),
}
"""What people write behind a number, in lower case, each with its value in the unit of the plain number."""

LOGNORMAL_SIGMA = 0.5
"""Puts p99 at 2.8 times the mean: the long tail of a typical service."""

COUNTS_FIELD = "X-Comet-Counts-Left"
"""The field in which a worker's health check says how many requests each counted lease still applies to."""

MAX_COUNTS = 32
"""Leases of which such a field is read."""

TICKETS_SUFFIX = ".taken"
"""What the names of ticket files end with."""

_COUNT = re.compile(r"([0-9A-Za-z\-]{1,64})=([0-9]{1,9})")
_AMOUNT = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?) ?([A-Za-z%/]+)")
_NORMAL = NormalDist()
_SMALLEST = 2.0**-54
"""Below the smallest step of random.random(); keeps the logarithms finite."""

DISTRIBUTIONS: dict[str, Callable[[float], float]] = {
    "uniform": lambda u: 0.5 + u,
    "constant": lambda u: 1.0,
    "exponential": lambda u: -log1p(-u),
    # The mean of exp(mu + sigma * z) is exp(mu + sigma^2 / 2), so mu = -sigma^2 / 2 makes the mean 1.
    "lognormal": lambda u: exp(LOGNORMAL_SIGMA * _NORMAL.inv_cdf(max(u, _SMALLEST)) - LOGNORMAL_SIGMA**2 / 2),
}
"""Each maps a uniform number in [0, 1) to a factor of the mean delay; the factor has mean 1.

Each uses the inverse of its cumulative distribution function, so one sample costs one random number: with a seed the
n-th request gets the n-th sample, also after a change of distribution.
"""


@dataclass(frozen=True, slots=True)
class Fault:
    """One setting of faults.

    `unit` is one of LIMITS, "" for a status, a distribution or a `switch` (true or false). `default` is that of
    config.yaml. `slot` is its place among the counts of injected faults, which must not change; None is not counted.
    Counted shares of requests are drawn, in the order of their slots. A `scope` is no fault, but says how many requests
    others are for. `most` is its largest value, where that is smaller than its unit's. `label` and `remark` are the
    words of the page's form.
    """

    name: str
    meaning: str
    unit: str = "%"
    slot: int | None = None
    default: Any = 0
    label: str = ""
    remark: str = ""
    worker_only: bool = False
    statuses: tuple[int, int] | None = None
    scope: bool = False
    switch: bool = False
    most: float | None = None

    @property
    def attribute(self) -> str:
        return self.name.replace("-", "_")

    @property
    def limit(self) -> float:
        return LIMITS[self.unit] if self.most is None else self.most

    @property
    def harmful(self) -> bool:
        return bool(self.unit) and not self.scope

    @property
    def drawn(self) -> bool:
        return self.unit == "%" and self.slot is not None

    def check(self, value: Any) -> Any:
        """Return a value of a file as it is used; raise ValueError that says what it is not."""
        if self.switch:
            if isinstance(value, bool):
                return value
            raise ValueError("is neither true nor false")
        if self.statuses is not None:
            low, high = self.statuses
            if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
                return value
            raise ValueError(f"is not a status from {low} to {high}")
        if not self.unit:
            if isinstance(value, str) and value in DISTRIBUTIONS:
                return value
            raise ValueError(f"is not one of {', '.join(DISTRIBUTIONS)}")
        # The bounds come first: an integer can be too large for a float.
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= self.limit:
            return float(value)
        raise ValueError(f"is not a number from 0 to {self.limit:g}")


DISTRIBUTION = Fault(
    "delay-distribution", "distribution of the delay", "", default="uniform", label="Distribution of the delay"
)

WORKER = (
    Fault("avg-delay", "mean delay of /api/v1/hello", "ms", default=500, label="Mean delay"),
    DISTRIBUTION,
    Fault(
        "failure", "share of requests that fail on purpose", slot=3, default=12, label="Failures", remark="of requests",
    ),
    Fault("status", "status of a failure on purpose", "", default=500, label="Status of failures", statuses=(500, 599)),
    Fault(
        "hang", "share of requests that are never answered; at 100 the health check hangs too", slot=0,
        remark="never answered",
    ),
    Fault("reset", "share of requests whose connection is cut without an answer", slot=1, remark="of connections cut"),
    Fault("truncate", "share of answers that end in the middle of their body", slot=2, remark="of answers cut short"),
    Fault("slow-body", "speed of the answer's body", "B/s", slot=4, remark="(0: at once)"),
    Fault(
        "cpu", "processor time burnt by each request", "ms", label="CPU burnt", remark="per request", worker_only=True,
    ),
    Fault(
        "memory", "growth of the worker, until its memory limit kills it", "MiB/s", label="Memory growth",
        remark="until killed", worker_only=True,
    ),
)  # fmt: skip
"""The faults of a worker. A load balancer injects them too, except for those that act within the worker."""

FRONT = (
    Fault("reset", "share of requests whose connection is reset at once; the service does not get them", slot=0),
    Fault("hang", "share of requests that are accepted and never answered", slot=1),
    Fault("reset-after", "share of requests that are carried out, and whose connection is then reset", slot=2),
    Fault("reset-body", "share of answers whose connection is reset in the middle of the body", slot=3),
    Fault("truncate", "share of answers whose connection is closed in the middle of the body", slot=4),
    Fault("wrong-length", "share of answers with a Content-Length that is too small", slot=5),
    Fault("bad-framing", "share of answers whose chunks are invalid", slot=6),
    Fault("garbage", "share of requests that are answered with bytes that are no HTTP", slot=7),
    Fault(
        "close-kept", "share of answers after which the connection, which was to be kept, closes at the next request",
        slot=8,
    ),
    Fault("redirect", "share of requests that are redirected to themselves", slot=9),
    Fault("failure", "share of requests that are answered in place of the service", slot=10),
    Fault("status", "status of these answers", "", default=500, statuses=(200, 599)),
    Fault("avg-delay", "mean delay of a request", "ms"),
    DISTRIBUTION,
    Fault("slow-head", "time over which the head of an answer dribbles", "ms"),
    Fault("slow-body", "speed of an answer's body", "B/s"),
    Fault("slow-upload", "speed of a request's body", "B/s"),
    Fault("jitter", "longest random pause before each piece of a body", "ms"),
    Fault("share", "share of requests that the delays and speeds apply to", default=100, scope=True),
)  # fmt: skip
"""The faults that clients meet at the load balancers' own address. Slot 11 counts those that were only slow."""

NETWORK = (
    Fault("partition", "whether no packet reaches the worker or leaves it", "", default=False, switch=True),
    Fault("loss", "share of the packets to and from the worker that are lost", remark="of packets"),
    Fault("bandwidth", "speed above which packets to and from the worker are lost, each way", "B/s", remark="(0: any)"),
    Fault(
        "network-delay", "time that each packet from the worker waits before it leaves", "ms", most=60_000.0,
        remark="per packet sent",
    ),
    Fault(
        "network-jitter", "how much longer or shorter that time is at most, at random", "ms", most=2_000.0,
        remark="more or less",
    ),
)  # fmt: skip
"""The faults of a container's network: they concern all that it sends and receives, and need a time limit."""


def amount(text: str, units: Mapping[str, float]) -> float | None:
    """Return `2s`, `12 %` or `10kB/s` as a number, by the value of each unit; None for what it is not."""
    match = _AMOUNT.fullmatch(text)
    if match is None or match[2].lower() not in units:
        return None
    return float(match[1]) * units[match[2].lower()]


def counted(faults: Iterable[Fault]) -> tuple[str, ...]:
    """Return the names of the faults that are counted, by their slots."""
    slots = [(fault.slot, fault.name) for fault in faults if fault.slot is not None]
    return tuple(name for _, name in sorted(slots))


FRONT_SLOW = "slow"
_SLOW_SLOT = 11
FRONT_COUNTED = (*counted(FRONT)[:_SLOW_SLOT], FRONT_SLOW, *counted(FRONT)[_SLOW_SLOT:])
"""What is counted at the front, by slot."""


class Settings:
    """Values of fault settings, by the settings' names with underscores.

    `faults` has those that a place can inject, `others` the defaults of what else it understands.
    """

    __slots__ = ("values",)
    faults: ClassVar[dict[str, Fault]]
    defaults: ClassVar[dict[str, Any]]
    drawn: ClassVar[tuple[tuple[str, str], ...]]

    def __init_subclass__(cls, faults: Iterable[Fault], neutral: bool, others: Mapping[str, Any] | None = None) -> None:
        """Prepare the tables; with `neutral`, nothing is injected by default, else what config.yaml says by default."""
        cls.faults = {fault.name: fault for fault in faults}
        cls.defaults = {
            fault.attribute: fault.check(0 if neutral and fault.harmful else fault.default)
            for fault in cls.faults.values()
        } | dict(others or {})
        names = [name for name in counted(cls.faults.values()) if cls.faults[name].drawn]
        cls.drawn = tuple((name, cls.faults[name].attribute) for name in names)

    def __init__(self, **values: Any) -> None:
        self.values: dict[str, Any] = {**self.defaults, **values}

    def __getattr__(self, name: str) -> Any:
        if name not in type(self).defaults:
            raise AttributeError(name)
        return self.values[name]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Settings) and self.values == other.values

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.values.items())})"

    def __str__(self) -> str:
        """Return the settings that are not zero, by their config.yaml names."""
        values = {name: self.values[fault.attribute] for name, fault in self.faults.items()}
        return ", ".join(
            f"{name} {value if isinstance(value, str) else f'{value:g}'}" for name, value in values.items() if value
        )

    __hash__ = None  # type: ignore[assignment]

    def having(self, values: Mapping[str, Any]) -> Self:
        """Return the settings with other values."""
        return type(self)(**{**self.values, **values})

    @property
    def harmless(self) -> bool:
        """Say whether nothing is injected."""
        return not any(self.values[each.attribute] for each in self.faults.values() if each.harmful)

    def kind(self, chance: float) -> str | None:
        """Return the kind that a uniform number in [0, 1) draws, None for none.

        The kinds are adjacent intervals of the number, so each has exactly its own percentage. Where they add up to
        more than 100, the earlier kinds keep theirs.
        """
        percent, end = chance * 100.0, 0.0
        for name, attribute in self.drawn:
            end += self.values[attribute]
            if percent < end:
                return name
        return None

    def delay(self, position: float) -> float:
        """Return the delay in seconds for a uniform number in [0, 1)."""
        mean: float = self.values["avg_delay"]
        return mean / 1000.0 * DISTRIBUTIONS[self.values["delay_distribution"]](position) if mean else 0.0

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> tuple[dict[str, Any], list[str], list[str]]:
        """Return the valid values of a document, what is wrong with the others, and the unknown names."""
        values: dict[str, Any] = {}
        problems: list[str] = []
        unknown: list[str] = []
        for name, value in document.items():
            fault = cls.faults.get(name)
            if fault is None:
                unknown.append(name)
                continue
            try:
                values[fault.attribute] = fault.check(value)
            except ValueError as error:
                problems.append(f"{name}: {_quoted(value)} {error}")
        return values, problems, unknown


@dataclass(frozen=True, slots=True)
class Override:
    """A lease: settings, by their names with underscores, that end by themselves.

    They end at `until` (seconds of CLOCK_BOOTTIME, of the boot `boot_id`), or after `count` requests from `since` on.
    """

    id: str
    values: Mapping[str, Any]
    until: float | None = None
    since: float = 0.0
    count: int | None = None
    boot_id: str | None = None


def summary(base: Settings, leases: Iterable[Override]) -> str:
    """Return the content of a file in one line: the same for the same content alone."""
    limited = (f"{', '.join(sorted(each.values))} by lease {each.id}" for each in leases)
    return "; ".join([str(base), *limited])


@dataclass(frozen=True, slots=True)
class Sample:
    """What one request gets: a fault `kind` (None: success), a `delay` in seconds, and the settings at that time."""

    kind: str | None
    delay: float
    settings: Settings

    def fails(self) -> bool:
        return self.kind == "failure"


def sample(settings: Settings, chance: float, position: float) -> Sample:
    """Return the sample of a worker's request for two uniform numbers; hangs, resets and failures have no delay."""
    kind = settings.kind(chance)
    return Sample(kind, 0.0 if kind in ("hang", "reset", "failure") else settings.delay(position), settings)


def tickets_name(target: str, lease: str) -> str:
    """Return the name of the file in which load balancers count the requests of a lease: it has a byte for each."""
    return f"{target}.{lease}{TICKETS_SUFFIX}"


def counts_text(left: Mapping[str, int]) -> str:
    """Return the value of COUNTS_FIELD for numbers by lease; a lease whose id does not fit in there is left out."""
    entries = (f"{lease}={number}" for lease, number in left.items())
    return ", ".join([each for each in entries if _COUNT.fullmatch(each)][:MAX_COUNTS])


def read_counts(text: str) -> dict[str, int]:
    """Return the numbers by lease in a value of COUNTS_FIELD; what is no such number is left out."""
    entries = (_COUNT.fullmatch(each.strip()) for each in text.split(",", MAX_COUNTS)[:MAX_COUNTS])
    return {each[1]: int(each[2]) for each in entries if each is not None}


def _quoted(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
