"""Accounts for a chaos run by counters: what clients saw, what load balancers and workers counted, and what differs.
Pure.

Three parties count independently. These are the differences that are allowed:
- A client's exchange breaks only with the death of its load balancer (`explains`); any other failure is unexplained.
- A load balancer: answers at the client <= responses written + exchanges open when it was killed. No response may be
  written that neither arrived nor broke on its way.
- The workers, by row: every success that arrived must be counted (else it is lost). What is counted and did not arrive
  must be matched by exchanges that broke or were retried (an attempt whose answer never arrived); anything beyond these
  is counted twice.
- A retry is explained by the death of a worker that was not ready again yet.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

SLACK = 0.05  # seconds between a clock read and what it stands for
AFTERMATH = 1.0  # seconds after a worker's return in which connections of its former life may still show


@dataclass(frozen=True)
class Death:
    """A kill at `at` (monotonic seconds).

    `back` is when its replica was ready again, None if that was not seen. `gone` is when the process was seen to be
    dead: on a busy machine it takes a while until it gets the CPU time to die, and until then its kernel accepts
    requests.
    """

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
    """What clients saw through one load balancer. `served` counts successes by the worker's own name."""

    sent: int = 0
    injected: int = 0
    served: dict[str, int] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)

    @property
    def answered(self) -> int:
        """Complete responses of any status."""
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
    """Successes by row, and the total of failures (all injected)."""

    successes: Mapping[str, int]
    failures: int


@dataclass(frozen=True)
class Verdict:
    """The result: `lost`, `doubled` and `unexplained` must all be zero. `reasons` describes what is unexplained."""

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
    """Return whether the failure is the exchange that broke with its load balancer."""
    if failure.kind != "broken":
        return False
    window = failure.began - SLACK, failure.ended + SLACK
    return any(
        death.replica == failure.lb and death.at <= window[1] and window[0] <= (death.gone or death.at)
        for death in deaths
    )


def context(failure: Failure, deaths: Iterable[Death]) -> str:
    """Return when the failure ended, relative to the latest kill before it."""
    before = max((death for death in deaths if death.at <= failure.ended), key=lambda death: death.at, default=None)
    took = f"after {failure.ended - failure.began:.3f} s"
    return (
        took if before is None else f"{took}, {failure.ended - before.at:.2f} s behind {before.how} of {before.replica}"
    )


def unexplained_repeats(samples: Sequence[tuple[float, int]], deaths: Iterable[Death]) -> tuple[int, dict[str, int]]:
    """Assign retries (samples of time and their running total) to the deaths of workers that were not ready again;
    return what is left.
    """
    spans = [
        (death.at - SLACK, (death.back or float("inf")) + AFTERMATH, death)
        for death in deaths
        if death.replica.startswith("worker")
    ]
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


def settle(
    clients: Mapping[str, ClientBook], lbs: Mapping[str, LbBook], workers: WorkerBook, deaths: Sequence[Death]
) -> Verdict:
    """Compare the counts of all parties."""
    reasons: list[str] = []
    for name, book in clients.items():
        for failure in book.failures:
            if not explains(failure, deaths):
                used = "a used" if failure.reused else "a new"
                reasons.append(
                    f"request {failure.number} through {name} on {used} connection, {context(failure, deaths)}: "
                    f"{failure.kind}"
                )
        reasons.extend(_lb_reasons(name, book, lbs[name]))
    lost, surplus = _rows(clients.values(), workers)
    broken = sum(book.broken for book in clients.values())
    repeated = sum(book.retries for book in lbs.values())
    return Verdict(lost, max(0, surplus - broken - repeated), len(reasons), repeated, broken, tuple(reasons))


def _lb_reasons(name: str, client: ClientBook, lb: LbBook) -> Iterable[str]:
    """Yield a reason for each exchange by which the load balancer's counts differ from the clients'."""
    broken_at_kill = lb.requests - lb.responses - lb.aborted  # open when it was killed
    missing = client.answered - lb.responses - max(0, broken_at_kill)
    extra = lb.responses - client.answered - client.broken
    unsent = lb.requests - client.sent
    for count, text in (
        (missing, "answered but not in its counters"),
        (extra, "in its counters but never asked"),
        (unsent, "never sent"),
    ):
        yield from [f"{name}: a request {text}"] * max(0, count)
    if broken_at_kill < 0:
        yield from [f"{name}: a response without a request"] * -broken_at_kill


def _rows(clients: Iterable[ClientBook], workers: WorkerBook) -> tuple[int, int]:
    """Return what the workers lack of what arrived, and what they count beyond it."""
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
