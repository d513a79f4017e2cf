"""The ledger of a chaos run: what clients saw, what the LBs counted, what the workers counted, and what is left over. Pure.

Three books are kept by three parties that do not know of each other. What may differ, and why:
- A client's exchange breaks only with the death of its LB (`explains`); any other failure is unexplained.
- An LB's book: answered at the client <= responses written + exchanges open when it was killed; and no response is written that neither
  arrived nor broke on its way.
- The workers' book, row by row: nothing that arrived may be missing (lost). What is counted and did not arrive must be matched by
  exchanges that broke or were repeated (an attempt whose answer never came through); more than these is counted twice.
- A repeat is explained by the death of a worker that was not back yet.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

SLACK = 0.05  # seconds between a clock read and what it stands for
AFTERMATH = 1.0  # seconds after a worker's return in which connections of its former life may still show


@dataclass(frozen=True)
class Death:
    """A kill at `at` (monotonic seconds); `back` is when its replica was ready again, None if it was not seen. `gone` is when the process
    was seen to be dead: on a busy machine it takes a while until it gets the CPU to die on, and till then its kernel takes in requests."""

    replica: str
    how: str
    at: float
    back: float | None = None
    gone: float | None = None


@dataclass(frozen=True)
class Failure:
    """A request that did not end with a 200 or an injected failure."""

    number: int
    lb: str
    kind: str
    began: float
    ended: float
    reused: bool


@dataclass
class ClientBook:
    """What clients saw through one LB. `served` counts successes by the worker's own name for itself."""

    sent: int = 0
    injected: int = 0
    served: dict[str, int] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)

    @property
    def answered(self) -> int:
        """Complete responses of whatever status."""
        statuses = sum(failure.kind.startswith("status") for failure in self.failures)
        return self.injected + sum(self.served.values()) + statuses

    @property
    def broken(self) -> int:
        """Requests without a complete response."""
        return self.sent - self.answered


@dataclass(frozen=True)
class LbBook:
    requests: int
    responses: int
    aborted: int
    retries: int


@dataclass(frozen=True)
class WorkerBook:
    """Successes by row, and failures (all injected) in all."""

    successes: Mapping[str, int]
    failures: int


@dataclass(frozen=True)
class Verdict:
    """All three of `lost`, `doubled` and `unexplained` must be zero. `reasons` says what was unexplained."""

    lost: int
    doubled: int
    unexplained: int
    repeated: int
    broken: int
    reasons: tuple[str, ...]

    @property
    def clean(self) -> bool:
        return not (self.lost or self.doubled or self.unexplained)


def explains(failure: Failure, deaths: Iterable[Death]) -> bool:
    """Whether the failure is the exchange that broke with its LB."""
    if failure.kind != "broken":
        return False
    window = failure.began - SLACK, failure.ended + SLACK
    return any(death.replica == failure.lb and death.at <= window[1] and window[0] <= (death.gone or death.at) for death in deaths)


def context(failure: Failure, deaths: Iterable[Death]) -> str:
    """When it ended, told from the latest kill before."""
    before = max((death for death in deaths if death.at <= failure.ended), key=lambda death: death.at, default=None)
    took = f"after {failure.ended - failure.began:.3f} s"
    return took if before is None else f"{took}, {failure.ended - before.at:.2f} s behind {before.how} of {before.replica}"


def unexplained_repeats(samples: Sequence[tuple[float, int]], deaths: Iterable[Death]) -> tuple[int, dict[str, int]]:
    """Share out repeats (samples of time and their running total) among the deaths of workers that were not back; and what is over."""
    spans = [(death.at - SLACK, (death.back or float("inf")) + AFTERMATH, death) for death in deaths if death.replica.startswith("worker")]
    over = 0
    shares: dict[str, int] = {}
    for (before, former), (now, total) in pairwise(samples):
        if total == former:
            continue
        fitting = [death for begins, ends, death in spans if begins <= now and before <= ends]
        if not fitting:
            over += total - former
        else:
            latest = max(fitting, key=lambda death: death.at)
            key = f"{latest.replica} {latest.how}"
            shares[key] = shares.get(key, 0) + total - former
    return over, shares


def settle(clients: Mapping[str, ClientBook], lbs: Mapping[str, LbBook], workers: WorkerBook, deaths: Sequence[Death]) -> Verdict:
    """Compare the books."""
    reasons: list[str] = []
    for name, book in clients.items():
        for failure in book.failures:
            if not explains(failure, deaths):
                used = "a used" if failure.reused else "a new"
                reasons.append(f"request {failure.number} through {name} on {used} connection, {context(failure, deaths)}: {failure.kind}")
        reasons.extend(_lb_reasons(name, book, lbs[name]))
    lost, surplus = _rows(clients.values(), workers)
    broken = sum(book.broken for book in clients.values())
    repeated = sum(book.retries for book in lbs.values())
    return Verdict(lost, max(0, surplus - broken - repeated), len(reasons), repeated, broken, tuple(reasons))


def _lb_reasons(name: str, client: ClientBook, lb: LbBook) -> Iterable[str]:
    """An entry for each exchange by which the LB's book does not fit the clients'."""
    cut = lb.requests - lb.responses - lb.aborted  # open when it was killed
    missing = client.answered - lb.responses - max(0, cut)
    extra = lb.responses - client.answered - client.broken
    unsent = lb.requests - client.sent
    for count, told in ((missing, "answered but not in its counters"), (extra, "in its counters but never asked"), (unsent, "never sent")):
        yield from [f"{name}: a request {told}"] * max(0, count)
    if cut < 0:
        yield from [f"{name}: a response without a request"] * -cut


def _rows(clients: Iterable[ClientBook], workers: WorkerBook) -> tuple[int, int]:
    """What the workers miss of what arrived, and what they count beyond it."""
    books = list(clients)
    lost = surplus = 0
    seen: dict[str, int] = {}
    for book in books:
        for row, count in book.served.items():
            seen[row] = seen.get(row, 0) + count
    differences = [workers.successes.get(row, 0) - seen.get(row, 0) for row in {*workers.successes, *seen}]
    differences.append(workers.failures - sum(book.injected for book in books))
    for difference in differences:
        lost += max(0, -difference)
        surplus += max(0, difference)
    return lost, surplus
