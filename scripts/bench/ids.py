"""Accounts for a chaos run request by request: what one id met at its client, its load balancer and the workers. Pure.

Every request has its own id, and is sent once. These rules must hold for each:
- Answered at the client: the worker that answered counted it (else it is lost; an injected failure does not name its
  row, so any counted failure is accepted), and its load balancer logged it once, with what the client saw. A load
  balancer writes its log with a delay: a line may be lost with a load balancer that dies within `UNWRITTEN` seconds
  after the answer.
- Counted n times: its load balancer reports n - 1 or more retries (an attempt may die uncounted). If the line was lost
  with the load balancer, a worker must have been dead at that time. Otherwise it was counted twice without a retry.
- Retried: while a worker was dead.
- Known to a load balancer or a worker: a client sent it.
- A worker's single entries add up to its counts.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from scripts.bench.ledger import AFTERMATH, SLACK, Death

UNWRITTEN = 0.5  # seconds: lb.proxy.access_log.FLUSH_INTERVAL, and as much again for a busy machine


@dataclass(frozen=True)
class Seen:
    """One request at its client.

    `status` None means no complete answer. `row` is the answering worker's own name, None if its answer does not
    contain it; `worker` is its name according to the load balancer.
    """

    lb: str
    status: int | None
    row: str | None
    worker: str | None
    began: float
    ended: float


@dataclass(frozen=True)
class Line:
    """One request in a load balancer's access log."""

    lb: str
    status: int
    worker: str | None
    retries: int


@dataclass(frozen=True)
class Entry:
    """One count of a request in the workers' database."""

    row: str
    failed: bool


@dataclass
class Account:
    """The ids that were lost or counted twice without a retry, and reasons for what is unexplained; all must be empty.

    `unwritten` counts the lines lost with their load balancer, `repeated` the requests that a load balancer reports as
    retried, `counted_again` those counted more than once.
    """

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)
    requests: int = 0
    lines: int = 0
    entries: int = 0
    unwritten: int = 0
    repeated: int = 0
    counted_again: int = 0

    @property
    def clean(self) -> bool:
        return not (self.lost or self.doubled or self.unexplained)


def account(
    clients: Mapping[str, Seen],
    lines: Sequence[tuple[str, Line]],
    entries: Sequence[tuple[str, Entry]],
    counts: Mapping[str, tuple[int, int]],
    deaths: Sequence[Death],
) -> Account:
    """Follow every id through the three records. `counts` has the successes and failures of each worker's row."""
    logged: dict[str, list[Line]] = defaultdict(list)
    counted: dict[str, list[Entry]] = defaultdict(list)
    for id, line in lines:
        logged[id].append(line)
    for id, entry in entries:
        counted[id].append(entry)
    found = Account(requests=len(clients), lines=len(lines), entries=len(entries))
    for id, seen in clients.items():
        _follow(id, seen, logged.get(id, []), counted.get(id, []), deaths, found)
    for party, ids in (("an LB's log", logged), ("the workers' database", counted)):
        found.unexplained.extend(f"request {id!r} in {party}, never sent" for id in ids if id not in clients)
    kept = Counter((entry.row, entry.failed) for _, entry in entries)
    for row in sorted({*counts, *(row for row, _ in kept)}):
        good, bad = counts.get(row, (0, 0))
        one_by_one = kept[row, False], kept[row, True]
        if one_by_one != (good, bad):
            found.unexplained.append(
                f"row {row} counts {good} and {bad}, kept one by one are {one_by_one[0]} and {one_by_one[1]}"
            )
    return found


def _follow(
    id: str, seen: Seen, lines: Sequence[Line], entries: Sequence[Entry], deaths: Sequence[Death], found: Account
) -> None:
    where = f"request {id} through {seen.lb}"
    if seen.status in (200, 500) and not any(_fits(entry, seen) for entry in entries):
        found.lost.append(id)
    if len(lines) > 1:
        found.unexplained.append(f"{where}: {len(lines)} lines in the access logs")
    retries = lines[0].retries if lines else None
    if lines:
        _compare(where, seen, lines[0], found)
    elif _line_went(seen, deaths):
        found.unwritten += 1
    else:
        found.unexplained.append(f"{where}: no line in its access log, and it did not die")
    a_worker_was_dead = any(begins <= seen.ended and seen.began <= ends for begins, ends in _absences(deaths))
    if retries:
        found.repeated += 1
        if not a_worker_was_dead:
            found.unexplained.append(f"{where}: repeated while no worker was dead")
    if len(entries) > 1:
        found.counted_again += 1
        if retries is None and a_worker_was_dead:
            return
        if len(entries) - 1 > (retries or 0):
            found.doubled.append(id)


def _fits(entry: Entry, seen: Seen) -> bool:
    return entry.failed == (seen.status == 500) and seen.row in (None, entry.row)


def _compare(where: str, seen: Seen, line: Line, found: Account) -> None:
    if line.lb != seen.lb:
        found.unexplained.append(f"{where}: logged by {line.lb}")
    if seen.status is not None and (line.status, line.worker) != (seen.status, seen.worker):
        found.unexplained.append(
            f"{where}: its client saw {seen.status} by {seen.worker}, its log says {line.status} by {line.worker}"
        )


def _line_went(seen: Seen, deaths: Iterable[Death]) -> bool:
    """Return whether the load balancer died before it wrote the line, or during the exchange."""
    return any(
        death.replica == seen.lb
        and death.at <= seen.ended + UNWRITTEN
        and seen.began - SLACK <= (death.gone or death.at)
        for death in deaths
    )


def _absences(deaths: Iterable[Death]) -> Iterable[tuple[float, float]]:
    """Return the intervals in which a worker was dead, or its old connections could still fail."""
    return (
        (death.at - SLACK, (death.back or float("inf")) + AFTERMATH)
        for death in deaths
        if death.replica.startswith("worker")
    )
