"""Measures start, kill, hang and stop, calm and under load, and what clients saw meanwhile.

The subject is always worker-1: worker-0 stays, so that clients always have a worker. Times come from the supervisor's
own events and timelines, which are the same code for both kinds. The first answer is that of a client that asks the
worker's own port again and again. Times of a recovery count from the order to kill. The clients are strict: they count
every failure.
"""

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from comet.common.clock import parse
from comet.common.errors import UserError
from comet.common.figures import percentile
from comet.compare.questions import meter
from comet.compare.questions.load import clients
from comet.compare.questions.side import Side, wait_for
from comet.compare.results.findings import Findings, Recovery, Seen
from comet.engine.connection import connect
from comet.host import process_identity
from comet.load.closed_model import ResultCounts

T = TypeVar("T")

SUBJECT = "worker-1"
CLIENTS = 16
PROBE_PAUSE, PROBE_LIMIT = 0.01, 1.0
"""Seconds from one probe for the first answer to the next, and until a probe is given up.

Probes overlap: a published port may accept and stay silent while its container starts, and such a probe must not delay
what is measured.
"""

PAUSE = 0.005
"""Seconds between a client's answer and its next request: a load that leaves time for others on two cores."""

FREEZE_LIMIT = 20.0
FREEZE_TRIES = 5
"""Attempts to freeze a container: an engine on a busy machine may fail once (`unable to freeze`) and succeed later."""

OOM_RATE = 2000
"""MiB a second by which a worker grows in the out-of-memory fault: its limit is reached in a fraction of a second."""


def measure_all(sides: Callable[[int], list[Side]], round_: int, findings: Findings) -> None:
    """Ask all questions once; `sides` returns both sides in the order of a turn.

    A question that fails costs its own answer only.
    """

    def asked(what: str, turn: int, question: Callable[[Side], object]) -> None:
        for side in sides(turn):
            with findings.excused(f"round {round_ + 1}: {side.kind}, {what}"):
                question(side)

    start = partial(note_start, round_=round_, findings=findings)
    asked("start", 0, partial(start, loaded=False))
    asked("kill -9", 1, partial(note_kill, round_=round_, findings=findings))
    for turn, (name, fault) in enumerate(FAULTS.items()):
        note = partial(note_fault, round_=round_, findings=findings, name=name, fault=fault)
        asked(f"{name} under load", turn, note)
    asked("stop", 1, partial(note_stop, round_=round_, findings=findings, loaded=False))
    asked("start under load", 0, lambda side: under_load(side, partial(start, side, loaded=True)))
    asked("stop under load", 1, partial(note_scale_down, round_=round_, findings=findings))


# Start and stop.


def note_start(side: Side, round_: int, findings: Findings, loaded: bool) -> None:
    since, busy = time.time(), meter.machine_busy()
    side.ask("scale", worker=2)
    spent = meter.cpu_seconds(meter.tree(side.pid(SUBJECT)))
    busy = meter.machine_busy() - busy
    event = side.event(since, "replica_ready", SUBJECT)
    under = " under load" if loaded else ""
    findings.measure("life", f"cold start to ready{under}", "ms").note(side.kind, round_, event["start_ms"])
    if not loaded:
        findings.measure("cost", "CPU of a start, the worker's", "ms").note(side.kind, round_, spent * 1000)
        findings.measure("cost", "CPU of a start, the machine's", "ms").note(side.kind, round_, busy * 1000)


def measure_starts(sides: list[Side], round_: int, findings: Findings) -> None:
    """Ask for a start alone."""
    for side in sides:
        with findings.excused(f"round {round_ + 1}: {side.kind}, start"):
            note_start(side, round_, findings, loaded=False)
            side.ask("scale", worker=1)


def note_stop(side: Side, round_: int, findings: Findings, loaded: bool) -> None:
    began = time.monotonic()
    side.ask("scale", worker=1)
    name = "graceful stop and removal" + (" under load" if loaded else "")
    findings.measure("life", name, "ms").note(side.kind, round_, (time.monotonic() - began) * 1000)


