"""Tries attacks from within each kind and measures what the neighbors meet; every attempt is bounded.

An attempt (`attempts`) runs as a process of user nobody, as any program would, and in a container made like the
workers': same image, same limits, same mounts, no capabilities. The container's ports are not published, and its user
is nobody, too, except where it fills the folder that the workers may write. Only the fork bomb's container has a lower
limit, and its title says so. During an attempt, a worker of each kind is asked all the time; its p99 before and during
shows the effect on others. Every attack is tried in both kinds in every round. The CPU burner, which is judged by its
neighbors alone (`verdicts`), is tried BURNS times a round, each after a calm period of the same length.
"""

import contextlib
import json
import os
import pwd
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from comet.common.errors import UserError
from comet.common.figures import percentile
from comet.compare.layers.running import container
from comet.compare.questions import attempts, meter
from comet.compare.questions.life import answers
from comet.compare.questions.side import Side
from comet.compare.results.findings import Attempt, Findings, Kind
from comet.engine.connection import connect
from comet.host import confinement, process_identity
from comet.state.directory import Owner

SOURCE = Path(attempts.__file__).read_text()
LIMIT = 40
CALM = 0.6
CHILDREN, EACH = 4, 200
FORKS, PIDS = 200, 100
"""Most forks that an attempt makes, and the limit of processes of the bomb's container.

The workers' own limit is too high to be reached by these forks.
"""

SPACE = 64
DATA = "/data"
"""Where a worker's container has the folder of the database, which is the host's."""

BURN, BURNS = 1.0, 2
"""Seconds of a burn, and its tries in a round."""

LABEL = "comet.compare"
LABELS = {LABEL: str(os.getpid())}
"""The labels of a comparison's own containers, besides the sides' workers."""

MARK = f"comet-decoy-{os.getpid()}"
NeighborResults = dict[str, dict[str, float | None]]
"""By kind of the neighbor: its p99 in ms before and during an attempt, and its failures meanwhile."""


@dataclass
class Trial:
    """One attack: its title, its attempt, its arguments by kind, and the meaning of its outcome."""

    title: str
    name: str
    arguments: Callable[[Kind], list[str]]
    judge: Callable[[dict[str, Any]], tuple[bool | None, str]]
    """Returns whether the attack was contained (None: its neighbors decide), and a description."""

    calm: float | None = None
    """Seconds of calm before it; None: CALM."""

    times: int = 1
    own_user: bool = False
    """Whether the container runs as the workers' own user."""
    pids: int | None = None
    """The container's limit on processes where it is lowered."""
    reaches: str | None = None
    """A folder of the host that is open to every user, whatever is above it."""


def measure_all(sides: dict[Kind, Side], kinds: Callable[[int], list[Kind]], round_: int, findings: Findings) -> None:
    """Run one round: every attempt in both kinds; `kinds` returns them in the order of a turn."""
    with tempfile.TemporaryDirectory(prefix="comet-compare-") as folder:
        Path(folder).chmod(0o777)
        secret = Path(folder, "secret")
        secret.write_text("a file of the host")
        secret.chmod(0o644)
        for turn, trial in enumerate(each for each in trials(folder, secret) for _ in range(each.times)):
            for kind in kinds(turn):
                with findings.excused(f"round {round_ + 1}: {kind}, {trial.title}"):
                    findings.attempts.append(run_attempt(trial, kind, round_, sides))


def trials(folder: str, secret: Path) -> list[Trial]:
    layers: dict[Kind, str] = {"process": folder, "container": "/tmp"}  # nosec B108  # within the container
    shared: dict[Kind, str] = {"process": folder, "container": DATA}
    burners = str(2 * (os.cpu_count() or 1))
    return [
        Trial("memory hog", "hog", lambda kind: [str(CHILDREN), str(EACH)], _hog),
        Trial(
            f"fork bomb (the container's limit lowered to {PIDS})", "bomb", lambda kind: [str(FORKS)], _bomb, pids=PIDS
        ),
        Trial("CPU burner", "burn", lambda kind: [burners, str(BURN)], _burn, calm=BURN, times=BURNS),
        Trial("full disk (its own files)", "fill", lambda kind: [layers[kind], str(SPACE)], _fill, reaches=folder),
        Trial(
            "full disk (the folder of the data)",
            "fill",
            lambda kind: [shared[kind], str(SPACE)],
            _fill,
            own_user=True,
            reaches=folder,
        ),
        Trial("reads a file of the host", "read", lambda kind: [str(secret)], _read, reaches=folder),
        Trial("ends another process of its user", "see", lambda kind: [MARK], _see),
        Trial("listens on a privileged port", "port", lambda kind: ["1017"], _port),
    ]


