"""An engine of the comparison's own: what it does to networks and to the firewall is nobody else's.

It has namespaces of its own: network, mounts, process ids. With its first process end all others, and with them go
interfaces, firewall rules, mounts, and its image, which lies in memory. Only its control groups are the machine's. They
are removed at the end, and after a comparison that was killed, by the next one.
"""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comet.common.errors import UserError
from comet.engine.connection import connect_to
from comet.engine.engine_error import EngineError

NEEDS = ("dockerd", "ip", "iptables", "mount", "nsenter", "setpriv", "unshare")
NAME = "comet-compare-engine-"
GROUPS = Path("/sys/fs/cgroup")
READY, GONE = 30.0, 5.0
"""Seconds until it must answer, and until its processes must be gone."""

INIT = """set -e
ip link set lo up
mount -t tmpfs -o mode=755 run /run
mkdir /run/lock "$1/data"
mount -t tmpfs -o mode=711 data "$1/data"
if [ -d /etc/docker ]; then mount -t tmpfs own /etc/docker; fi
echo nameserver 127.0.0.1 > /run/resolv
mount --bind /run/resolv /etc/resolv.conf || true
echo '{}' > /run/daemon.json
dockerd --config-file /run/daemon.json --data-root "$1/data" --exec-root /run/docker --pidfile /run/docker.pid \
    --host "unix://$1/sock" --cgroup-parent "/$2" --exec-opt native.cgroupdriver=cgroupfs --log-level warn
exit $?
"""
"""The first process; it stays, to reap what the engine leaves behind. No file of the user's engine is read or written.

A container's names are resolved nowhere: a name server of the host would be out of reach, which takes time.
"""


@dataclass(frozen=True)
class OwnEngine:
    """`inside` is what makes a command one in the engine's network; that ends with this process, too."""

    api: Any
    inside: tuple[str, ...]


@contextlib.contextmanager
def own_engine(folder: Path) -> Iterator[OwnEngine]:
    """Run an engine, with its socket in `folder`; UserError where that cannot be done."""
    missing = [name for name in NEEDS if shutil.which(name) is None]
    if os.geteuid() != 0 or missing:
        raise UserError(f"an engine of its own needs {', '.join(missing) or 'root'}")
    remove_groups()
    end = ("setpriv", "--pdeathsig", "KILL")
    spaces = ("unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc")
    argv = [*end, *spaces, "sh", "-c", INIT, "sh", str(folder), f"{NAME}{os.getpid()}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        with contextlib.closing(_ready(process, folder)) as client:
            yield OwnEngine(client.api, (*end, "nsenter", f"--net=/proc/{process.pid}/ns/net", "--"))
    finally:
        process.kill()
        process.wait()
        remove_groups()


def _ready(process: "subprocess.Popen[bytes]", folder: Path) -> Any:
    deadline = time.monotonic() + READY
    while True:
        try:
            return connect_to(str(folder / "sock"))
        except EngineError:
            if process.poll() is not None or time.monotonic() > deadline:
                said = (folder / "log").read_text(errors="replace").strip().splitlines() or ["it says nothing"]
                raise UserError(f"an engine of its own did not start: {said[-1]}") from None
        time.sleep(0.02)


def remove_groups() -> None:
    """Remove the control groups of this comparison's engine, and of those whose comparison is gone."""
    for group in [*GROUPS.glob(f"{NAME}*"), *GROUPS.glob(f"*/{NAME}*")]:
        owner = int(group.name.removeprefix(NAME))
        if owner != os.getpid() and Path(f"/proc/{owner}").exists():
            continue
        deadline = time.monotonic() + GONE
        while group.exists() and time.monotonic() < deadline:
            for folder, _, _ in os.walk(group, topdown=False):
                with contextlib.suppress(OSError):  # A process in it is about to end.
                    os.rmdir(folder)
