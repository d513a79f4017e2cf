"""Docker engines of the tests' own, for what must not happen to the user's: being stopped, killed, filled, or found
empty.

    with private_engine() as engine:
        engine.client.ping()
        subprocess.run([...], env=os.environ | engine.environment)
        engine.stop(); engine.start(); engine.kill()

Each has its own socket, data, containerd and bridge: containers publish ports on 127.0.0.1 as usual, through the
engine's proxy processes alone (no firewall rule of the machine is touched).

Needs root. Nothing is left behind: not by a test that fails, and what a killed run left is swept away by the next one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import psutil

from comet.engine.connection import ping
from comet.engine.engine_error import EngineError
from tests.support.waiting import PATIENCE, wait_until

PREFIX = "comet-engine-"
START_DEADLINE = 30.0 * PATIENCE  # seconds
STOP_DEADLINE = 20.0 * PATIENCE
CALL_TIMEOUT = 60.0 * PATIENCE


class PrivateEngine:
    """One engine in a folder of its own. `client` is an SDK client of it, `environment` points the docker command and
    Comet to it.
    """

    def __init__(self, roomless: bool = False) -> None:
        """`roomless`: it has no address pool but the one that its bridge takes, so that it can make no network."""
        self._roomless = roomless
        # Short, as the address of a socket ends at 107 bytes; with the PID, so that a later run can tell whose it was.
        self.folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir="/tmp"))
        self.socket = str(self.folder / "sock")
        self.environment = {"DOCKER_HOST": f"unix://{self.socket}"}
        # Never `--bridge=none`: dockerd takes that as the order to remove docker0, which is the user's engine's.
        self.bridge = f"cmt{os.path.basename(self.folder)[-8:]}"
        self.client = docker.DockerClient(base_url=f"unix://{self.socket}", version="1.41", timeout=CALL_TIMEOUT)
        self._process: subprocess.Popen[bytes] | None = None
        self._subnet = add_bridge(self.bridge)
        # Shared, as a service manager's root is: on a private one, the engine covers its folder with a mount of its own
        # and takes that away when it stops. A root that a start left mounted meanwhile is out of its reach ever after.
        data = self.folder / "data"
        data.mkdir(mode=0o711)
        for options in (["--bind", str(data), str(data)], ["--make-shared", str(data)]):
            subprocess.run(["mount", *options], check=True, capture_output=True)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it (again) and wait until it answers."""
        options = {
            "--data-root": f"{self.folder}/data",
            "--exec-root": f"{self.folder}/exec",
            "--pidfile": f"{self.folder}/pid",
            "--host": self.environment["DOCKER_HOST"],
            "--cgroup-parent": f"/{self.folder.name}",
            "--bridge": self.bridge,
            "--iptables": "false",
            "--ip-masq": "false",
            "--log-level": "warn",
            **({"--default-address-pool": f"base={self._subnet},size=24"} if self._roomless else {}),
        }
        with open(self.folder / "log", "ab") as log:
            # The engine goes when the test run goes, however that ends.
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "dockerd", *(f"{name}={value}" for name, value in options.items())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_DEADLINE
        while True:
            with contextlib.suppress(EngineError):
                return ping(self.socket, 5.0)
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the test's engine did not start:\n{self.log()[-3000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop it as a service manager would: it stops its containers first."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Let the engine die at once. Its containers go on running, out of reach (its proxies die with it), until it is
        started again.
        """
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Let it hang: it accepts connections and answers nothing, until `thaw`."""
        assert self._process
        self._process.send_signal(signal.SIGSTOP)
        pid = self._process.pid
        wait_until(lambda: _is_stopped(pid), what="each thread of the engine stopped")

    def thaw(self) -> None:
        assert self._process
        self._process.send_signal(signal.SIGCONT)

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def load(self, source: docker.DockerClient, image: str) -> None:
        """Copy an image from another engine, under the same tag."""
        self.client.images.load(source.images.get(image).save(named=True))

    def close(self) -> None:
        """Remove every trace: processes, mounts, files, the bridge."""
        self.client.close()
        if self._process and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self.thaw()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.stop()
            self.kill()
        remove_traces(self.folder)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None or not self.running:
            return
        self._process.send_signal(how)
        self._process.wait(STOP_DEADLINE)
        # Its containerd dies with it but may stay a zombie, which the next engine would take for a living one.
        (self.folder / "exec/containerd/containerd.pid").unlink(missing_ok=True)


def _is_stopped(pid: int) -> bool:
    """Whether each of its threads is: those on other processors go on for a moment after the signal."""
    try:
        stats = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    except OSError:  # A thread has just ended.
        return False
    return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)


@contextlib.contextmanager
def private_engine(roomless: bool = False) -> Iterator[PrivateEngine]:
    """An engine of the test's own, started; gone without a trace at the end."""
    sweep()
    engine = PrivateEngine(roomless)
    try:
        engine.start()
        yield engine
    finally:
        engine.close()


def sweep() -> None:
    """Remove what runs that were killed have left."""
    for folder in Path("/tmp").glob(f"{PREFIX}*"):
        owner = re.match(rf"{PREFIX}(\d+)-", folder.name)
        if owner and not psutil.pid_exists(int(owner[1])):
            remove_traces(folder)


def remove_traces(folder: Path) -> None:
    _kill_all_of(folder)
    with open("/proc/self/mounts") as mounts:
        below = [point for line in mounts if (point := line.split()[1]).startswith(f"{folder}/")]
    for point in sorted(below, reverse=True):
        subprocess.run(["umount", "--lazy", point], check=False, capture_output=True)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run(["ip", "link", "delete", f"cmt{folder.name[-8:]}"], check=False, capture_output=True)
    for group in [*Path("/sys/fs/cgroup").glob(folder.name), *Path("/sys/fs/cgroup").glob(f"*/{folder.name}")]:
        subprocess.run(
            ["find", str(group), "-depth", "-type", "d", "-exec", "rmdir", "{}", "+"], check=False, capture_output=True
        )


def _kill_all_of(folder: Path) -> None:
    """End the engine's processes (they name the folder in their command lines) and their containers (below a shim)."""
    for _ in range(10):  # One of them may have forked after it was found, and before it was killed.
        doomed = set[psutil.Process]()
        for process in psutil.process_iter(["cmdline"]):
            if process.pid != os.getpid() and any(f"{folder}/" in word for word in process.info["cmdline"] or []):
                with contextlib.suppress(psutil.NoSuchProcess):
                    doomed |= {process, *process.children(recursive=True)}
        doomed.discard(psutil.Process())
        if not doomed:
            return
        for process in doomed:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(doomed, timeout=10)


def add_bridge(name: str) -> str:
    """A bridge with a subnet that nobody else here has: one of 10.213.0.0/16, chosen by the ones in use. Returns the
    subnet.
    """
    with _alone():
        taken = subprocess.run(["ip", "-4", "-oneline", "address"], check=True, capture_output=True, text=True).stdout
        free = next(number for number in range(1, 255) if f" 10.213.{number}." not in taken)
        for command in (
            ["ip", "link", "add", name, "type", "bridge"],
            ["ip", "address", "add", f"10.213.{free}.1/24", "dev", name],
            ["ip", "link", "set", name, "up"],
        ):
            subprocess.run(command, check=True, capture_output=True)
        return f"10.213.{free}.0/24"


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """No other process of tests is in this block: two that look at the same time would both take the same subnet."""
    lock = os.open("/tmp", os.O_RDONLY | os.O_DIRECTORY)  # A file would have to be left behind.
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
