"""What can be seen of a replica: each kind of news that drivers, probes, load balancers and the swarm bring of one, as a value. Pure.

What follows from an observation is not its own business (`comet.reactions`). Moments are monotonic seconds.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Exit:
    """How an instance ended. All None where nobody could read it. `at` is the wall time of death as ISO 8601, `detect_ms` how long
    after it was noticed; both None where the time of death is not known."""

    code: int | None = None
    signal: str | None = None
    oom: bool = False
    at: str | None = None
    detect_ms: float | None = None


@dataclass(frozen=True)
class Endpoint:
    """Where a replica is reached. `node` names the machine, where it may be another one than ours; `health_path` is what load balancers
    ask it for to see whether it is well (None: what their settings say)."""

    host: str
    port: int
    node: str | None = None
    health_path: str | None = None


@dataclass(frozen=True)
class Started:
    """The instance exists; it need not answer yet. `pid` is None where it has no process on this host; `endpoint` is given by who
    alone knows where it came to run."""

    pid: int | None
    id: str
    endpoint: Endpoint | None = None


@dataclass(frozen=True)
class Replaced:
    """By design, and not by us, another instance stands in its place from now on; `checked` if it has been seen to answer."""

    id: str
    endpoint: Endpoint
    checked: bool = False


@dataclass(frozen=True)
class StartFailed:
    reason: str


@dataclass(frozen=True)
class Ready:
    """It answers. `listening` is when it began to listen, in monotonic seconds, where it says so itself."""

    listening: float | None = None


@dataclass(frozen=True)
class Answered:
    """It has given its first answer to a client, at `at` (monotonic seconds)."""

    at: float


@dataclass(frozen=True)
class Health:
    healthy: bool
    reason: str = ""


@dataclass(frozen=True)
class Hung:
    """It exists and does nothing any more: only a kill can help."""

    reason: str


@dataclass(frozen=True)
class Unheard:
    """Nobody hears of its machine any more, for this reason; it may be dead, and may answer as ever. No reason: it is heard of again."""

    reason: str = ""


@dataclass(frozen=True)
class Drained:
    """Nothing more will be sent to it."""


@dataclass(frozen=True)
class Exited:
    exit: Exit = field(default_factory=Exit)


@dataclass(frozen=True)
class Lost:
    """It is dead; how it ended will be told in a moment by Exited."""


@dataclass(frozen=True)
class Removed:
    """Nothing is left of it: no process, container or socket."""


@dataclass(frozen=True)
class Revived:
    """What kept replicas from starting is gone (the engine is back): waiting out a backoff makes no sense any more."""


Observation = Started | Replaced | StartFailed | Ready | Answered | Health | Hung | Unheard | Drained | Lost | Exited | Removed | Revived
