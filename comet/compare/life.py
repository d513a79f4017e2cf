"""Questions about life and death: start, kill, hang, stop, calm and under load, and what strict clients saw meanwhile.

The subject is always worker-1: worker-0 stays, so that clients have somewhere to go. Times come from the supervisor's own events and
timelines, which are the same code for both kinds; the first answer is what a client gets that asks the worker's own port again and again.
"""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from comet.compare import meter
from comet.compare.bed import Bed, awaited
from comet.compare.figures import percentile
from comet.compare.findings import Findings, Recovery, Seen
from comet.compare.load import clients
from comet.crowd import Book
from comet.engine import connect

T = TypeVar("T")

SUBJECT = "worker-1"
CLIENTS = 16
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
    findings.seen.append(saw("a scale-down", bed, round_, book))


# Death.


def note_kill(bed: Bed, round_: int, findings: Findings) -> None:
    """Kill it while nobody asks, and ask its own port until it answers."""
    bed.settle(SUBJECT)
    steps, answer = recovered(bed, lambda: bed.ask("kill", name=SUBJECT, signal="KILL"))
    findings.measure("life", "kill -9 to ready", "ms").note(bed.kind, round_, steps.get("ready"))
    findings.measure("life", "kill -9 to first answer", "ms").note(bed.kind, round_, answer)
    findings.recoveries.append(Recovery(bed.kind, round_, False, steps | {"first answer": answer}))
    noticed = steps.get("noticed") if "died" in steps else None
    findings.measure("life", "death to noticed", "ms").note(bed.kind, round_, noticed)


def recovered(bed: Bed, end: Callable[[], object]) -> tuple[dict[str, float], float]:
    """End it, and wait for its return: the supervisor's timeline, and ms from the order to the first answer on its own port."""
    since, began = time.time(), time.monotonic()
    end()
    awaited(lambda: bed.events(since, "replica_exited", SUBJECT), 30, f"{SUBJECT} of the {bed.kind} side ends")
    port = bed.worker_port(SUBJECT)
    awaited(lambda: answers(port), 60, f"{SUBJECT} of the {bed.kind} side answers again", pause=0.001)
    answer = (time.monotonic() - began) * 1000
    event = bed.event(since, "replica_ready", SUBJECT)
    return dict(event.get("timeline_ms", {})), answer


def answers(port: int) -> bool:
    """Whether a worker answers its health check on a new connection."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as peer:
            peer.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
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
    findings.seen.append(saw(name, bed, round_, book))


def under_load(bed: Bed, work: Callable[[], T]) -> tuple[T, Book]:
    """Do it while clients ask through the LB; its result and the clients' book."""

    async def both() -> tuple[T, Book]:
        async with clients(bed.lb_port, CLIENTS, PAUSE) as book:
            result = await asyncio.to_thread(work)
        return result, book

    return asyncio.run(both())


def saw(fault: str, bed: Bed, round_: int, book: Book) -> Seen:
    times = [time * 1000 for time in book.times]
    p99 = percentile(times, 99)
    return Seen(fault, bed.kind, round_, book.requests, dict(book.errors), book.repeated, p99, max(times, default=None))
