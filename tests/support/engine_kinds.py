"""Container engines of every kind that Comet works with, each started by the test that wants it, in a folder of its
own.

    with engine_of("podman-rootless") as engine, engine.inside():
        engine.client.ping()
        subprocess.run([*engine.argv("docker", "ps")], env=os.environ | engine.environment)

A kind is an engine and the user it runs as. An ordinary user is one whom only the engine's mount namespace knows: the
entries in /etc/passwd and /etc/subuid, and the modes of /dev/net/tun and /dev/fuse, are bind mounts there. Podman as
root also has a network namespace of its own, because the networks that it makes are firewall rules of the machine;
`inside` enters it. So no file of the machine changes, and the user's own engine is never asked.

Needs root. Nothing is left behind: what a killed run left is removed by the next one.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import psutil

from comet.engine.connection import EngineError, ping
from tests.support import engines
from tests.support.users import USER, argv_as
from tests.support.waiting import PATIENCE

KINDS = ("docker", "docker-user", "docker-remap", "docker-rootless", "podman", "podman-rootless")
"""`docker-user`: an engine of root's, and an ordinary user who may use its socket."""


def selected_kinds() -> tuple[str, ...]:
    """The kinds that are tested: those that the other tests do not use; all for the matrix and for a full run."""
    return KINDS if os.environ.get("COMET_TEST_MATRIX") or os.environ.get("COMET_TEST_FULL") else KINDS[2:]


NAME = "comet-test"
SUBORDINATE = 300000
"""The first of the ids that the ordinary user's containers have."""

START_WITHIN = 30.0 * PATIENCE
CLONE_NEWNET = 0x40000000
CONTRIB = "/usr/share/docker.io/contrib"
"""Where Debian has the script that starts a rootless engine."""

PATH = f"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:{CONTRIB}"

PREPARE = """set -e
folder=$1 network=$2
shift 2
for file in passwd group subuid subgid; do
  if [ -e /etc/$file ]; then mount --bind "$folder/etc/$file" /etc/$file; fi
done
mkdir "$folder/dev"
mount -t tmpfs -o mode=755 dev "$folder/dev"
mknod -m 666 "$folder/dev/tun" c 10 200
mknod -m 666 "$folder/dev/fuse" c 10 229
for device in net/tun fuse; do
  if [ -e /dev/$device ]; then mount --bind "$folder/dev/${device#net/}" /dev/$device; fi
done
if [ "$network" = own ]; then
  ip link set lo up
  mount -t tmpfs -o mode=755 run /run
  mkdir /run/lock
fi
cd /
exec "$@"
"""


