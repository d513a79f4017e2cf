"""Runs the whole comparison: starts two sides, asks all questions in rounds, and always cleans up."""

import contextlib
import copy
import functools
import os
import platform
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from comet import __version__
from comet.common.wording import counted
from comet.compare.budget import Budget
from comet.compare.layers import network, probes, running, start
from comet.compare.questions import cost, growth, isolation, life
from comet.compare.questions.cost import NetworkPath
from comet.compare.questions.side import SETTINGS, Side
from comet.compare.results.findings import HOST_NETWORK, KINDS, NETWORK, Findings, Kind
from comet.engine.connection import connect
from comet.host.sockets import find_free
from comet.report.machine import describe

IMAGE = "disk, the image, once for all containers (a size, not a sample)"

Report = Callable[[str], None]


def run(rounds: int, report: Report, only: str | None = None) -> Findings:
    """Compare, and report the progress to `report`; `only` names the one question to ask.

    Raises UserError where there is no engine or one side does not start, and Interrupted, after the cleanup, at a
    signal: with what the whole rounds before it found.
    """
    started = time.monotonic()
    findings = Findings(
        machine=describe(), versions=versions(), settings={"rounds asked for": rounds, "both clusters": SETTINGS}
    )
    findings.settings |= {"clients during a fault": life.CLIENTS, "fixed rate": f"{cost.RATE:g} requests/s"}
    findings.settings |= {
        "length of a load": f"{cost.SECONDS:g} s",
        "cpu burns": f"{isolation.BURNS} a round, {isolation.BURN:g} s each",
    }
    whole: Findings | None = None
    try:
        with (
            interruptible(report),
            tempfile.TemporaryDirectory(prefix="comet-compare-", ignore_cleanup_errors=True) as folder,
        ):
            Path(folder).chmod(0o755)
            with (
                started_sides(Path(folder), report) as sides,
                host_network(sides["container"], ports_of(sides)) as host_path,
            ):
                for _ in measure(sides, host_path, rounds, started, findings, report, only):
                    whole = copy.deepcopy(findings)
                report("cleaning up")
    except Interrupted as interrupted:
        if whole is not None:
            whole.notes.append(f"interrupted after {whole.rounds} of {counted(rounds, 'rounds')}")
            whole.seconds = time.monotonic() - started
            interrupted.findings = whole
        raise
    findings.seconds = time.monotonic() - started
    return findings


def measure(
    sides: dict[Kind, Side],
    host_path: NetworkPath,
    rounds: int,
    started: float,
    findings: Findings,
    report: Report,
    only: str | None,
) -> Iterator[None]:
    """Ask in rounds, as many as the time since `started` (monotonic seconds) permits; yield after each."""
    budget, complete = Budget(rounds), 0
    for number in range(rounds):
        if not budget.core_fits(number, time.monotonic() - started):
            findings.notes.append(f"ended after {number} of {rounds} rounds: each took longer here than expected")
            break
        report_step = functools.partial(_report_step, report, f"round {number + 1} of {rounds}")
        since = time.monotonic()
        measure_core(sides, host_path, number, findings, report_step, only)
        findings.rounds, budget.core = number + 1, max(budget.core, time.monotonic() - since)
        if budget.rest_fits(number, (since := time.monotonic()) - started):
            measure_rest(sides, number, findings, report_step, only)
            complete, budget.rest = complete + 1, max(budget.rest, time.monotonic() - since)
        if number == 0:
            measure_once(sides, rounds, findings, report, only)
        yield
    if complete < findings.rounds:
        findings.notes.append(
            f"growth, isolation and layers were measured in {complete} of {findings.rounds} rounds: they took "
            "longer here than expected"
        )


def _report_step(report: Report, when: str, what: str) -> None:
    report(f"{when}: {what}")


def measure_core(
    sides: dict[Kind, Side],
    host_path: NetworkPath,
    number: int,
    findings: Findings,
    report: Report,
    only: str | None = None,
) -> None:
    """Ask life, cost and memory once; the kind that is asked first alternates from round to round."""
    if only in (None, "life"):
        report("life")
        life.measure_all(lambda turn: ordered(sides, number + turn), number, findings)
    if only in (None, "cost"):
        report("cost")
        cost.measure_all(lambda: network_paths(sides, host_path, number), number, findings, ports_of(sides))
    if only in (None, "memory"):
        growth.note_memory(ordered(sides, number), number, findings)
        if number == 0:
            image(findings, sides["container"])


def measure_rest(
    sides: dict[Kind, Side], number: int, findings: Findings, report: Report, only: str | None = None
) -> None:
    """Ask once about growth, isolation and layers."""
    if only in (None, "growth"):
        report("growth")
        growth.measure_all(ordered(sides, number), number, findings)
    if only in (None, "isolation"):
        report("isolation: what each kind contains")
        isolation.measure_all(
            sides, lambda turn: [side.kind for side in ordered(sides, number + turn)], number, findings
        )
    for name, question in layers(sides, inspected(sides)).items():
        if only in (None, name):
            report(f"layers: {name}")
            question(number, findings)
    if only == "start":
        life.measure_starts(ordered(sides, number), number, findings)


