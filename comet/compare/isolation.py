"""What each kind keeps from its neighbours: tried, with every attempt bounded.

An attempt (`attempts`) runs as a process of user nobody, as any program would, and in a container made as the workers' are: same image,
same limits, same mounts, no capabilities; its ports are not published, and its user is nobody, too, except where it fills the folder that
the workers may write. The fork bomb's container alone has a lower limit, and says so. While it goes on, a worker of each kind is asked
all the time; its p99 before and during says what happened to the others. Every attack is tried in both kinds in every round; the CPU
burner, which is judged by its neighbours alone (`verdicts`), BURNS times a round, each beside a calm moment as long.
"""

import contextlib
import json
import os
import pwd
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comet.cluster import Owner
from comet.compare import attempts, meter
from comet.compare.bed import Bed
from comet.compare.figures import percentile
from comet.compare.findings import Attempt, Findings, Kind
from comet.compare.life import answers
from comet.drivers.execute import as_owner
from comet.engine import connect
from comet.errors import UserError

SOURCE = Path(attempts.__file__).read_text()
LIMIT = 40
CALM = 0.6
CHILDREN, EACH = 4, 200
FORKS, PIDS = 200, 100
"""At most so many forks are dared; so few processes the bomb's container may have: the workers' own limit is too high to be met by them."""

SPACE = 64
DATA = "/data"
"""Where the folder of the database, which is the host's, lies in a worker's container."""

BURN, BURNS = 1.0, 2
"""Seconds of a burn, and how often it is tried in a round."""

LABEL = "comet.compare"
LABELS = {LABEL: str(os.getpid())}
"""What a comparison's own containers carry, beside the beds' workers."""

MARK = f"comet-decoy-{os.getpid()}"
Neighbours = dict[str, dict[str, float | None]]
"""By kind of the neighbour: its p99 in ms before and during an attempt, and its failures meanwhile."""


@dataclass
class Trial:
    """One attempt: its words, its arguments by kind, and what its outcome means."""

    title: str
    name: str
    arguments: Callable[[Kind], list[str]]
    judge: Callable[[Kind, dict[str, Any]], tuple[bool | None, str]]
    """Whether it was contained (None: its neighbours decide), and in words."""

    calm: float | None = None
    """Seconds of peace before it; None: CALM."""

    times: int = 1
    own_user: bool = False
    """Whether the container's user is the workers' own."""
    pids: int | None = None
    """What the container's limit on processes is lowered to."""


def ask_all(beds: dict[Kind, Bed], kinds: Callable[[int], list[Kind]], round_: int, findings: Findings) -> None:
    """One round: every attempt in both kinds; `kinds` gives them in an order of its own each time."""
    with tempfile.TemporaryDirectory(prefix="comet-compare-") as folder:
        Path(folder).chmod(0o777)
        secret = Path(folder, "secret")
        secret.write_text("a file of the host")
        secret.chmod(0o644)
        for turn, trial in enumerate(each for each in trials(folder, secret) for _ in range(each.times)):
            for kind in kinds(turn):
                with findings.excused(f"round {round_ + 1}: {kind}, {trial.title}"):
                    findings.attempts.append(tried(trial, kind, round_, beds))


def trials(folder: str, secret: Path) -> list[Trial]:
    layers: dict[Kind, str] = {"process": folder, "container": "/tmp"}
    shared: dict[Kind, str] = {"process": folder, "container": DATA}
    burners = str(2 * (os.cpu_count() or 1))
    return [
        Trial("memory hog", "hog", lambda kind: [str(CHILDREN), str(EACH)], _hog),
        Trial(f"fork bomb (the container's limit lowered to {PIDS})", "bomb", lambda kind: [str(FORKS)], _bomb, pids=PIDS),
        Trial("CPU burner", "burn", lambda kind: [burners, str(BURN)], _burn, calm=BURN, times=BURNS),
        Trial("full disk (its own files)", "fill", lambda kind: [layers[kind], str(SPACE)], _fill),
        Trial("full disk (the folder of the data)", "fill", lambda kind: [shared[kind], str(SPACE)], _fill, own_user=True),
        Trial("reads a file of the host", "read", lambda kind: [str(secret)], _read),
        Trial("ends another process of its user", "see", lambda kind: [MARK], _see),
        Trial("listens on a privileged port", "port", lambda kind: ["1017"], _port),
    ]


