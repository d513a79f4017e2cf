"""What clients saw, for every kind of client: each request's outcome by kind, its worker, and its duration. Pure.

A failure is named after its cause: nothing accepted (refused), the connection broke before the complete answer (reset),
no answer in time (timeout), the load balancer's own 5xx (without X-Comet-Worker), a worker's 5xx, and an injected
failure (injected).
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from comet.load.closed_model import INJECTED
from scripts.bench.hdr import Histogram, decoded, encoded, from_pairs, summed

OK, ORDERED, BY_LB, BY_WORKER, CLIENT_ERROR = "ok", "injected", "5xx by the LB", "5xx by the worker", "4xx"
REFUSED, RESET, TIMEOUT = "refused", "reset", "timeout"
ANSWERS = (OK, ORDERED, BY_WORKER, BY_LB, CLIENT_ERROR)
UNANSWERED = (REFUSED, RESET, TIMEOUT)
FAILURES = {"refused": REFUSED, "no connection": REFUSED, "timeout": TIMEOUT}


def kind_of(status: int, worker: str | None, body: bytes) -> str:
    """Return the kind of a complete answer."""
    if body == INJECTED:
        return ORDERED
    if status >= 500:
        return BY_WORKER if worker else BY_LB
    return CLIENT_ERROR if status >= 400 else OK


def kind_of_failure(failure: str) -> str:
    """Return the kind of a request without a complete answer, from the words of comet.load.closed_model."""
    return FAILURES.get(failure, RESET)


@dataclass
class Observed:
    """The observations of `seconds`.

    `raw` times count from when a request was sent, `corrected` ones are without coordinated omission. `late` answers
    came after these seconds.
    """

    seconds: float
    kinds: Counter[str] = field(default_factory=Counter)
    workers: Counter[str] = field(default_factory=Counter)
    raw: Histogram = field(default_factory=from_pairs)
    corrected: Histogram = field(default_factory=from_pairs)
    late: int = 0

    @property
    def answered(self) -> int:
        """Complete answers of any status."""
        return sum(self.kinds[kind] for kind in ANSWERS)

    @property
    def unanswered(self) -> int:
        """Requests without a complete answer."""
        return sum(self.kinds[kind] for kind in UNANSWERED)

    @property
    def failures(self) -> Counter[str]:
        """Everything that is neither a success nor an injected failure."""
        return Counter({kind: count for kind, count in self.kinds.items() if kind not in (OK, ORDERED) and count})

    @property
    def rate(self) -> float:
        """Answers a second, of those that came in time."""
        return (self.answered - self.late) / self.seconds if self.seconds else 0.0

    def as_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "kinds": dict(self.kinds), "workers": dict(self.workers),
        "late": self.late} | {
            "raw": encoded(self.raw), "corrected": encoded(self.corrected)
        }  # fmt: skip

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> "Observed":
        kinds, workers = Counter(record["kinds"]), Counter(record["workers"])
        return cls(
            record["seconds"],
            kinds,
            workers,
            decoded(record["raw"]),
            decoded(record["corrected"]),
            record.get("late", 0),
        )


def beside(parts: Iterable[Observed]) -> Observed:
    """Return the sum of observations during the same time."""
    found = list(parts)
    return _sum(found, max((each.seconds for each in found), default=0.0))


def in_turn(parts: Iterable[Observed]) -> Observed:
    """Return the sum of observations one after the other."""
    found = list(parts)
    return _sum(found, sum(each.seconds for each in found))


def _sum(found: list[Observed], seconds: float) -> Observed:
    kinds, workers = (sum((getattr(each, name) for each in found), Counter()) for name in ("kinds", "workers"))
    raw, mended = summed(each.raw for each in found), summed(each.corrected for each in found)
    return Observed(seconds, kinds, workers, raw, mended, sum(each.late for each in found))
