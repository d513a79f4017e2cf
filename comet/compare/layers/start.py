"""Measures a start layer by layer: an empty program with ever more around it, then the worker's own program.

As a process: fork and exec, then one namespace more each time (unshare(1)), the interpreter, the worker's imports. As a
container: the runtime alone (runc, and where they are installed others and sandboxes), then the engine with the
host's network, with none, with a bridge, then interpreter and imports. Each figure is the whole time from the order to
the end of the program, so what a layer adds is the difference to the one before.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from comet.common.errors import UserError
from comet.compare.layers import own_engine
from comet.compare.layers.running import Worker, timed, timed_in_container
from comet.compare.results.findings import Findings
from comet.compare.results.waterfall import (
    BRIDGE,
    EMPTY,
    ENGINE,
    IMPORTS,
    INTERPRETER,
    NAMESPACES,
    NO_NETWORK,
    RUNC,
    SECTION,
)

PROGRAM = ("cat", "/dev/null")
"""A program that does nothing, in every image."""

UNSHARED = (
    ("an empty program with a mount namespace", ["--mount"]),
    ("… and a PID namespace", ["--pid", "--fork"]),
    ("… and UTS and IPC namespaces", ["--uts", "--ipc"]),
    ("… and a cgroup namespace", ["--cgroup"]),
    (NAMESPACES, ["--net"]),
)
"""Each step unshares what the ones before it do, and more."""

OTHER_RUNTIMES = ("crun", "runsc")

SANDBOXES = {"bubblewrap": "bwrap", "podman": "podman", "systemd-nspawn": "systemd-nspawn"}
"""What else runs a program on a root file system, where its program is installed."""

ALONE = 'mount -t tmpfs shm /dev/shm && mount -t tmpfs run /run && exec "$@"'
"""Podman keeps locks in shared memory and state in /run, and a process of it may outlast it: these are all its own."""


def measure_all(worker: Worker, labels: Mapping[str, str], round_: int, findings: Findings) -> None:
    """Start everything once."""

    def note(name: str, way: str, start: Callable[[], float]) -> None:
        with findings.excused(f"round {round_ + 1}: {SECTION}, {name}, {way}"):
            findings.measure(SECTION, name, "ms").note(way, round_, start())

    note(EMPTY, "process", partial(timed, PROGRAM))
    flags: list[str] = []
    for name, more in UNSHARED:
        flags += more
        note(name, "process", partial(timed, ["unshare", *flags, *PROGRAM]))
    for runtime in ("runc", *OTHER_RUNTIMES):
        if (path := shutil.which(runtime)) is not None:
            name = RUNC if runtime == "runc" else f"an empty program by {runtime} alone"
            note(name, "container", partial(by_runtime, path, worker))
    for name, program in SANDBOXES.items():
        if shutil.which(program) is not None:
            note(f"an empty program by {name} alone", "container", partial(by_sandbox, name, worker))
    for name, network in ((ENGINE, "host"), (NO_NETWORK, "none"), (BRIDGE, "bridge")):
        note(name, "container", partial(timed_in_container, worker, PROGRAM, labels, NetworkMode=network))
    for name, arguments in ((INTERPRETER, ["-c", "pass"]), (IMPORTS, ["-m", "worker_app", "--help"])):
        note(name, "process", partial(timed, [sys.executable, *arguments]))
        run = partial(timed_in_container, worker, ["python3", *arguments], labels, NetworkMode="bridge")
        note(name, "container", run)


def root_of(worker: Worker) -> str:
    """Return where the worker's root file system is mounted."""
    root = (worker.get("GraphDriver", {}).get("Data") or {}).get("MergedDir")
    if os.geteuid() != 0 or not root or not Path(root).is_dir():
        raise UserError("only root can enter the worker's root file system")
    return str(root)


def by_sandbox(name: str, worker: Worker) -> float:
    """Run the program by one of SANDBOXES, with nothing that outlasts it; the second run, as the first prepares it."""
    with tempfile.TemporaryDirectory(prefix="comet-compare-", ignore_cleanup_errors=True) as folder:
        argv = [*sandboxed(name, root_of(worker), folder), *PROGRAM]
        try:
            return [timed(argv), timed(argv)][-1]
        finally:
            own_engine.remove_groups()


def sandboxed(name: str, root: str, folder: str) -> list[str]:
    """Return what runs a program on a root file system, which stays as it is; it keeps its files in `folder`."""
    if name == "bubblewrap":
        return ["bwrap", "--ro-bind", root, "/", "--dev", "/dev", "--proc", "/proc", "--unshare-all"]
    if name == "systemd-nspawn":
        return [name, "--quiet", "--register=no", "--keep-unit", "--pipe", "--read-only", f"--directory={root}"]
    spaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", ALONE, "sh"]
    options = [f"--root={folder}", "--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--events-backend=none"]
    group = f"--cgroup-parent=/{own_engine.NAME}{os.getpid()}"
    run = ["--rm", "--network=none", group, "--log-driver=none", "--ulimit=host", "--rootfs", f"{root}:O"]
    return [*spaces, name, *options, "run", *run]


def by_runtime(runtime: str, worker: Worker) -> float:
    """Run the program by an OCI runtime, without an engine, on the worker's root file system."""
    root = root_of(worker)
    with tempfile.TemporaryDirectory(prefix="comet-compare-") as bundle:
        subprocess.run([runtime, "spec"], cwd=bundle, check=True, stdout=subprocess.DEVNULL)
        path = Path(bundle, "config.json")
        spec = json.loads(path.read_text())
        spec["process"] |= {"args": list(PROGRAM), "terminal": False}
        spec["root"] = {"path": root, "readonly": True}
        spec["mounts"] = [{"destination": "/proc", "type": "proc", "source": "proc"}]
        path.write_text(json.dumps(spec))
        name = f"comet-compare-{os.getpid()}-{time.monotonic_ns()}"
        return timed([runtime, "run", "--bundle", bundle, name])
