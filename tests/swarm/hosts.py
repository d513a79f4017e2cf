"""A swarm of several machines on one: network namespaces joined by a bridge, a Docker engine in each.

    with hosts(3) as lab:
        lab.swarm()
        lab.client(1).nodes.list()
        lab.on(1, ["curl", "10.77.0.2:80"])    # a command on the first machine
        lab.power_off(2); lab.start(2); lab.link(3, up=False)

Every engine lives in a process namespace of its own, so that SIGKILL of one process ends engine and containers at once,
as pulling the plug does; and with mounts of its own, so that none meets the others' files in /run, /etc/docker and
/var/lib/docker. The Unix sockets of all lie where this process reaches them. Nothing of it is in this machine's own
network.

Needs root, iproute2, util-linux, tini and docker.io. Nothing is left behind: the machines go with the process that made
them, whatever its end (call from its main thread), and what a killed run left in files, mounts and cgroups the next one
sweeps away.
"""

import contextlib
import ctypes
import glob
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import docker
import docker.errors

from comet.engine.connection import ping
from comet.engine.engine_error import EngineError
from tests.support.waiting import PATIENCE

PREFIX = "comet-swarm-"
NETWORK = "10.77.0"
CLONE_NEWNET = 0x40000000
READY_WITHIN = 60.0 * PATIENCE
"""Seconds."""

CALL_TIMEOUT = 60.0 * PATIENCE

INIT = """
hostname h{number}
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /etc/docker /var/lib/docker {folder}/etc
mount --bind {folder}/etc /etc/docker
mount -t tmpfs tmpfs /var/lib/docker
echo nameserver 127.0.0.1 > /run/resolv
mount --bind /run/resolv /etc/resolv.conf
exec tini -- dockerd --data-root {folder}/data --exec-root /run/dk --pidfile /run/dk.pid -H unix://{folder}/sock \
    --cgroup-parent /{name} --insecure-registry {network}.0/24 --log-level info {options}
"""

T = TypeVar("T")


def sh(*words: str, check: bool = True) -> str:
    return subprocess.run(words, check=check, capture_output=True, text=True).stdout


