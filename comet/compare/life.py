"""Questions about life and death: start, kill, hang, stop, calm and under load, and what strict clients saw meanwhile.

The subject is always worker-1: worker-0 stays, so that clients have somewhere to go. Times come from the supervisor's own events and
timelines, which are the same code for both kinds; the first answer is what a client gets that asks the worker's own port again and again.
Times of a recovery count from the order to kill.
"""

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from comet.compare import meter
from comet.compare.bed import Bed, awaited
from comet.compare.figures import percentile
from comet.compare.findings import Findings, Recovery, Seen
from comet.compare.load import clients
from comet.crowd import Book
from comet.engine import connect
from comet.errors import UserError
from comet.wallclock import parse

T = TypeVar("T")

SUBJECT = "worker-1"
CLIENTS = 16
PROBE_PAUSE, PROBE_LIMIT = 0.01, 1.0
"""Seconds from one probe for the first answer to the next, and until one is given up. They overlap: a published port may accept and keep
silent while its container starts, and a probe caught there must not delay what is measured."""

PAUSE = 0.005
"""Seconds between a client's answer and its next request: a load that leaves room on two cores."""

FREEZE_LIMIT = 20.0
FREEZE_TRIES = 5
"""An engine on a busy machine may fail to freeze a container in time (`unable to freeze`) and manage it the next time."""

OOM_RATE = 2000
"""MiB a second by which a worker grows in the out-of-memory fault: its limit is met within a fraction of a second."""


def ask_all(beds: Callable[[int], list[Bed]], round_: int, findings: Findings) -> None:
    """One round of all questions; `beds` gives both in an order of its own each time. One that fails costs its answer, not the rest."""

    def asked(what: str, bed: Bed, question: Callable[[Bed], object]) -> None:
        with findings.excused(f"round {round_ + 1}: {bed.kind}, {what}"):
            question(bed)

    for bed in beds(0):
        asked("start", bed, lambda bed: note_start(bed, round_, findings, loaded=False))
    for bed in beds(1):
        asked("kill -9", bed, lambda bed: note_kill(bed, round_, findings))
    for turn, (name, fault) in enumerate(FAULTS.items()):
        for bed in beds(turn):
            asked(f"{name} under load", bed, partial(note_fault, round_=round_, findings=findings, name=name, fault=fault))
    for bed in beds(1):
        asked("stop", bed, lambda bed: note_stop(bed, round_, findings, loaded=False))
    for bed in beds(0):
        asked("start under load", bed, lambda bed: under_load(bed, partial(note_start, bed, round_, findings, loaded=True)))
    for bed in beds(1):
        asked("stop under load", bed, lambda bed: note_scale_down(bed, round_, findings))


# Start and stop.


def note_start(bed: Bed, round_: int, findings: Findings, loaded: bool) -> None:
    since, busy = time.time(), meter.machine_busy()
    bed.ask("scale", worker=2)
    spent = meter.cpu_seconds(meter.tree(bed.pid(SUBJECT)))
    busy = meter.machine_busy() - busy
    event = bed.event(since, "replica_ready", SUBJECT)
    under = " under load" if loaded else ""
    findings.measure("life", f"cold start to ready{under}", "ms").note(bed.kind, round_, event["start_ms"])
    if not loaded:
        findings.measure("cost", "CPU of a start, the worker's", "ms").note(bed.kind, round_, spent * 1000)
        findings.measure("cost", "CPU of a start, the machine's", "ms").note(bed.kind, round_, busy * 1000)


def note_stop(bed: Bed, round_: int, findings: Findings, loaded: bool) -> None:
    began = time.monotonic()
    bed.ask("scale", worker=1)
    name = "graceful stop and removal" + (" under load" if loaded else "")
    findings.measure("life", name, "ms").note(bed.kind, round_, (time.monotonic() - began) * 1000)


def note_scale_down(bed: Bed, round_: int, findings: Findings) -> None:
    bed.settle(SUBJECT)
    _, book = under_load(bed, partial(note_stop, bed, round_, findings, loaded=True))
    note_clients(findings, "a scale-down", bed, round_, book)


# Death.


def note_kill(bed: Bed, round_: int, findings: Findings) -> None:
    """Kill it while nobody asks, and ask its own port until it answers."""
    bed.settle(SUBJECT)
    steps, answer = recovered(bed, lambda: bed.ask("kill", name=SUBJECT, signal="KILL"))
    findings.measure("life", "kill -9 to ready", "ms").note(bed.kind, round_, steps.get("ready"))
    findings.measure("life", "kill -9 to first answer", "ms").note(bed.kind, round_, answer)
    findings.recoveries.append(Recovery(bed.kind, round_, False, steps | {"first answer": answer}))
    findings.measure("life", "death to noticed", "ms").note(bed.kind, round_, detection(steps))


def detection(steps: dict[str, float]) -> float | None:
    """ms from the death to the supervisor's noticing it; None where the moment of the death is not known."""
    return steps["noticed"] - steps["died"] if {"noticed", "died"} <= steps.keys() else None


