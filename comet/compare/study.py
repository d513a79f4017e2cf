"""The whole comparison, in order: two beds, rounds of all questions; and nothing left at the end, however it ends."""

import contextlib
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
from comet.compare import cost, growth, isolation, life
from comet.compare.bed import SETTINGS, Bed
from comet.compare.budget import Budget
from comet.compare.cost import Way
from comet.compare.findings import HOST_NETWORK, KINDS, Findings, Kind
from comet.engine import connect
from comet.listeners import find_free

IMAGE = "disk, the image, once for all containers (a size, not a sample)"

Tell = Callable[[str], None]


def run(rounds: int, tell: Tell) -> Findings:
    """Compare; `tell` hears of the progress. UserError: no engine, or one side does not come up. A signal cleans up, too (Interrupted)."""
    began = time.monotonic()
    findings = Findings(machine=machine(), versions=versions(), settings={"rounds asked for": rounds, "both clusters": SETTINGS})
    findings.settings |= {"clients during a fault": life.CLIENTS, "fixed rate": f"{cost.RATE:g} requests/s"}
    findings.settings |= {"length of a load": f"{cost.SECONDS:g} s", "cpu burns": f"{isolation.BURNS} a round, {isolation.BURN:g} s each"}
    with interruptible(tell), tempfile.TemporaryDirectory(prefix="comet-compare-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        with brought_up(Path(folder), tell) as beds, host_network(beds["container"], ports_of(beds)) as third:
            budget, whole = Budget(rounds), 0
            for number in range(rounds):
                if not budget.core_fits(number, time.monotonic() - began):
                    findings.notes.append(f"ended after {number} of {rounds} rounds: each took longer here than foreseen")
                    break
                heard = functools.partial(_tell, tell, f"round {number + 1} of {rounds}")
                since = time.monotonic()
                ask_core(beds, third, number, findings, heard)
                findings.rounds, budget.core = number + 1, max(budget.core, time.monotonic() - since)
                if budget.rest_fits(number, (since := time.monotonic()) - began):
                    ask_rest(beds, number, findings, heard)
                    whole, budget.rest = whole + 1, max(budget.rest, time.monotonic() - since)
            if whole < findings.rounds:
                findings.notes.append(
                    f"growth and isolation were asked in {whole} of {findings.rounds} rounds: they took longer here than foreseen"
                )
            tell("cleaning up")
    findings.seconds = time.monotonic() - began
    return findings


def _tell(tell: Tell, when: str, what: str) -> None:
    tell(f"{when}: {what}")


def ask_core(beds: dict[Kind, Bed], third: Way, number: int, findings: Findings, tell: Tell) -> None:
    """Life and cost, once; who is asked first alternates from round to round."""
    tell("life")
    life.ask_all(lambda turn: ordered(beds, number + turn), number, findings)
    tell("cost")
    cost.ask_all(lambda: ways(beds, third, number), number, findings, ports_of(beds))
    growth.note_memory(ordered(beds, number), number, findings)
    if number == 0:
        image(findings, beds["container"])


def ask_rest(beds: dict[Kind, Bed], number: int, findings: Findings, tell: Tell) -> None:
    """Growth and isolation, once."""
    tell("growth")
    growth.ask_all(ordered(beds, number), number, findings)
    tell("isolation: what each keeps from its neighbours")
    isolation.ask_all(beds, lambda turn: [bed.kind for bed in ordered(beds, number + turn)], number, findings)


def ordered(beds: dict[Kind, Bed], turn: int) -> list[Bed]:
    """Both, the process first in even turns."""
    listed = [beds[kind] for kind in KINDS]
    return listed if turn % 2 == 0 else listed[::-1]


def ports_of(beds: dict[Kind, Bed]) -> set[int]:
    """What the beds keep for themselves, most of it for replicas that they do not have yet: nobody else may take it meanwhile."""
    return {port for bed in beds.values() for port in bed.ports}


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
        sweep()
        undo.callback(sweep)
        beds: dict[Kind, Bed] = {}
        for kind in KINDS:
            tell(f"starting the {kind} side" + ("; the first time this builds the worker image" if kind == "container" else ""))
            beds[kind] = Bed(kind, folder / kind, ports_of(beds))
            undo.callback(beds[kind].stop)
            beds[kind].start()
        yield beds


def sweep() -> None:
    """Remove what is left of the containers of this comparison, and of others that ended before they could: nobody else knows them."""
    api = connect().api
    for row in api.containers(all=True, filters={"label": isolation.LABEL}):
        owner = int(row["Labels"][isolation.LABEL])
        if owner != os.getpid() and Path(f"/proc/{owner}").exists():
            continue
        with contextlib.suppress(OSError):  # Gone already.
            api.remove_container(row["Id"], force=True, v=True)


@contextlib.contextmanager
def host_network(bed: Bed, taken: set[int]) -> Iterator[Way]:
    """A container like the bed's worker-0 in all but one thing: it shares the host's network, so that no proxy stands before it."""
    api = connect().api
    worker = api.inspect_container(bed.replica("worker-0")["id"])
    port = find_free("127.0.0.1", 1, taken)
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


def image(findings: Findings, bed: Bed) -> None:
    """What lies on disk once for all containers; a process has no image."""
    api = connect().api
    row = api.inspect_container(bed.replica("worker-0")["id"])
    size = int(api.inspect_image(row["Image"])["Size"])  # type: ignore[no-untyped-call]
    findings.measure("memory", IMAGE, "MiB").note("container", 0, size / 2**20)


def machine() -> dict[str, Any]:
    model = next((line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_mib": memory >> 20,
        "kernel": platform.release(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def versions() -> dict[str, str]:
    engine = connect().version()
    return {"comet": __version__, "python": platform.python_version(), "docker": str(engine["Version"])}


ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """A signal asked for the end; `number` says which."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextlib.contextmanager
def interruptible(tell: Tell) -> Iterator[None]:
    """The first signal that asks for the end leads through every `finally`; later ones do not disturb them at it, nor the commands that
    they start, which inherit that signals are ignored."""

    def end(number: int, frame: object) -> None:
        for each in ENDS:
            signal.signal(each, signal.SIG_IGN)
        try:
            tell("interrupted: cleaning up")
        finally:
            raise Interrupted(number)

    former = {number: signal.signal(number, end) for number in ENDS}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
