"""What clients saw, whoever the clients were: every end of a request by its kind, whom it came from, and how long it took. Pure.

A failure is told by who made it: nobody accepted (refused), the connection broke before the whole answer (reset), no answer in time
(timeout), the LB's own 5xx (it bears no X-Comet-Worker), a worker's 5xx, and the failure that somebody ordered (injected).
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from comet.crowd import INJECTED
from scripts.bench.hdr import Histogram, decoded, encoded, fresh, together

OK, ORDERED, BY_LB, BY_WORKER, CLIENT_ERROR = "ok", "injected", "5xx by the LB", "5xx by the worker", "4xx"
REFUSED, RESET, TIMEOUT = "refused", "reset", "timeout"
ANSWERS = (OK, ORDERED, BY_WORKER, BY_LB, CLIENT_ERROR)
UNANSWERED = (REFUSED, RESET, TIMEOUT)
TROUBLES = {"refused": REFUSED, "no connection": REFUSED, "timeout": TIMEOUT}


def kind_of(status: int, worker: str | None, body: bytes) -> str:
    """Of a whole answer."""
    if body == INJECTED:
        return ORDERED
    if status >= 500:
        return BY_WORKER if worker else BY_LB
    return CLIENT_ERROR if status >= 400 else OK


def kind_of_trouble(trouble: str) -> str:
    """Of a request without one, from the words of comet.crowd."""
    return TROUBLES.get(trouble, RESET)


@dataclass
class Observed:
    """Over so many seconds; `raw` times count from when a request was sent, `corrected` ones without coordinated omission. `late` answers
    came after these seconds."""

    seconds: float
    kinds: Counter[str] = field(default_factory=Counter)
    workers: Counter[str] = field(default_factory=Counter)
    raw: Histogram = field(default_factory=fresh)
    corrected: Histogram = field(default_factory=fresh)
    late: int = 0

    @property
    def answered(self) -> int:
        """Whole answers of whatever status."""
        return sum(self.kinds[kind] for kind in ANSWERS)

    @property
    def unanswered(self) -> int:
        """Requests that broke."""
        return sum(self.kinds[kind] for kind in UNANSWERED)

    @property
    def failures(self) -> Counter[str]:
        """All that is neither good nor ordered."""
        return Counter({kind: count for kind, count in self.kinds.items() if kind not in (OK, ORDERED) and count})

    @property
    def rate(self) -> float:
        """Answers a second, of those that came in time."""
        return (self.answered - self.late) / self.seconds if self.seconds else 0.0

    def as_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "kinds": dict(self.kinds), "workers": dict(self.workers), "late": self.late} | {
            "raw": encoded(self.raw), "corrected": encoded(self.corrected)
        }  # fmt: skip

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> "Observed":
        kinds, workers = Counter(told["kinds"]), Counter(told["workers"])
        return cls(told["seconds"], kinds, workers, decoded(told["raw"]), decoded(told["corrected"]), told.get("late", 0))


def beside(parts: Iterable[Observed]) -> Observed:
    """Several who asked during the same time."""
    found = list(parts)
    return _sum(found, max((each.seconds for each in found), default=0.0))


def in_turn(parts: Iterable[Observed]) -> Observed:
    """Several times after one another."""
    found = list(parts)
    return _sum(found, sum(each.seconds for each in found))


def _sum(found: list[Observed], seconds: float) -> Observed:
    kinds, workers = (sum((getattr(each, name) for each in found), Counter()) for name in ("kinds", "workers"))
    raw, mended = together(each.raw for each in found), together(each.corrected for each in found)
    return Observed(seconds, kinds, workers, raw, mended, sum(each.late for each in found))