def _hog(result: dict[str, Any]) -> tuple[bool, str]:
    if "killed_by" in result:
        return True, f"{result['killed_by']} when {CHILDREN} children wanted {CHILDREN * EACH} MiB together"
    contained = result["held_mib"] < result["asked_mib"]
    limit_kind = (
        "its limit counts all of its processes"
        if contained
        else "a limit on address space (RLIMIT_AS) holds for each process alone"
    )
    return contained, f"its {CHILDREN} children got {result['held_mib']} of {result['asked_mib']} MiB: {limit_kind}"


def _bomb(result: dict[str, Any]) -> tuple[bool, str]:
    forks = f"{result['forked']} of {result['asked']} forks"
    if result["forked"] == result["asked"]:
        return False, f"{forks}; it ended only because the comparison bounds it"
    lowered = f"; the workers' own limit is {result['own_limit']}, lowered to {PIDS} here so that {FORKS} forks meet it"
    return True, f"{forks}, then {result['refused']}{lowered if 'own_limit' in result else ''}"


def _burn(result: dict[str, Any]) -> tuple[None, str]:
    return None, f"{result['processes']} processes computed for {result['seconds']:g} s, with no limit on CPU"


def _fill(result: dict[str, Any]) -> tuple[bool, str]:
    refused = f", then {result['refused']}" if result["refused"] else " and could have gone on"
    return result["refused"] is not None, f"wrote {result['written_mib']} of {result['asked_mib']} MiB{refused}"


def _read(result: dict[str, Any]) -> tuple[bool, str]:
    if result["read"] is not None:
        return False, "read it"
    return True, f"there is no such file in its sight ({result['refused']})"


def _see(result: dict[str, Any]) -> tuple[bool, str]:
    done = "found it and ended it" if result["signalled"] else "found it" if result["found"] else "did not find it"
    return not result["found"], f"saw {result['visible']} processes, {done}"


def _port(result: dict[str, Any]) -> tuple[bool, str]:
    if not result["bound"]:
        return True, f"refused ({result['refused']})"
    elsewhere = result["network"] != os.readlink("/proc/self/ns/net")
    return (
        elsewhere,
        "allowed, in a network of its own where it meets nobody" if elsewhere else "allowed, on the host's own network",
    )


# Running one.


def run_attempt(trial: Trial, kind: Kind, round_: int, sides: dict[Kind, Side]) -> Attempt:
    if trial.name == "hog" and meter.available() < 4 * CHILDREN * EACH << 20:
        return Attempt(trial.title, kind, round_, None, "not tried: too little free memory on this machine")
    neighbours, result = run_with_neighbors(trial, kind, sides, CALM if trial.calm is None else trial.calm)
    if isinstance(result, str):
        return Attempt(trial.title, kind, round_, None, result, False, neighbours)
    contained, outcome = trial.judge(result)
    return Attempt(trial.title, kind, round_, contained, outcome, contained is None, neighbours)


def run_with_neighbors(
    trial: Trial, kind: Kind, sides: dict[Kind, Side], calm: float
) -> tuple[NeighborResults, dict[str, Any] | str]:
    """Run one attempt after `calm` seconds of calm; return what the neighbors met and the attempt's outcome."""
    before, _ = watch_neighbors(sides, lambda: time.sleep(calm))
    run = _as_process if kind == "process" else partial(_in_container, sides["container"])
    with decoy() if trial.name == "see" else contextlib.nullcontext():
        during, result = watch_neighbors(sides, lambda: run(trial, trial.arguments(kind)))
    neighbours: NeighborResults = {
        name: {"before_p99_ms": before[name][0], "during_p99_ms": p99, "failures": failures}
        for name, (p99, failures) in during.items()
    }
    return neighbours, result