def _hog(kind: Kind, told: dict[str, Any]) -> tuple[bool, str]:
    if "killed_by" in told:
        return True, f"{told['killed_by']} when {CHILDREN} children wanted {CHILDREN * EACH} MiB together"
    contained = told["held_mib"] < told["asked_mib"]
    family = "its limit counts all of its processes" if contained else "a limit on address space (RLIMIT_AS) holds for each process alone"
    return contained, f"its {CHILDREN} children got {told['held_mib']} of {told['asked_mib']} MiB: {family}"


def _bomb(kind: Kind, told: dict[str, Any]) -> tuple[bool, str]:
    forks = f"{told['forked']} of {told['asked']} forks"
    if told["forked"] == told["asked"]:
        return False, f"{forks}; it ended only because the comparison bounds it"
    lowered = f"; the workers' own limit is {told['own_limit']}, lowered to {PIDS} here so that {FORKS} forks meet it"
    return True, f"{forks}, then {told['refused']}{lowered if 'own_limit' in told else ''}"


def _burn(kind: Kind, told: dict[str, Any]) -> tuple[None, str]:
    return None, f"{told['processes']} processes computed for {told['seconds']:g} s, with no limit on CPU"


def _fill(kind: Kind, told: dict[str, Any]) -> tuple[bool, str]:
    refused = f", then {told['refused']}" if told["refused"] else " and could have gone on"
    return told["refused"] is not None, f"wrote {told['written_mib']} of {told['asked_mib']} MiB{refused}"


def _read(kind: Kind, told: dict[str, Any]) -> tuple[bool, str]:
    return told["read"] is None, "read it" if told["read"] is not None else f"there is no such file in its sight ({told['refused']})"


def _see(kind: Kind, told: dict[str, Any]) -> tuple[bool, str]:
    done = "found it and ended it" if told["signalled"] else "found it" if told["found"] else "did not find it"
    return not told["found"], f"saw {told['visible']} processes, {done}"


def _port(kind: Kind, told: dict[str, Any]) -> tuple[bool, str]:
    if not told["bound"]:
        return True, f"refused ({told['refused']})"
    elsewhere = told["network"] != os.readlink("/proc/self/ns/net")
    return elsewhere, "allowed, in a network of its own where it meets nobody" if elsewhere else "allowed, on the host's own network"


# Running one.


def tried(trial: Trial, kind: Kind, round_: int, beds: dict[Kind, Bed]) -> Attempt:
    if trial.name == "hog" and meter.available() < 4 * CHILDREN * EACH << 20:
        return Attempt(trial.title, kind, round_, None, "not tried: too little free memory on this machine")
    neighbours, told = beside(trial, kind, beds, CALM if trial.calm is None else trial.calm)
    if isinstance(told, str):
        return Attempt(trial.title, kind, round_, None, told, False, neighbours)
    contained, outcome = trial.judge(kind, told)
    return Attempt(trial.title, kind, round_, contained, outcome, contained is None, neighbours)


def beside(trial: Trial, kind: Kind, beds: dict[Kind, Bed], calm: float) -> tuple[Neighbours, dict[str, Any] | str]:
    """One attempt after `calm` seconds of peace: what the neighbours met, and what the attempt told."""
    before: dict[str, tuple[float | None, int]] = watched(beds, lambda: time.sleep(calm))[0]
    run = _as_process if kind == "process" else lambda trial, words: _in_container(trial, words, beds["container"])
    with decoy() if trial.name == "see" else contextlib.nullcontext():
        during, told = watched(beds, lambda: run(trial, trial.arguments(kind)))
    neighbours: Neighbours = {}
    for name in beds:
        neighbours[name] = {"before_p99_ms": before[name][0], "during_p99_ms": during[name][0], "failures": during[name][1]}
    return neighbours, told