def note_scale_down(side: Side, round_: int, findings: Findings) -> None:
    side.wait_stable(SUBJECT)
    _, book = under_load(side, partial(note_stop, side, round_, findings, loaded=True))
    note_clients(findings, "a scale-down", side, round_, book)


# Death.


def note_kill(side: Side, round_: int, findings: Findings) -> None:
    """Kill the subject without load, and ask its own port until it answers."""
    side.wait_stable(SUBJECT)
    steps, answer = recovered(side, lambda: side.ask("kill", name=SUBJECT, signal="KILL"))
    findings.measure("life", "kill -9 to ready", "ms").note(side.kind, round_, steps.get("ready"))
    findings.measure("life", "kill -9 to first answer", "ms").note(side.kind, round_, answer)
    findings.recoveries.append(Recovery(side.kind, round_, False, steps | {"first answer": answer}))
    findings.measure("life", "death to noticed", "ms").note(side.kind, round_, detection(steps))


def detection(steps: dict[str, float]) -> float | None:
    """Return the ms from the death until the supervisor noticed it; None where the time of death is unknown."""
    return steps["noticed"] - steps["died"] if {"noticed", "died"} <= steps.keys() else None


def recovered(side: Side, end: Callable[[], object]) -> tuple[dict[str, float], float]:
    """End the subject and wait for its return; return the steps and the first answer, in ms since the order.

    The steps are the supervisor's timeline; the first answer is on the subject's own port.
    """
    since = time.time()
    end()
    wait_for(lambda: side.events(since, "replica_exited", SUBJECT), 30, f"{SUBJECT} of the {side.kind} side ends")
    answered = asyncio.run(first_answer(side.worker_port(SUBJECT), 60))
    if answered is None:
        raise UserError(f"compare: not within 60 s: {SUBJECT} of the {side.kind} side answers again")
    event = side.event(since, "replica_ready", SUBJECT)
    return since_order(event, since), (answered - since) * 1000


def since_order(ready: dict[str, Any], order: float) -> dict[str, float]:
    """Return the steps of a recovery in ms since the order (seconds since the epoch).

    The event's timeline counts from the first step and ends with the event itself.
    """
    steps: dict[str, float] = ready.get("timeline_ms", {})
    moment = parse(ready["at"])
    if "ready" not in steps or moment is None:
        return {}
    offset = (moment - order) * 1000 - steps["ready"]
    return {name: at + offset for name, at in steps.items()}


async def first_answer(port: int, seconds: float) -> float | None:
    """Return when a worker first answers its health check (seconds since the epoch); None: not within `seconds`."""
    found: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    asked: set[asyncio.Task[None]] = set()
    deadline = time.monotonic() + seconds

    async def probe() -> None:
        with contextlib.suppress(TimeoutError):
            if await asyncio.wait_for(healthy(port), PROBE_LIMIT) and not found.done():
                found.set_result(time.time())

    while not found.done() and time.monotonic() < deadline:
        task = asyncio.create_task(probe())
        asked.add(task)
        task.add_done_callback(asked.discard)
        await asyncio.wait([found], timeout=PROBE_PAUSE)
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    return found.result() if found.done() else None


async def healthy(port: int) -> bool:
    """Whether a worker answers its health check on a new connection, without a time limit."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    try:
        writer.write(HEALTH_CHECK)
        return (await reader.read(64)).startswith(b"HTTP/1.1 200")
    except OSError:
        return False
    finally:
        writer.close()


HEALTH_CHECK = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"


def answers(port: int) -> bool:
    """Whether a worker answers its health check on a new connection, within a second for each step."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as peer:
            peer.sendall(HEALTH_CHECK)
            return peer.recv(64).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


# Faults under load: each takes the subject's side and returns when it is over.