def recovered(bed: Bed, end: Callable[[], object]) -> tuple[dict[str, float], float]:
    """End it, and wait for its return: the supervisor's timeline and the first answer on its own port, all in ms since the order."""
    since = time.time()
    end()
    awaited(lambda: bed.events(since, "replica_exited", SUBJECT), 30, f"{SUBJECT} of the {bed.kind} side ends")
    answered = asyncio.run(first_answer(bed.worker_port(SUBJECT), 60))
    if answered is None:
        raise UserError(f"compare: not within 60 s: {SUBJECT} of the {bed.kind} side answers again")
    event = bed.event(since, "replica_ready", SUBJECT)
    return since_order(event, since), (answered - since) * 1000


def since_order(ready: dict[str, Any], order: float) -> dict[str, float]:
    """The steps of a recovery in ms since the order (seconds since the epoch): its timeline counts from the first step and ends with the
    event that tells it."""
    steps: dict[str, float] = ready.get("timeline_ms", {})
    moment = parse(ready["at"])
    if "ready" not in steps or moment is None:
        return {}
    offset = (moment - order) * 1000 - steps["ready"]
    return {name: at + offset for name, at in steps.items()}


async def first_answer(port: int, seconds: float) -> float | None:
    """When a worker first answers its health check, in seconds since the epoch; None: not within `seconds`."""
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
    """Whether a worker answers its health check on a new connection, however long that takes."""
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
    """Whether a worker answers its health check on a new connection."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as peer:
            peer.sendall(HEALTH_CHECK)
            return peer.recv(64).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


# Faults under load: each takes the subject's bed and returns when it is over.


@dataclass(frozen=True)
class Met:
    """What a fault came to: times in ms by the measure's name, and the steps of the recovery where they are told."""

    times: dict[str, float | None] = field(default_factory=dict)
    steps: dict[str, float] = field(default_factory=dict)


def killed(bed: Bed) -> Met:
    steps, answer = recovered(bed, lambda: bed.ask("kill", name=SUBJECT, signal="KILL"))
    times = {"kill -9 to ready under load": steps.get("ready"), "kill -9 to first answer under load": answer}
    times["death to noticed under load"] = detection(steps)
    return Met(times, steps | {"first answer": answer})


def terminated(bed: Bed) -> Met:
    recovered(bed, lambda: bed.ask("kill", name=SUBJECT, signal="TERM"))
    return Met()


def frozen(bed: Bed) -> Met:
    """SIGSTOP for a process, the engine's pause (cgroup freezer) for a container: it exists and does nothing."""
    thaw = freeze(bed)
    try:
        since = time.time()
        bed.event(since, "replica_unhealthy", SUBJECT, FREEZE_LIMIT)
        noticed = (time.time() - since) * 1000
    finally:
        thaw()
    bed.event(since, "replica_healthy", SUBJECT)
    return Met({"hang to noticed": noticed})


def freeze(bed: Bed) -> Callable[[], object]:
    """Freeze the subject; what thaws it."""
    row = bed.replica(SUBJECT)
    if bed.kind == "process":
        pid = int(row["pid"])
        os.kill(pid, signal.SIGSTOP)
        return lambda: os.kill(pid, signal.SIGCONT)
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


def exhausted(bed: Bed) -> Met:
    """Let it grow until its memory limit ends it: the kernel's OOM killer for a container, RLIMIT_AS for a process."""
    since = time.time()
    bed.ask("faults", target=SUBJECT, memory=OOM_RATE, **{"for": 10})
    try:
        bed.event(since, "replica_exited", SUBJECT, 30)
    finally:
        bed.ask("faults", target="all", clear=True)
    bed.event(since, "replica_ready", SUBJECT)
    return Met()


Fault = Callable[[Bed], Met]
FAULTS: dict[str, Fault] = {"kill -9": killed, "SIGTERM": terminated, "freeze": frozen, "out of memory": exhausted}


def note_fault(bed: Bed, round_: int, findings: Findings, name: str, fault: Fault) -> None:
    """Let the subject meet the fault under load; the times it gave, and what clients saw."""
    bed.settle(SUBJECT)
    met, book = under_load(bed, lambda: fault(bed))
    for measure, value in met.times.items():
        findings.measure("life", measure, "ms").note(bed.kind, round_, value)
    if met.steps:
        findings.recoveries.append(Recovery(bed.kind, round_, True, met.steps))
    note_clients(findings, name, bed, round_, book)


def under_load(bed: Bed, work: Callable[[], T]) -> tuple[T, Book]:
    """Do it while clients ask through the LB; its result and the clients' book."""

    async def both() -> tuple[T, Book]:
        async with clients(bed.lb_port, CLIENTS, PAUSE) as book:
            result = await asyncio.to_thread(work)
        return result, book

    return asyncio.run(both())


def note_clients(findings: Findings, fault: str, bed: Bed, round_: int, book: Book) -> None:
    """What they saw while the subject met a fault."""
    times = [time * 1000 for time in book.times]
    p99, slowest = percentile(times, 99), max(times, default=None)
    findings.seen.append(Seen(fault, bed.kind, round_, book.requests, dict(book.errors), book.repeated, p99, slowest))
    for name, value in (("p99", p99), ("slowest", slowest)):
        findings.measure("clients", f"{name}, {fault}", "ms").note(bed.kind, round_, value)