def _as_process(trial: Trial, words: list[str]) -> dict[str, Any] | str:
    owner = _attacker()
    argv = as_owner((sys.executable, "-c", SOURCE, trial.name, *words), owner)
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/", text=True,
                               start_new_session=True)  # fmt: skip
    try:
        said, _ = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return f"ended by the comparison after {LIMIT} s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return _outcome(said) or {"killed_by": f"ended by signal {-process.returncode}"}


def _in_container(trial: Trial, words: list[str], bed: Bed) -> dict[str, Any] | str:
    api = connect().api
    worker = api.inspect_container(bed.replica("worker-0")["id"])
    host = worker["HostConfig"] | {"PortBindings": {}}
    if trial.pids is not None:
        host["PidsLimit"] = trial.pids
    made = api.create_container(
        worker["Config"]["Image"],
        entrypoint=["python3"],
        command=["-c", SOURCE, trial.name, *words],
        user=worker["Config"]["User"] if trial.own_user else "65534:65534",
        labels=LABELS,
        host_config=host,
    )["Id"]
    try:
        api.start(made)
        api.wait(made, timeout=LIMIT)
        state = api.inspect_container(made)["State"]
        said = api.logs(made, stdout=True, stderr=False).decode(errors="replace")
    finally:
        api.remove_container(made, force=True, v=True)
    oom = "ended by the kernel's OOM killer" if state["OOMKilled"] else f"ended with exit code {state['ExitCode']}"
    told = _outcome(said)
    return {"killed_by": oom} if told is None else told | {"own_limit": worker["HostConfig"]["PidsLimit"]}


def _attacker() -> Owner:
    """User nobody; the invoking user where that is not root, who alone could become another."""
    nobody = pwd.getpwnam("nobody")
    return Owner(nobody.pw_uid, nobody.pw_gid) if os.getuid() == 0 else Owner(os.getuid(), os.getgid())


def _outcome(said: str) -> dict[str, Any] | None:
    with contextlib.suppress(ValueError, IndexError):
        told: dict[str, Any] = json.loads(said.strip().splitlines()[-1])
        return told
    return None


@contextlib.contextmanager
def decoy() -> Iterator[None]:
    """A process of the attacker's user that does nothing, with MARK in its command line."""
    owner = _attacker()
    loop = "import time\nwhile True: time.sleep(60)"
    with subprocess.Popen(as_owner((sys.executable, "-c", loop, MARK), owner), cwd="/", start_new_session=True) as process:
        try:
            time.sleep(0.2)
            if process.poll() is not None:
                raise UserError("compare: a process of user nobody cannot run the interpreter")
            yield
        finally:
            process.kill()


def watched(beds: dict[Kind, Bed], work: Callable[[], Any]) -> tuple[dict[str, tuple[float | None, int]], Any]:
    """Do it while worker-0 of each kind is asked all the time: (p99 in ms, failures) by kind, and the result."""
    over = threading.Event()
    times: dict[str, list[float]] = {kind: [] for kind in beds}
    failures = dict.fromkeys(beds, 0)

    def ask(kind: Kind, port: int) -> None:
        while not over.is_set():
            began = time.monotonic()
            good = answers(port)
            times[kind].append((time.monotonic() - began) * 1000)
            failures[kind] += not good
            time.sleep(0.005)

    threads = [threading.Thread(target=ask, args=(kind, bed.worker_port("worker-0")), daemon=True) for kind, bed in beds.items()]
    for thread in threads:
        thread.start()
    try:
        result = work()
    finally:
        over.set()
        for thread in threads:
            thread.join()
    return {kind: (percentile(times[kind], 99), failures[kind]) for kind in beds}, result