@dataclass(frozen=True)
class Met:
    """The result of a fault: times in ms by the measure's name, and the steps of the recovery where reported."""

    times: dict[str, float | None] = field(default_factory=dict)
    steps: dict[str, float] = field(default_factory=dict)


def killed(side: Side) -> Met:
    steps, answer = recovered(side, lambda: side.ask("kill", name=SUBJECT, signal="KILL"))
    times = {"kill -9 to ready under load": steps.get("ready"), "kill -9 to first answer under load": answer}
    times["death to noticed under load"] = detection(steps)
    return Met(times, steps | {"first answer": answer})


def terminated(side: Side) -> Met:
    recovered(side, lambda: side.ask("kill", name=SUBJECT, signal="TERM"))
    return Met()


def frozen(side: Side) -> Met:
    """Freeze the subject: it exists and does nothing.

    A process gets SIGSTOP, a container the engine's pause (cgroup freezer).
    """
    thaw = freeze(side)
    try:
        since = time.time()
        side.event(since, "replica_unhealthy", SUBJECT, FREEZE_LIMIT)
        noticed = (time.time() - since) * 1000
    finally:
        thaw()
    side.event(since, "replica_healthy", SUBJECT)
    return Met({"hang to noticed": noticed})


def freeze(side: Side) -> Callable[[], object]:
    """Freeze the subject; return the function that thaws it."""
    row = side.replica(SUBJECT)
    if side.kind == "process":
        pid = int(row["pid"])
        birth = process_identity.birth_of(pid)
        process_identity.send(pid, birth, signal.SIGSTOP)
        return lambda: process_identity.send(pid, birth, signal.SIGCONT)
    api = connect().api
    for tries_left in reversed(range(FREEZE_TRIES)):
        try:
            api.pause(row["id"])
            break
        except OSError:
            if not tries_left:
                raise
            time.sleep(0.2)
    return lambda: api.unpause(row["id"])


def exhausted(side: Side) -> Met:
    """Let the subject grow to its memory limit: the kernel's OOM killer for a container, RLIMIT_AS for a process."""
    since = time.time()
    side.ask("faults", target=SUBJECT, memory=OOM_RATE, **{"for": 10})
    try:
        side.event(since, "replica_exited", SUBJECT, 30)
    finally:
        side.ask("faults", target="all", clear=True)
    side.event(since, "replica_ready", SUBJECT)
    return Met()


Fault = Callable[[Side], Met]
FAULTS: dict[str, Fault] = {"kill -9": killed, "SIGTERM": terminated, "freeze": frozen, "out of memory": exhausted}


def note_fault(side: Side, round_: int, findings: Findings, name: str, fault: Fault) -> None:
    """Inject the fault into the subject under load; note its times and what clients saw."""
    side.wait_stable(SUBJECT)
    met, book = under_load(side, lambda: fault(side))
    for measure, value in met.times.items():
        findings.measure("life", measure, "ms").note(side.kind, round_, value)
    if met.steps:
        findings.recoveries.append(Recovery(side.kind, round_, True, met.steps))
    note_clients(findings, name, side, round_, book)


def under_load(side: Side, work: Callable[[], T]) -> tuple[T, ResultCounts]:
    """Run `work` while clients send requests through the LB; return its result and the clients' counts."""

    async def both() -> tuple[T, ResultCounts]:
        async with clients(side.lb_port, CLIENTS, PAUSE) as book:
            result = await asyncio.to_thread(work)
        return result, book

    return asyncio.run(both())


def note_clients(findings: Findings, fault: str, side: Side, round_: int, book: ResultCounts) -> None:
    """Note what clients saw while the subject met a fault."""
    times = [time * 1000 for time in book.times]
    p99, slowest = percentile(times, 99), max(times, default=None)
    findings.seen.append(Seen(fault, side.kind, round_, book.requests, dict(book.errors), book.repeated, p99, slowest))
    for name, value in (("p99", p99), ("slowest", slowest)):
        findings.measure("clients", f"{name}, {fault}", "ms").note(side.kind, round_, value)
