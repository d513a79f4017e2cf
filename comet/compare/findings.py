"""What a comparison has found, as plain data: raw values first, everything else is made of them. Pure."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from comet.compare.figures import Paired, paired
from comet.errors import UserError

Kind = Literal["process", "container"]
KINDS: tuple[Kind, Kind] = ("process", "container")

HOST_NETWORK = "container, host network"
"""A third way into the same container, beside its published port."""


@dataclass
class Measure:
    """One question put to both kinds in every round: values by kind (or by way), one a round, None where a round has none."""

    section: str
    name: str
    unit: str
    values: dict[str, list[float | None]] = field(default_factory=dict)

    def note(self, way: str, round_: int, value: float | None) -> None:
        """Enter a value; rounds in between that were not asked have none."""
        listed = self.values.setdefault(way, [])
        listed.extend([None] * (round_ + 1 - len(listed)))
        listed[round_] = value

    @property
    def paired(self) -> Paired | None:
        return paired(self.values.get("process", []), self.values.get("container", []))


@dataclass
class Recovery:
    """One death and what followed, in ms since the order to kill: the supervisor's steps, and the first answer."""

    kind: Kind
    round: int
    loaded: bool
    steps: dict[str, float]


@dataclass
class Seen:
    """What strict clients saw while one of two workers met a fault."""

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
    """How the latencies of one block were distributed: ms by percentile."""

    load: str
    way: str
    round: int
    percentiles: dict[float, float]


@dataclass
class Grown:
    """So many replicas of one kind: time in which they came up from one, step by step, and CPU of the machine meanwhile (None for one, and
    after a step that failed), and memory and disk in bytes. `keeper` is the part of the engine's own processes for them; `cgroup` is None
    for processes; `disk` are their own files and the engine's for them, without the image."""

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


@dataclass
class Attempt:
    """What an attack from within one kind came to in one try. `contained` None: it could not be tried, or, where `by_neighbours`, what its
    neighbours met in all tries together decides (`verdicts`). `neighbours`: p99 in ms of a worker of each kind before and during it, and
    failures."""

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
    attempts: list[Attempt] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    foreign: list[float] = field(default_factory=list)
    """Of every block under load, the cores that others than the comparison used."""

    def measure(self, section: str, name: str, unit: str) -> Measure:
        """The measure of that name, made when it is first asked for."""
        for each in self.measures:
            if (each.section, each.name) == (section, name):
                return each
        self.measures.append(Measure(section, name, unit))
        return self.measures[-1]

    @contextmanager
    def excused(self, what: str) -> Iterator[None]:
        """A question whose failing (of the cluster, or of the engine) is noted and ends nothing else."""
        try:
            yield
        except (UserError, OSError) as error:
            self.notes.append(f"{what}: not measured ({' '.join(str(error).split())})")

    def sections(self) -> Iterator[tuple[str, list[Measure]]]:
        """The measures by section, in order of appearance."""
        names = dict.fromkeys(each.section for each in self.measures)
        for name in names:
            yield name, [each for each in self.measures if each.section == name]

    def as_dict(self) -> dict[str, Any]:
        """The JSON: everything raw, and with each measure what was made of it."""
        data = asdict(self)
        for raw, measure in zip(data["measures"], self.measures, strict=True):
            found = measure.paired
            raw["paired"] = None if found is None else asdict(found) | {"certain": found.certain, "ratio": found.ratio}
        return data
