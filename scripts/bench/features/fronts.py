"""The proxies, each with the same interface: take a feature's settings, obey an order, reload.

Comet is one whole cluster, ordered through its supervisor; a feature's keys are taken by a reload. HAProxy is ordered
through its stats socket, and is another process for each feature. So is Envoy, which gets no orders.
"""

import asyncio
import contextlib
import socket
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from comet.state.control_socket import call
from scripts.bench.cluster import temporary_cluster
from scripts.bench.proc import running, serving, wait_for
from scripts.bench.rivals import ENVOY, HAPROXY, envoy

QUIET = {"pool": 1, "health_path": "/healthz", "health_interval": 0.2, "health_fall": 2, "health_rise": 1}
CHECK = "check inter 200ms fall 2 rise 1"
OWN = "global\n  stats socket {socket} mode 600 level admin expose-fd listeners\n"


@dataclass(frozen=True)
class Settings:
    """A feature in the language of each proxy.

    `comet` are keys of config.yaml. `haproxy` are lines of `frontend` and `backend`, words that are added to the lines
    `bind` and `server` (with {n} for the server's number, {next} for one more), and the state that `drain` sets.
    `envoy` are lines of the cluster.
    """

    comet: Mapping[str, Any]
    haproxy: Mapping[str, str] = field(default_factory=dict)
    envoy: str = ""


class Front(Protocol):
    """A proxy in front of the workers."""

    name: str
    port: int

    async def use(self, settings: Settings) -> None:
        """Serve with these settings, all workers in rotation."""

    async def reload(self, settings: Settings) -> None:
        """Change the settings while it serves."""

    async def renew(self, certificate: Path) -> None:
        """Use the new content of this file, certificate and key."""

    async def order(self, order: str, worker: str) -> None:
        """Carry out `drain` or `undrain`."""


class Comet:
    """A cluster with one load balancer."""

    name = "comet"

    def __init__(self, stack: ExitStack, workers: Sequence[int]) -> None:
        urls = [f"http://127.0.0.1:{port}" for port in workers]
        self._made = stack.enter_context(temporary_cluster(worker_port=None, upstreams=urls, **QUIET))
        self.port = self._made.lb_port(0)

    async def use(self, settings: Settings) -> None:
        for number in range(len(self._made.config["upstreams"])):
            await self.order("undrain", f"worker-{number}")
        await self.reload(Settings({}))  # It readmits what the last feature ejected.
        await asyncio.to_thread(wait_for, self._is_whole, 60, "all workers are in rotation")
        await self.reload(settings)

    async def reload(self, settings: Settings) -> None:
        self._made.write(self._made.config | settings.comet)
        await asyncio.to_thread(self._call, "reload")

    async def renew(self, certificate: Path) -> None:
        await asyncio.to_thread(self._call, "reload")

    async def order(self, order: str, worker: str) -> None:
        await asyncio.to_thread(self._call, order, name=worker)

    def _call(self, command: str, **fields: Any) -> Any:
        return call(self._made.cluster, command, timeout=60, **fields)

    def _is_whole(self) -> bool:
        rows = [row for row in self._call("ps")["replicas"] if row["role"] == "worker"]
        return all(row["state"] == "ready" and not row["ejected"] for row in rows)


class Haproxy:
    """HAProxy with one thread, as in `bench.sh lb`."""

    name = "haproxy"

    def __init__(self, stack: ExitStack, folder: Path, port: int, workers: Sequence[int]) -> None:
        self._stack, self._folder, self._workers = stack.enter_context(ExitStack()), folder, workers
        self._socket = folder / "haproxy.sock"
        self.port = port
        self._pid, self._drain = 0, ""

    async def use(self, settings: Settings) -> None:
        await asyncio.to_thread(self._stack.close)
        await asyncio.to_thread(self._start, settings)

    async def reload(self, settings: Settings) -> None:
        """Start the successor, which takes over the listening socket and tells the present one to finish."""
        await asyncio.to_thread(self._start, settings, "-x", str(self._socket), "-sf", str(self._pid))

    async def renew(self, certificate: Path) -> None:
        await asyncio.to_thread(self._command, f"set ssl cert {certificate} <<\n{certificate.read_text()}\n")
        await asyncio.to_thread(self._command, f"commit ssl cert {certificate}")

    async def order(self, order: str, worker: str) -> None:
        state = self._drain if order == "drain" else "ready"
        await asyncio.to_thread(self._command, f"set server workers/{worker} state {state}")

    def _obeys(self, pid: int) -> bool:
        with contextlib.suppress(OSError):
            return f"Pid: {pid}" in self._command("show info")
        return False

    def _command(self, line: str) -> str:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(self._socket))
            peer.sendall(line.encode() + b"\n")
            with peer.makefile("r") as answer:
                return answer.read().strip()

    def _start(self, settings: Settings, *words: str) -> None:
        given = settings.haproxy
        self._drain = given.get("drain", "drain")
        option = f"{CHECK} {given.get('server', '')}"
        servers = [
            f"server worker-{n} 127.0.0.1:{port} {option.format(n=n, next=n + 1)}"
            for n, port in enumerate(self._workers)
        ]
        backend = "\n  ".join(["option redispatch 1", *given.get("backend", "").splitlines(), *servers])
        text = HAPROXY.format(port=f"{self.port} {given.get('bind', '')}", servers=backend)
        frontend = "\n  ".join([*given.get("frontend", "").splitlines(), "default_backend"])
        path, log = self._folder / "haproxy.cfg", self._folder / "haproxy.log"
        path.write_text(OWN.format(socket=self._socket) + text.replace("default_backend", frontend))
        process = self._stack.enter_context(running(["haproxy", "-db", "-f", str(path), *words], log))
        serving(process, self.port, log, "haproxy")
        wait_for(lambda: self._obeys(process.pid), 15, "haproxy takes orders")
        self._pid = process.pid


class Envoy(Haproxy):
    """Envoy with one thread, as in `bench.sh lb`."""

    name = "envoy"

    def _start(self, settings: Settings, *words: str) -> None:
        policy = "    lb_policy: ROUND_ROBIN\n"
        lines = "".join(f"    {line}\n" for line in settings.envoy.splitlines())
        command = envoy(self._folder, self.port, self._workers, ENVOY.replace(policy, policy + lines))
        log = self._folder / "envoy.log"
        serving(self._stack.enter_context(running(command, log)), self.port, log, "envoy")