def measure_once(
    sides: dict[Kind, Side], rounds: int, findings: Findings, report: Report, only: str | None = None
) -> None:
    """Ask what is asked only once: the ways through the network, and how many replicas there may be."""
    if only in (None, NETWORK):
        report(f"{NETWORK}, on an engine of its own")
        network.measure_all(inspected(sides), isolation.LABELS, rounds, findings, sides["process"].folder.parent)
    if only in (None, "growth"):
        report("growth: as far as the machine permits")
        growth.measure_density(sides.values(), findings)


def inspected(sides: dict[Kind, Side]) -> dict[str, Any]:
    """Return what the engine says of the worker's container."""
    found: dict[str, Any] = connect().api.inspect_container(sides["container"].replica("worker-0")["id"])
    return found


def layers(sides: dict[Kind, Side], worker: dict[str, Any]) -> dict[str, Callable[[int, Findings], None]]:
    """Return the questions about layers of every round, by name; `worker` is what `inspected` returns."""
    folder = sides["process"].folder.parent
    return {
        "start": lambda number, findings: start.measure_all(worker, isolation.LABELS, number, findings),
        "calls": lambda number, findings: probes.calls(worker, isolation.LABELS, number, findings),
        "disk": lambda number, findings: probes.disk(worker, isolation.LABELS, number, findings, folder),
        "cpu": lambda number, findings: probes.cpu(worker, isolation.LABELS, number, findings),
    }


def ordered(sides: dict[Kind, Side], turn: int) -> list[Side]:
    """Return both sides, the process first in even turns."""
    result = [sides[kind] for kind in KINDS]
    return result if turn % 2 == 0 else result[::-1]


def ports_of(sides: dict[Kind, Side]) -> set[int]:
    """Return the ports that the sides reserve, most of them for replicas that do not exist yet.

    Nothing else may use these ports meanwhile.
    """
    return {port for side in sides.values() for port in side.ports}


def network_paths(sides: dict[Kind, Side], host_path: NetworkPath, turn: int) -> list[NetworkPath]:
    """Return the network paths to a worker; each is the first in its turn."""
    result = [NetworkPath(kind, side.worker_port("worker-0"), side.pid("worker-0")) for kind, side in sides.items()]
    result.append(host_path)
    return result[turn % 3 :] + result[: turn % 3]


@contextlib.contextmanager
def started_sides(folder: Path, report: Report) -> Iterator[dict[Kind, Side]]:
    """Start both sides and stop them at the end."""
    connect()  # Before anything is created, so that an engine error is a single line.
    with contextlib.ExitStack() as undo:
        remove_leftovers()
        undo.callback(remove_leftovers)
        sides: dict[Kind, Side] = {}
        for kind in KINDS:
            report(
                f"starting the {kind} side"
                + ("; the first time this builds the worker image" if kind == "container" else "")
            )
            sides[kind] = Side(kind, folder / kind, ports_of(sides))
            undo.callback(sides[kind].stop)
            sides[kind].start()
        yield sides


def remove_leftovers() -> None:
    """Remove remaining containers of this comparison, and of earlier ones that ended without removing theirs.

    Nothing else knows these containers.
    """
    api = connect().api
    for row in api.containers(all=True, filters={"label": isolation.LABEL}):
        owner = int(row["Labels"][isolation.LABEL])
        if owner != os.getpid() and Path(f"/proc/{owner}").exists():
            continue
        with contextlib.suppress(OSError):  # Already removed.
            api.remove_container(row["Id"], force=True, v=True)


@contextlib.contextmanager
def host_network(side: Side, taken: set[int]) -> Iterator[NetworkPath]:
    """Run a container like the side's worker-0, except that it shares the host's network, without a proxy before it."""
    worker = connect().api.inspect_container(side.replica("worker-0")["id"])
    port = find_free("127.0.0.1", 1, taken)
    argv = [*(worker["Config"]["Entrypoint"] or []), *worker["Config"]["Cmd"]]
    argv[argv.index("--listen") + 1] = f"127.0.0.1:{port}"
    with running.container(worker, argv, isolation.LABELS, NetworkMode="host") as (made, _):
        yield NetworkPath(HOST_NETWORK, port, int(connect().api.inspect_container(made)["State"]["Pid"]))


def image(findings: Findings, side: Side) -> None:
    """Note the size of the image, which is on disk once for all containers; a process has no image."""
    api = connect().api
    row = api.inspect_container(side.replica("worker-0")["id"])
    size = int(api.inspect_image(row["Image"])["Size"])  # type: ignore[no-untyped-call]
    findings.measure("memory", IMAGE, "MiB").note("container", 0, size / 2**20)


def versions() -> dict[str, str]:
    engine = connect().version()
    return {"comet": __version__, "python": platform.python_version(), "docker": str(engine["Version"])}


END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """A signal requested the end.

    `number` is the signal's number, `findings` those of the rounds that were whole, None without one.
    """

    def __init__(self, number: int, findings: Findings | None = None) -> None:
        super().__init__()
        self.number = number
        self.findings = findings


@contextlib.contextmanager
def interruptible(report: Report) -> Iterator[None]:
    """Raise Interrupted at the first signal that requests the end, so that every `finally` runs.

    Later signals are ignored, also by the commands that the cleanup starts, which inherit that.
    """

    def end(number: int, frame: object) -> None:
        for each in END_SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        try:
            report("interrupted: cleaning up")
        finally:
            raise Interrupted(number)

    previous = {number: signal.signal(number, end) for number in END_SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
