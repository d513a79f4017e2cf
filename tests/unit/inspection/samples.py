"""Facts of a load balancer and of two workers in containers, read from the recorded trees."""

import functools
import tempfile
from dataclasses import replace
from pathlib import Path

from comet.inspection import cgroup, proc
from comet.inspection.facts import EngineFacts, Facts, Link, Machine, PortRoute
from comet.inspection.proc import ProcessFolder
from tests.unit.inspection.recording import BALANCER, CONTAINER, WORKER, unpacked

MIB = 1 << 20

MACHINE = Machine(
    "6.1.0",
    "PID 1",
    {"mnt": 4026531832, "pid": 4026531836, "net": 4026531833, "uts": 4026531838, "ipc": 4026531839,
     "user": 4026531837, "cgroup": 4026531835, "time": 4026531834},
)  # fmt: skip


def balancer() -> Facts:
    return _facts(
        BALANCER,
        Facts(
            "lb-0",
            "lb",
            "process",
            (Link(1, "systemd"), Link(10, "comet: supervisor"), Link(11, "forkserver"), Link(BALANCER, "comet: lb-0")),
            None,  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
            None,
            PortRoute(5050, (("itself", BALANCER, ""),), ()),
            8 * 1024,
        ),
    )


def worker() -> Facts:
    return _facts(
        WORKER,
        Facts(
            "worker-0",
            "worker",
            "container",
            (Link(1, "systemd"), Link(20, "containerd-shim-runc-v2"), Link(21, "docker-init"), Link(WORKER, "python3")),
            None,  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
            EngineFacts(CONTAINER, "Docker 20.10.24", "comet-worker:1", 3, "runc", "comet-955a",
                        (("/srv/stats", "/data", True),), (("172.18.0.2:8080", 6000),)),
            PortRoute(6000, (("docker-proxy", 30, "172.18.0.2:8080"),), ("127.0.0.1:6000 → 172.18.0.2:8080",), True),
            12 * MIB,
        ),
    )  # fmt: skip


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """The recorded trees, for all tests of this process: they only read."""
    folder = tempfile.TemporaryDirectory(prefix="comet-recorded-")
    unpacked(Path(folder.name), "container", "balancer")
    return folder


def _facts(pid: int, about: Facts) -> Facts:
    tree = Path(_folder().name)
    mounted = cgroup.trees((tree / f"proc/{BALANCER}/mountinfo").read_text(), tree)
    with ProcessFolder(pid, proc=tree / "proc") as opened:
        process = proc.read(opened, opened.birth + 90)
        return replace(about, process=process, cgroup=cgroup.read(opened.text("cgroup"), mounted, tree / "none"))
