"""Other programs that keep a process or a container alive: supervisord, circus, `docker run --restart always`, systemd;
each with its defaults.
"""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from scripts.bench import programs
from scripts.bench.kills import Target
from scripts.bench.proc import accepts, free_ports, running, serving, wait_for
from scripts.bench.report import ROOT

UP = 60.0  # seconds in which a keeper on a busy machine has its LB up; one is usual


def environment(own: Mapping[str, str]) -> dict[str, str]:
    """Return the bench's environment for the keepers, without PYTHONPATH, where our supervisor.py would hide
    supervisord's package.
    """
    return {name: value for name, value in own.items() if name != "PYTHONPATH"}


def _lb(port: int, worker: int) -> str:
    return f"{sys.executable} -m lb --listen 127.0.0.1:{port} --upstream 127.0.0.1:{worker}"


def _child(keeper: int, port: int) -> int | None:
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process(keeper).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if f"127.0.0.1:{port}" in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                    return process.pid
    return None


@contextlib.contextmanager
def supervisord(folder: Path, worker: int) -> Iterator[Target]:
    """Run a load balancer under supervisord: autorestart=true, everything else default."""
    port = free_ports(1)[0]
    config = folder / "supervisord.conf"
    config.write_text(
        f"[supervisord]\nnodaemon=true\nlogfile={folder}/supervisord.log\npidfile={folder}/supervisord.pid\nchildlogdir={folder}\n"
        f"[program:lb]\ncommand={_lb(port, worker)}\ndirectory={ROOT}\nautorestart=true\n"
    )
    command = [str(programs.VENV / "bin" / "supervisord"), "-n", "-c", str(config)]
    log = folder / "supervisord.out"
    with running(command, log, environment(os.environ)) as keeper:
        serving(keeper, port, log, "the LB under supervisord", UP)
        yield Target("supervisord", "LB", port, "/healthz", lambda: _child(keeper.pid, port))


@contextlib.contextmanager
def circus(folder: Path, worker: int) -> Iterator[Target]:
    """Run a load balancer under circus with its defaults."""
    port, endpoint, publish = free_ports(3)
    config = folder / "circus.ini"
    config.write_text(
        f"[circus]\nendpoint = tcp://127.0.0.1:{endpoint}\npubsub_endpoint = tcp://127.0.0.1:{publish}\n"
        f"[watcher:lb]\ncmd = {_lb(port, worker)}\nworking_dir = {ROOT}\ncopy_env = True\nnumprocesses = 1\n"
    )
    log = folder / "circus.out"
    with running(
        [str(programs.VENV / "bin" / "circusd"), str(config)], log, environment(os.environ), grace=8
    ) as keeper:
        serving(keeper, port, log, "the LB under circus", UP)
        yield Target("circus", "LB", port, "/healthz", lambda: _child(keeper.pid, port))


def has_systemd() -> bool:
    return Path("/run/systemd/system").is_dir() and os.geteuid() == 0 and shutil.which("systemd-run") is not None


@contextlib.contextmanager
def systemd(_folder: Path, worker: int) -> Iterator[Target]:
    """Run a load balancer as a transient unit with Restart=always; only the limit of starts is removed."""
    port = free_ports(1)[0]
    unit = f"comet-bench-{os.getpid()}"
    properties = ("-p", "Restart=always", "-p", "StartLimitIntervalSec=0", "-p", f"WorkingDirectory={ROOT}")
    subprocess.run(
        ["systemd-run", "--unit", unit, *properties, *_lb(port, worker).split()], check=True, capture_output=True
    )

    def pid() -> int | None:
        shown = subprocess.run(
            ["systemctl", "show", "-p", "MainPID", "--value", unit], capture_output=True, text=True, check=False
        )
        return int(shown.stdout.strip() or 0) or None

    try:
        wait_for(lambda: accepts(port), 20, "the LB under systemd accepts")
        yield Target("systemd", "LB", port, "/healthz", pid)
    finally:
        subprocess.run(["systemctl", "stop", unit], capture_output=True, check=False)


@contextlib.contextmanager
def docker_restart(folder: Path, like: dict[str, Any]) -> Iterator[Target]:
    """Run the worker's container under Docker's own restart policy, with the options of `like`, the inspection of one
    of Comet's containers.
    """
    port = free_ports(1)[0]
    data = folder / "data"
    data.mkdir()
    data.chmod(0o777)
    given = like["HostConfig"]
    command = ["docker", "run", "-d", "--restart", "always", "--init", "-p", f"127.0.0.1:{port}:8080", "--read-only",
               "--cap-drop", "ALL",
               "--tmpfs", "/tmp:size=16m,mode=1777", "--memory", str(given["Memory"]), "--pids-limit",
               str(given["PidsLimit"]),
               "--security-opt", "no-new-privileges:true", "-u", like["Config"]["User"], "-v", f"{data}:/data",
               "-e", "COMET_DATABASE=sqlite:////data/stats.db", like["Config"]["Image"]]  # fmt: skip
    started = subprocess.run(
        [*command, *without_faults(like["Config"]["Cmd"])], capture_output=True, text=True, check=True
    )
    container = started.stdout.strip()

    def pid() -> int | None:
        shown = subprocess.run(
            ["docker", "inspect", "-f", "{{.State.Pid}}", container], capture_output=True, text=True, check=False
        )
        return int(shown.stdout.strip() or 0) or None

    try:
        wait_for(lambda: accepts(port), 30, "the worker under docker run --restart always accepts")
        yield Target("docker --restart always", "worker container", port, "/healthz", pid)
    finally:
        subprocess.run(["docker", "rm", "-f", "-v", container], capture_output=True, check=False)


def without_faults(arguments: list[str]) -> list[str]:
    """Return the worker's arguments without the file of injected faults, whose folder only Comet mounts."""
    if "--faults" not in arguments:
        return arguments
    place = arguments.index("--faults")
    return arguments[:place] + arguments[place + 2 :]
