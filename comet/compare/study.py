"""The whole comparison, in order: two beds, rounds of questions, growth, isolation; and nothing left at the end, however it ends."""

import contextlib
import os
import platform
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from comet import __version__
from comet.compare import cost, growth, isolation, life
from comet.compare.bed import SETTINGS, Bed
from comet.compare.cost import Way
from comet.compare.findings import HOST_NETWORK, KINDS, Findings, Kind
from comet.engine import connect
from comet.listeners import find_free

BUDGET = 810.0
"""Seconds after which no further round is begun: with what follows a comparison ends within a quarter of an hour."""

Tell = Callable[[str], None]


def run(rounds: int, tell: Tell) -> Findings:
    """Compare; `tell` hears of the progress. UserError: no engine, or one side does not come up. Ctrl-C and SIGTERM clean up, too."""
    began = time.monotonic()
    findings = Findings(machine=machine(), versions=versions(), settings={"rounds": rounds, "beds": SETTINGS})
    findings.settings |= {"clients under load": life.CLIENTS, "fixed rate": cost.RATE, "block": f"{cost.SECONDS:g} s"}
    with interruptible(), tempfile.TemporaryDirectory(prefix="comet-compare-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        with brought_up(Path(folder), tell) as beds, host_network(beds["container"]) as third:
            for number in range(rounds):
                if time.monotonic() - began > BUDGET:
                    findings.notes.append(f"ended after {number} of {rounds} rounds: each took longer here than foreseen")
                    break
                tell(f"round {number + 1} of {rounds}: life")
                life.ask_all(lambda turn, number=number: ordered(beds, number + turn), number, findings)  # type: ignore[misc]
                tell(f"round {number + 1} of {rounds}: cost")
                cost.ask_all(lambda number=number: ways(beds, third, number), number, findings)  # type: ignore[misc]
                growth.note_memory(ordered(beds, number), number, findings)
                findings.rounds = number + 1
            disk(findings, beds)
            for replicas in growth.STEPS:
                tell(f"growth: {replicas} replicas")
                for bed in ordered(beds, replicas):
                    growth.ask(bed, replicas, findings)
                for bed in beds.values():
                    bed.ask("scale", worker=1)
            tell("isolation: what each keeps from its neighbours")
            isolation.ask_all(beds, findings)
            tell("cleaning up")
    findings.seconds = time.monotonic() - began
    return findings


def ordered(beds: dict[Kind, Bed], turn: int) -> list[Bed]:
    """Both, the process first in even turns."""
    listed = [beds[kind] for kind in KINDS]
    return listed if turn % 2 == 0 else listed[::-1]


def ways(beds: dict[Kind, Bed], third: Way, turn: int) -> list[Way]:
    """The ways to a worker, first one in turn."""
    listed = [Way(kind, bed.worker_port("worker-0"), bed.pid("worker-0")) for kind, bed in beds.items()]
    listed.append(third)
    return listed[turn % 3 :] + listed[: turn % 3]


@contextlib.contextmanager
def brought_up(folder: Path, tell: Tell) -> Iterator[dict[Kind, Bed]]:
    """Both beds, running; taken down at the end."""
    connect()  # Before anything is made: the one line that says what is wrong with the engine.
    with contextlib.ExitStack() as undo:
        beds: dict[Kind, Bed] = {}
        for kind in KINDS:
            tell(f"starting the {kind} side" + ("; the first time this builds the worker image" if kind == "container" else ""))
            beds[kind] = Bed(kind, folder / kind)
            undo.callback(beds[kind].stop)
            beds[kind].start()
        yield beds


@contextlib.contextmanager
def host_network(bed: Bed) -> Iterator[Way]:
    """A container like the bed's worker-0 in all but one thing: it shares the host's network, so that no proxy stands before it."""
    api = connect().api
    worker = api.inspect_container(bed.replica("worker-0")["id"])
    port = find_free("127.0.0.1", 1)
    words = list(worker["Config"]["Cmd"])
    words[words.index("--listen") + 1] = f"127.0.0.1:{port}"
    made = api.create_container(
        worker["Config"]["Image"],
        command=words,
        environment=worker["Config"]["Env"],
        user=worker["Config"]["User"],
        labels=isolation.LABELS,
        host_config=worker["HostConfig"] | {"NetworkMode": "host", "PortBindings": {}},
    )["Id"]
    try:
        api.start(made)
        yield Way(HOST_NETWORK, port, int(api.inspect_container(made)["State"]["Pid"]))
    finally:
        api.remove_container(made, force=True, v=True)


def disk(findings: Findings, beds: dict[Kind, Bed]) -> None:
    """What lies on disk for the first replica, and what each further one adds."""
    api = connect().api
    row = api.inspect_container(beds["container"].replica("worker-0")["id"])
    listed = api.containers(all=True, size=True, filters={"id": row["Id"]})
    image = int(api.inspect_image(row["Image"])["Size"])  # type: ignore[no-untyped-call]
    findings.measure("memory", "disk, shared by all replicas", "MiB").note("container", 0, image / 2**20)
    findings.measure("memory", "disk, of each replica", "MiB").note("container", 0, int(listed[0].get("SizeRw") or 0) / 2**20)
    findings.measure("memory", "disk, of each replica", "MiB").note("process", 0, 0.0)


def machine() -> dict[str, Any]:
    model = next((line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_mib": memory >> 20,
        "kernel": platform.release(),
        "load_before": os.getloadavg()[0],
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def versions() -> dict[str, str]:
    engine = connect().version()
    return {"comet": __version__, "python": platform.python_version(), "docker": str(engine["Version"])}


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM ends us as Ctrl-C does: through every `finally`."""

    def end(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    former = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)