class Engine:
    """One engine in a folder of its own. `client` is an SDK client of it; `environment` points the docker command and
    Comet to it; `argv` makes a command line that runs as the engine's user.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        # The name lets `engines.sweep` tell whose it was, and ends what a killed run left.
        self.folder = Path(tempfile.mkdtemp(prefix=f"{engines.PREFIX}{os.getpid()}-", dir="/tmp"))
        self.folder.chmod(0o755)
        self.rootless = kind.endswith("rootless")
        self.uid = USER if self.rootless or kind == "docker-user" else 0
        self.home = self.folder / "home"
        # In memory: unpacking an image and removing it takes seconds on a disk.
        self.home.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3g,mode=755", "engine", str(self.home)], check=True)
        for folder in (self.home, self.home / "run", self.home / "cluster", self.folder / "etc"):
            folder.mkdir(mode=0o755, exist_ok=True)
            os.chown(folder, self.uid, self.uid)
        self.socket = str(self.home / "sock")
        self.environment = {
            "DOCKER_HOST": f"unix://{self.socket}",
            "HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(self.home / "run"),
        }
        self.client = docker.DockerClient(
            base_url=f"unix://{self.socket}", version="1.41", timeout=engines.CALL_TIMEOUT
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._write_users()

    def argv(self, *command: str) -> list[str]:
        return argv_as(self.uid, *command) if self.uid else list(command)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """This thread, and what it starts, is where the engine's published ports are."""
        if self.kind != "podman":
            yield
            return
        assert self._process is not None
        libc = ctypes.CDLL(None, use_errno=True)
        with open("/proc/thread-self/ns/net") as here, open(f"/proc/{self._process.pid}/ns/net") as there:
            assert libc.setns(there.fileno(), CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
            try:
                yield
            finally:
                assert libc.setns(here.fileno(), CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())

    def start(self) -> None:
        script = self.folder / "prepare"
        script.write_text(PREPARE)
        own = ("--net",) if self.kind == "podman" else ()
        spaces = ["unshare", "--mount", "--propagation", "slave", *own, "--"]
        user = ["setpriv", f"--reuid={self.uid}", f"--regid={self.uid}", "--clear-groups"] if self.rootless else []
        end = ["setpriv", "--pdeathsig", "KILL"]
        # Podman asks for higher limits than a machine without CAP_SYS_RESOURCE may have.
        (self.folder / "containers.conf").write_text(
            '[containers]\ndefault_ulimits = ["nofile=4096:4096", "nproc=8192:8192"]\n'
        )
        environment = {
            "PATH": PATH,
            "CONTAINERS_CONF": str(self.folder / "containers.conf"),
            **{name: value for name, value in self.environment.items() if name != "DOCKER_HOST"},
        }
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [
                    *end,
                    *spaces,
                    "bash",
                    str(script),
                    str(self.folder),
                    "own" if own else "host",
                    *user,
                    *end,
                    *self._command(),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=environment,
            )
        deadline = time.monotonic() + START_WITHIN
        while True:
            with contextlib.suppress(EngineError):
                ping(self.socket, 5.0)
                # As the group docker may use the system's.
                return os.chown(self.socket, -1, self.uid)
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the {self.kind} engine of the test did not start:\n{self.log()[-3000:]}")
            time.sleep(0.05)

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def close(self) -> None:
        """Remove every trace: processes, mounts, files, the bridge."""
        self.client.close()
        _end_all_of(self.folder)
        if self._process is not None:
            self._process.wait()
        engines.remove_traces(self.folder)

    def _command(self) -> list[str]:
        run, home = self.home / "run", self.home
        if self.kind.startswith("podman"):
            return [
                "podman", f"--root={home}/storage", f"--runroot={home}/r", f"--tmpdir={run}/libpod",
                "--cgroup-manager=cgroupfs",
                f"--network-config-dir={home}/networks", "--storage-driver=overlay",
                "--events-backend=file", "--log-level=warn", "system", "service", "--time=0",
                f"unix://{self.socket}",
            ]  # fmt: skip
        options = [
            f"--data-root={home}/data", f"--exec-root={run}/docker", f"--pidfile={run}/docker.pid",
            f"--host=unix://{self.socket}",
            "--log-level=warn",
        ]  # fmt: skip
        if self.rootless:
            return ["dockerd-rootless.sh", *options]
        bridge = f"cmt{self.folder.name[-8:]}"
        engines.add_bridge(bridge)
        options += [f"--bridge={bridge}", "--iptables=false", "--ip-masq=false", f"--cgroup-parent=/{self.folder.name}"]
        return ["dockerd", *options, *([f"--userns-remap={NAME}"] if self.kind == "docker-remap" else [])]

    def _write_users(self) -> None:
        etc = self.folder / "etc"
        for name, entry in (("passwd", f"{NAME}:x:{USER}:{USER}::{self.home}:/bin/sh"), ("group", f"{NAME}:x:{USER}:")):
            (etc / name).write_text(f"{Path('/etc', name).read_text()}{entry}\n")
        for name in ("subuid", "subgid"):
            (etc / name).write_text(f"{NAME}:{SUBORDINATE}:65536\n")


@contextlib.contextmanager
def engine_of(kind: str) -> Iterator[Engine]:
    """A running engine of this kind; gone without a trace at the end."""
    engines.sweep()
    engine = Engine(kind)
    try:
        engine.start()
        yield engine
    finally:
        engine.close()


def missing_requirement(kind: str) -> str:
    """What this machine lacks for an engine of this kind; empty where it lacks nothing."""
    programs = {
        "docker": ("dockerd",),
        "docker-user": ("dockerd",),
        "docker-remap": ("dockerd",),
        "docker-rootless": ("dockerd-rootless.sh", "rootlesskit", "slirp4netns", "newuidmap"),
        "podman": ("podman",),
        "podman-rootless": ("podman", "slirp4netns", "newuidmap"),
    }[kind]
    missing = [name for name in programs if shutil.which(name, path=PATH) is None]
    if missing:
        return f"{', '.join(missing)} (scripts/test.sh installs them)"
    if kind.endswith(("rootless", "remap")) and int(Path("/proc/sys/user/max_user_namespaces").read_text()) == 0:
        return "user namespaces (sysctl user.max_user_namespaces)"
    return ""


def _end_all_of(folder: Path) -> None:
    """End every process whose environment or command line names the folder, and what descends from it."""
    for _ in range(10):  # One of them may have forked after it was found, and before it was killed.
        doomed = set[psutil.Process]()
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                words = [*process.cmdline(), *process.environ().values()]
                if process.pid != os.getpid() and any(str(folder) in word for word in words):
                    doomed |= {process, *process.children(recursive=True)}
        doomed.discard(psutil.Process())
        if not doomed:
            return
        for process in doomed:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(doomed, timeout=10)