class Hosts:
    """Machines h1 to hN at NETWORK.1 to NETWORK.N."""

    def __init__(self, count: int, options: str = "") -> None:
        """`options` are more of h1's engine."""
        self.count = count
        self._options = options
        # Short, as the address of a socket ends at 107 bytes; with the PID, so that a later run can tell whose it was.
        self._name = f"{PREFIX}{os.getpid()}-"
        self._folder = Path(tempfile.mkdtemp(prefix=self._name, dir="/tmp"))
        self._engines: dict[int, subprocess.Popen[bytes]] = {}
        self._clients: dict[int, docker.DockerClient] = {}
        sh("mount", "-t", "tmpfs", "-o", "size=6g,mode=755", "comet-swarm", str(self._folder))
        self._wire()
        for number in self.numbers:
            self._launch(number)
        for number in self.numbers:
            self._await(number)

    @property
    def numbers(self) -> range:
        return range(1, self.count + 1)

    def socket(self, number: int) -> str:
        return f"unix://{self._folder}/{number}/sock"

    def client(self, number: int) -> docker.DockerClient:
        if number not in self._clients:
            self._clients[number] = docker.DockerClient(
                base_url=self.socket(number), version="1.41", timeout=CALL_TIMEOUT
            )
        return self._clients[number]

    def enter(self, number: int) -> tuple[str, ...]:
        """What makes a command one on that machine's network."""
        return ("nsenter", f"--net=/run/netns/{self._name}{number}", "--")

    def on(self, number: int, words: list[str]) -> str:
        return sh(*self.enter(number), *words)

    def within(self, number: int, work: Callable[[], T]) -> T:
        """What `work` returns, done by a thread on that machine's network; so are the threads that it starts."""
        outcome: list[T] = []
        trouble: list[BaseException] = []

        def there() -> None:
            try:
                with open(f"/run/netns/{self._name}{number}") as space:
                    assert ctypes.CDLL(None, use_errno=True).setns(space.fileno(), CLONE_NEWNET) == 0
                outcome.append(work())
            except BaseException as error:
                trouble.append(error)

        thread = threading.Thread(target=there)
        thread.start()
        thread.join()
        if trouble:
            raise trouble[0]
        return outcome[0]

    def swarm(self, heartbeat: float = 3.0) -> docker.DockerClient:
        """Join all into a swarm that h1 manages, and that takes a node for down after three heartbeats, in seconds."""
        first = self.client(1)
        first.swarm.init(
            advertise_addr=f"{NETWORK}.1", listen_addr=f"{NETWORK}.1:2377",
            dispatcher_heartbeat_period=round(heartbeat * 1e9),
            task_history_retention_limit=5,
        )  # fmt: skip
        first.swarm.reload()
        token = first.swarm.attrs["JoinTokens"]["Worker"]
        for number in self.numbers[1:]:
            try:
                self.client(number).swarm.join(
                    remote_addrs=[f"{NETWORK}.1:2377"], join_token=token, advertise_addr=f"{NETWORK}.{number}",
                    listen_addr=f"{NETWORK}.{number}:2377",
                )  # fmt: skip
            except docker.errors.APIError as error:
                if "will continue in the background" not in str(error):  # After 20 s; who needs the nodes awaits them.
                    raise
        return first

    def leave(self) -> None:
        """End the swarm, if there is one."""
        for number in reversed(self.numbers):
            if self.client(number).info()["Swarm"]["LocalNodeState"] != "inactive":
                self.client(number).swarm.leave(force=True)

    def load(self, source: docker.DockerClient, names: list[str]) -> None:
        """Give every machine these images."""
        file = self._folder / "images.tar"
        with file.open("wb") as out:
            packed = source.api._get(source.api._url("/images/get"), params={"names": names}, stream=True)
            for chunk in packed.iter_content(1 << 20):
                out.write(chunk)
        for number in self.numbers:
            with file.open("rb") as content:
                self.client(number).images.load(content)
        file.unlink()

    @contextlib.contextmanager
    def registry(self, number: int, port: int = 5000) -> Iterator[str]:
        """An image registry on that machine; its address. The engines take it without TLS."""
        folder = self._folder / "registry"
        folder.mkdir()
        address = f"{NETWORK}.{number}:{port}"
        config = folder / "config.yml"
        config.write_text(
            f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {folder}/data}}}}\nhttp: {{addr: '{address}'}}\n"
        )
        command = [*self.enter(number), "setpriv", "--pdeathsig", "KILL", "docker-registry", "serve", str(config)]
        with (
            (folder / "log").open("ab") as log,
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log) as server,
        ):
            try:
                yield address
            finally:
                server.kill()
                shutil.rmtree(folder)

    def is_on(self, number: int) -> bool:
        return self._engines[number].poll() is None

    def power_off(self, number: int, cable: bool = True) -> None:
        """Engine, shims and containers are gone at once, and with `cable` the machine's network is as well. What it was
        in its network is forgotten.
        """
        if cable:
            self.link(number, up=False)
        self._kill(number)
        (self._folder / str(number) / "sock").unlink(missing_ok=True)
        self._forget(number)

    def start(self, number: int) -> None:
        """Turn it on (again), and wait until its engine answers."""
        self.link(number, up=True)
        self._launch(number)
        self._await(number)

    def link(self, number: int, up: bool) -> None:
        """Plug the machine's cable in, or pull it."""
        sh("ip", "-n", f"{self._name}b", "link", "set", f"p{number}", "up" if up else "down")

    @contextlib.contextmanager
    def refusing(self, number: int, port: int) -> Iterator[None]:
        """Meanwhile the machine takes no TCP connections of the others to this port."""
        rule = [
            "INPUT",
            "-p",
            "tcp",
            "--dport",
            str(port),
            "!",
            "-i",
            "lo",
            "-j",
            "REJECT",
            "--reject-with",
            "tcp-reset",
        ]
        self.on(number, ["iptables", "-I", *rule])
        try:
            yield
        finally:
            self.on(number, ["iptables", "-D", *rule])

    def log(self, number: int) -> str:
        return (self._folder / str(number) / "log").read_text(errors="replace")

    def processes(self, number: int) -> list[int]:
        """PIDs of what runs on that machine's own network: its engine and docker-proxy, not what is within
        containers.
        """
        return [int(word) for word in sh("ip", "netns", "pids", f"{self._name}{number}", check=False).split()]

    def close(self) -> None:
        for client in self._clients.values():
            client.close()
        for number, engine in self._engines.items():
            if engine.poll() is None:
                self._kill(number)  # While something of it lives, its control groups cannot be removed.
        _remove_traces(self._folder)

    def _kill(self, number: int) -> None:
        """Kill the first process of the machine's PID namespace, whose parent ends when all within are dead."""
        engine = self._engines[number]
        within = Path(f"/proc/{engine.pid}/task/{engine.pid}/children").read_text().split()
        if not within:
            engine.kill()
        for first in within:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(first), signal.SIGKILL)
        engine.wait()

    def _wire(self) -> None:
        bridge = f"{self._name}b"
        sh("ip", "netns", "add", bridge)
        sh("ip", "-n", bridge, "link", "add", "br0", "type", "bridge")
        sh("ip", "-n", bridge, "link", "set", "br0", "up")
        for number in self.numbers:
            space = f"{self._name}{number}"
            sh("ip", "netns", "add", space)
            sh("ip", "-n", space, "link", "set", "lo", "up")
            sh("ip", "-n", bridge, "link", "add", f"p{number}", "type", "veth", "peer", "name", "eth0", "netns", space)
            sh("ip", "-n", bridge, "link", "set", f"p{number}", "master", "br0", "up")
            sh("ip", "-n", space, "addr", "add", f"{NETWORK}.{number}/24", "dev", "eth0")
            sh("ip", "-n", space, "link", "set", "eth0", "up")
            (self._folder / str(number)).mkdir()

    def _forget(self, number: int) -> None:
        """Remove what the engine made in its machine's network, as all machines share a kernel that is never turned
        off. It keeps the network of a dead container while a connection of it is not ended, for 100 s where the other
        side is out of reach: the next container of that address would then share it with a dead one.
        """
        made = {
            line.split()[0].partition("@")[0] for line in self.on(number, ["ip", "-brief", "link"]).splitlines()
        } - {"lo", "eth0"}
        for link in sorted(made):
            # The two ends of a pair go together.
            sh("ip", "-n", f"{self._name}{number}", "link", "delete", link, check=False)
        self.on(number, ["sh", "-c", "printf '*filter\\nCOMMIT\\n*nat\\nCOMMIT\\n' | iptables-restore"])

    def _launch(self, number: int) -> None:
        folder = self._folder / str(number)
        options = self._options if number == 1 else ""
        (folder / "init").write_text(
            INIT.format(number=number, folder=folder, name=f"{self._name}{number}", network=NETWORK, options=options)
        )
        with (folder / "log").open("ab") as log:
            self._engines[number] = subprocess.Popen(
                [
                    "setpriv", "--pdeathsig", "KILL", *self.enter(number), "unshare", "--mount", "--uts", "--ipc",
                    "--pid", "--fork",
                    "--kill-child", "--mount-proc", "--propagation", "private", "bash", str(folder / "init"),
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def _await(self, number: int) -> None:
        deadline = time.monotonic() + READY_WITHIN
        while True:
            with contextlib.suppress(EngineError):
                return ping(str(self._folder / str(number) / "sock"))
            if self._engines[number].poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the engine of h{number} did not start:\n{self.log(number)[-3000:]}")
            time.sleep(0.05)


@contextlib.contextmanager
def hosts(count: int, options: str = "") -> Iterator[Hosts]:
    sweep()
    made = None
    try:
        made = Hosts(count, options)
        yield made
    finally:
        if made is not None:
            made.close()
        else:
            for folder in Path("/tmp").glob(f"{PREFIX}{os.getpid()}-*"):
                _remove_traces(folder)


def sweep() -> None:
    """Remove what runs that were killed have left."""
    for folder in Path("/tmp").glob(f"{PREFIX}*"):
        owner = re.match(rf"{PREFIX}(\d+)-", folder.name)
        if owner and not os.path.exists(f"/proc/{owner[1]}"):
            _remove_traces(folder)


def _remove_traces(folder: Path) -> None:
    name = re.sub(r"[^-]*$", "", folder.name)
    for space in re.findall(rf"^{re.escape(name)}\S*", sh("ip", "netns"), re.MULTILINE):
        sh("ip", "netns", "delete", space, check=False)
    for group in [*glob.glob(f"/sys/fs/cgroup/*/{name}*"), *glob.glob(f"/sys/fs/cgroup/{name}*")]:
        sh("find", group, "-depth", "-type", "d", "-exec", "rmdir", "{}", "+", check=False)
    sh("umount", "--lazy", str(folder), check=False)
    shutil.rmtree(folder, ignore_errors=True)
