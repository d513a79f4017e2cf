"""The findings of a comparison as plain data: raw values, from which everything else is derived. Pure."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from comet.common.errors import UserError
from comet.compare.results.figures import Paired, paired

Kind = Literal["process", "container"]
KINDS: tuple[Kind, Kind] = ("process", "container")

HOST_NETWORK = "container, host network"
"""A third path to the same container, besides its published port."""

NETWORK = "network"
WAYS = (
    "host's network",
    "container's own address",
    "published port by NAT alone",
    "published port by the engine's proxy",
    "UNIX socket in a mounted folder",
)
"""The section of the network, and the ways to a container that it measures."""

PLACES = ("layer (overlay)", "mounted folder", "memory (tmpfs)")
"""Where a container's files may be."""

GUARDS = ("seccomp", "apparmor")
"""What the engine may put before a container's system calls."""


@dataclass
class Measure:
    """One question that both kinds answer in every round.

    `values` are by kind (or by path), one for each round, None where a round has none.
    """

    section: str
    name: str
    unit: str
    values: dict[str, list[float | None]] = field(default_factory=dict)

    def note(self, way: str, round_: int, value: float | None) -> None:
        """Enter a value; earlier rounds that were not asked have None."""
        listed = self.values.setdefault(way, [])
        listed.extend([None] * (round_ + 1 - len(listed)))
        listed[round_] = value

    @property
    def paired(self) -> Paired | None:
        return paired(self.values.get("process", []), self.values.get("container", []))


@dataclass
class Recovery:
    """One death and the recovery, in ms since the order to kill: the supervisor's steps and the first answer."""

    kind: Kind
    round: int
    loaded: bool
    steps: dict[str, float]


@dataclass
class Seen:
    """What clients, which count every failure, saw during a fault of one of two workers."""

    fault: str
    kind: Kind
    round: int
    requests: int
    failed: dict[str, int]
    repeated: int
    p99_ms: float | None
    slowest_ms: float | None


@dataclass
class Spread:
    """The distribution of the latencies of one block: ms by percentile."""

    load: str
    way: str
    round: int
    percentiles: dict[float, float]


@dataclass
class Grown:
    """Figures of `replicas` replicas of one kind.

    `ready_ms` is the time in which they came up from one replica, step by step, and `cpu_ms` the CPU time of the
    machine meanwhile; both are None for one replica, and after a step that failed. Memory and disk are in bytes.
    `keeper` is the part of the engine's own processes for the replicas; `cgroup` is None for processes; `disk` is the
    replicas' own files and the engine's for them, without the image. `private` and `files` are parts of `pss`: pages
    that no other process maps, and pages of files.
    """

    kind: Kind
    round: int
    replicas: int
    ready_ms: float | None
    pss: int
    rss: int
    keeper: int
    cgroup: int | None
    cpu_ms: float | None = None
    disk: int = 0
    private: int = 0
    files: int = 0


@dataclass
class Attempt:
    """The outcome of one try of an attack from within one kind.

    `contained` is None where it could not be tried, or, with `by_neighbours`, where all tries together decide by what
    the neighbors met (`verdicts`). `neighbours` has the p99 in ms of a worker of each kind before and during the try,
    and its failures.
    """

    name: str
    kind: Kind
    round: int
    contained: bool | None
    outcome: str
    by_neighbours: bool = False
    neighbours: dict[str, dict[str, float | None]] = field(default_factory=dict)


@dataclass
class Findings:
    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    rounds: int = 0
    seconds: float = 0.0
    measures: list[Measure] = field(default_factory=list)
    recoveries: list[Recovery] = field(default_factory=list)
    spreads: list[Spread] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    growth: list[Grown] = field(default_factory=list)
    density: list[Grown] = field(default_factory=list)
    """How each kind grew beyond that once; `bounds` says for each why it did not grow further."""
    bounds: dict[Kind, str] = field(default_factory=dict)
    attempts: list[Attempt] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    foreign: list[float] = field(default_factory=list)
    """Cores that other programs than the comparison used, for every block under load."""

    def measure(self, section: str, name: str, unit: str) -> Measure:
        """Return the measure of that name; it is created at the first request."""
        for each in self.measures:
            if (each.section, each.name) == (section, name):
                return each
        self.measures.append(Measure(section, name, unit))
        return self.measures[-1]

    @contextmanager
    def excused(self, what: str) -> Iterator[None]:
        """Note a failure of a question (of the cluster, or of the engine), so that it ends nothing else."""
        try:
            yield
        except (UserError, OSError) as error:
            self.notes.append(f"{what}: not measured ({' '.join(str(error).split())})")

    def sections(self) -> Iterator[tuple[str, list[Measure]]]:
        """Yield the measures by section, in order of appearance."""
        names = dict.fromkeys(each.section for each in self.measures)
        for name in names:
            yield name, [each for each in self.measures if each.section == name]

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON: all raw values, and each measure with its statistics."""
        data = asdict(self)
        for raw, measure in zip(data["measures"], self.measures, strict=True):
            found = measure.paired
            raw["paired"] = None if found is None else asdict(found) | {"certain": found.certain, "ratio": found.ratio}
        return data