def _as_process(trial: Trial, arguments: list[str]) -> dict[str, Any] | str:
    owner = _attacker()
    argv = (sys.executable, "-c", SOURCE, trial.name, *arguments)
    needs = list(confinement.interpreter())
    if trial.reaches is not None:
        needs.append((trial.reaches, trial.reaches, False))
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    process = confinement.spawn(argv, owner, needs, **streams, cwd="/", text=True, start_new_session=True)
    birth = process_identity.birth_of(process.pid)
    try:
        output, _ = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return f"ended by the comparison after {LIMIT} s"
    finally:
        process.kill()
        process_identity.end_members(process.pid, birth, 0.0)
        process.wait()
    return _parse_result(output) or {"killed_by": f"ended by signal {-process.returncode}"}


def _in_container(side: Side, trial: Trial, arguments: list[str]) -> dict[str, Any] | str:
    api = connect().api
    worker = api.inspect_container(side.replica("worker-0")["id"])
    argv = ["python3", "-c", SOURCE, trial.name, *arguments]
    user = None if trial.own_user else "65534:65534"
    limits = {} if trial.pids is None else {"PidsLimit": trial.pids}
    with container(worker, argv, LABELS, user, **limits) as (made, _):
        api.wait(made, timeout=LIMIT)
        state = api.inspect_container(made)["State"]
        output = api.logs(made, stdout=True, stderr=False).decode(errors="replace")
    oom = "ended by the kernel's OOM killer" if state["OOMKilled"] else f"ended with exit code {state['ExitCode']}"
    result = _parse_result(output)
    return {"killed_by": oom} if result is None else result | {"own_limit": worker["HostConfig"]["PidsLimit"]}


def _attacker() -> Owner:
    """Return user nobody, or the invoking user where that is not root, since only root can become another user."""
    nobody = pwd.getpwnam("nobody")
    return Owner(nobody.pw_uid, nobody.pw_gid) if os.getuid() == 0 else Owner(os.getuid(), os.getgid())


def _parse_result(output: str) -> dict[str, Any] | None:
    with contextlib.suppress(ValueError, IndexError):
        result: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
        return result
    return None


@contextlib.contextmanager
def decoy() -> Iterator[None]:
    """Run an idle process of the attacker's user, with MARK in its command line."""
    owner = _attacker()
    loop = "import time\nwhile True: time.sleep(60)"
    argv = (sys.executable, "-c", loop, MARK)
    with confinement.spawn(argv, owner, confinement.interpreter(), cwd="/", start_new_session=True) as process:
        try:
            time.sleep(0.2)
            if process.poll() is not None:
                raise UserError("compare: a process of user nobody cannot run the interpreter")
            yield
        finally:
            process.kill()


def watch_neighbors(
    sides: dict[Kind, Side], work: Callable[[], Any]
) -> tuple[dict[str, tuple[float | None, int]], Any]:
    """Run `work` while worker-0 of each kind is asked all the time.

    Return (p99 in ms, failures) by kind, and the result of `work`.
    """
    finished = threading.Event()
    times: dict[str, list[float]] = {kind: [] for kind in sides}
    failures = dict.fromkeys(sides, 0)

    def ask(kind: Kind, port: int) -> None:
        while not finished.is_set():
            started = time.monotonic()
            succeeded = answers(port)
            times[kind].append((time.monotonic() - started) * 1000)
            failures[kind] += not succeeded
            time.sleep(0.005)

    threads = [
        threading.Thread(target=ask, args=(kind, side.worker_port("worker-0")), daemon=True)
        for kind, side in sides.items()
    ]
    for thread in threads:
        thread.start()
    try:
        result = work()
    finally:
        finished.set()
        for thread in threads:
            thread.join()
    return {kind: (percentile(times[kind], 99), failures[kind]) for kind in sides}, result
