"""Runs a load balancer process: takes its sockets, serves, follows control messages and signals, drains, exits.

A forkserver child executes `run`. Importing this module has no side effects and imports everything that serving needs,
so that a process accepts a few milliseconds after its fork. `serve` is the same without the steps that make it a
daemon.
"""

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from lb.faults.front import Front
from lb.faults.injector import FaultInjectors
from lb.interface import messages
from lb.interface.counters import Counters
from lb.interface.messages import Message
from lb.interface.settings import DOWN, DRAINING, UP, Settings, UpstreamSpec, changed
from lb.process.admission import Admission
from lb.process.control import ControlHub, Peer
from lb.process.ejections import Ejections
from lb.process.event_loop import new_event_loop
from lb.process.first_response import FirstResponses
from lb.process.health_checks import HealthChecker
from lb.process.tls import Certificate
from lb.proxy.access_log import LoggedDispatcher
from lb.proxy.dispatcher import Dispatcher
from lb.proxy.tracing import TracedDispatcher
from lb.proxy.upstream_pool import Upstream
from lb.system import log
from lb.system.compiled import in_use

try:
    from setproctitle import setproctitle
except ImportError:  # pragma: no cover
    setproctitle = None  # type: ignore[assignment]

logger = logging.getLogger("lb")

DRAIN_MARGIN: Final = 1.0
"""Seconds after shutdown_grace at which the remaining requests of a drain are ended."""

SWEEPS_PER_TIMEOUT: Final = 4
"""Number of sweeps of idle upstream connections within upstream_idle_timeout."""

CONTROL_BACKLOG: Final = 64

M_TRIM_THRESHOLD: Final = (-1, 8 << 20)
"""Parameter and value for mallopt(3)."""

M_MMAP_THRESHOLD: Final = (-3, 1 << 20)
"""Parameter and value for mallopt(3)."""


def run(
    settings: Settings,
    listener: socket.socket,
    upstreams: tuple[UpstreamSpec, ...],
    control: socket.socket | None = None,
    control_listener: socket.socket | None = None,
    counters_path: str | None = None,
    log_path: str | None = None,
    front: socket.socket | None = None,
) -> None:
    """Run as a load balancer process until the end of a drain; the exit code is then 0.

    `front` is a second listening socket, which all load balancers share.
    """
    with contextlib.suppress(PermissionError):  # Already a session leader.
        os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    set_process_title(f"comet: {settings.name} :{listener.getsockname()[1]}")
    log.start(log_path)
    serve(settings, listener, upstreams, control, control_listener, counters_path, front=front)


def serve(
    settings: Settings,
    listener: socket.socket,
    upstreams: tuple[UpstreamSpec, ...],
    control: socket.socket | None = None,
    control_listener: socket.socket | None = None,
    counters_path: str | None = None,
    signals: tuple[signal.Signals, ...] = (signal.SIGTERM,),
    front: socket.socket | None = None,
) -> None:
    """Serve in this process; the first of `signals` starts a drain, the second one ends it at once."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    _keep_heap()
    loop = new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        server = Server(loop, settings, listener, Counters(counters_path), front)
        for number in signals:
            loop.add_signal_handler(number, server.on_signal)
        loop.run_until_complete(server.start(upstreams, control, control_listener))
        # The present objects stay, so the collector need not scan them again. It finds little later, because
        # connections break their reference cycles.
        gc.freeze()
        gc.set_threshold(20000, 20, 50)
        loop.run_until_complete(server.ended)
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def set_process_title(title: str) -> None:
    """Set the title of this process, where that is possible."""
    if setproctitle is not None:
        setproctitle(title)


def _keep_heap() -> None:
    """Let the C library keep up to 8 MiB of freed memory, where mallopt(3) exists.

    A stream allocates and frees a buffer of 256 KiB for each read. By default each allocation moves the end of the heap
    or creates a mapping, with pages zeroed by the kernel, which took up to a third of a stream's CPU time.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            mallopt(parameter, value)


class Server:
    """Connects proxy, health checks and control for the lifetime of the process."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        settings: Settings,
        listener: socket.socket,
        counters: Counters,
        front: socket.socket | None = None,
    ) -> None:
        self._loop = loop
        loop.set_exception_handler(_log_error)
        self._listeners = [listener] if front is None else [listener, front]
        self._counters = counters
        self._fault_injectors: FaultInjectors | None = None
        self._listening = 0.0
        self._finishing: asyncio.Task[None] | None = None
        self._awaiting: asyncio.Task[None] | None = None
        self._draining_since: dict[Upstream, float] = {}
        self.port = listener.getsockname()[1]
        self.ended: asyncio.Future[None] = loop.create_future()
        make = Dispatcher if settings.access_log is None else LoggedDispatcher
        make = TracedDispatcher if settings.span_socket is not None else make
        self.proxy = proxy = make(loop, settings, counters, _authority(listener))
        self._certificate = Certificate(settings)
        self._admissions = [Admission(loop, proxy, each, self._certificate) for each in self._listeners]
        self._front = Front(loop, proxy, counters, self._divert, self._refuse)
        for admission in self._admissions:
            admission.count_with(self._front)
        self._health = HealthChecker(proxy)
        self._first = FirstResponses(
            proxy, lambda upstream, at: self._hub.broadcast(messages.first_response(upstream, at))
        )
        self._ejections = Ejections(loop, proxy, self._report_ejection)
        self._hub = ControlHub(loop, self._greet, self._handle)
        proxy.on_health = self._report_health
        proxy.on_suspect = self._health.check_now
        proxy.on_shortage = self._admissions[0].free_descriptors
        proxy.drained = self._no_client_left

    async def start(
        self, upstreams: tuple[UpstreamSpec, ...], control: socket.socket | None, control_listener: socket.socket | None
    ) -> None:
        """Start to accept and to serve control peers."""
        settings = self.proxy.settings
        self.proxy.pause(settings.paused_until)
        self.proxy.set_upstreams(upstreams, settings.max_in_flight)
        for admission in self._admissions:
            await admission.open()
        self._listening = time.monotonic()
        self._first.expect(None)
        self._health.update()
        self._ejections.configure()
        self._fault_injectors = (
            FaultInjectors(self._loop, self.proxy, settings.faults) if settings.faults is not None else None
        )
        self._sweep()
        if control is not None:
            self._hub.add(control)
        if control_listener is not None:
            self._hub.listen(control_listener)
        logger.info(
            "%s accepts on port %d, pid %d%s",
            settings.name,
            self.port,
            os.getpid(),
            "" if in_use() else ", interpreted",
        )

    def on_signal(self) -> None:
        """Start a drain; at the second signal, end at once."""
        if self.proxy.draining or self._finishing is not None:
            self._drained()
        else:
            settings = self.proxy.settings
            self._drain(max(settings.shutdown_grace, settings.tunnel_grace))

    def _sweep(self) -> None:
        self.proxy.sweep()
        self._loop.call_later(self.proxy.settings.upstream_idle_timeout / SWEEPS_PER_TIMEOUT, self._sweep)

    def _divert(self, make_client: Callable[[], Any] | None) -> None:
        for admission in self._admissions:
            admission.divert(make_client)

    def _refuse(self, on: bool) -> None:
        for admission in self._admissions:
            admission.refuse(on)

    # Control.

    def _greet(self, peer: Peer) -> None:
        peer.send(messages.ready(self.proxy.settings.name, os.getpid(), self.port, self._listening))
        for upstream in self.proxy.pool.order:
            peer.send(messages.health(upstream.name, upstream.health.healthy, upstream.reason))
        for upstream, reason in self._ejections.reasons.items():
            peer.send(messages.ejection(upstream.name, True, reason))

    def _report_health(self, upstream: Upstream) -> None:
        if upstream not in self.proxy.pool.order:
            return  # It was replaced: the supervisor knows another upstream by this name.
        healthy = upstream.health.healthy
        logger.info("%s is %s: %s", upstream.name, "healthy" if healthy else "unhealthy", upstream.reason)
        self._hub.broadcast(messages.health(upstream.name, healthy, upstream.reason))

    def _report_ejection(self, upstream: Upstream, seconds: float) -> None:
        reason = self._ejections.reasons.get(upstream, "")
        logger.info(
            "%s", f"{upstream.name} is " + (f"ejected for {seconds:g} s: {reason}" if seconds else "readmitted")
        )
        self._hub.broadcast(messages.ejection(upstream.name, seconds > 0, reason, seconds))

    def _handle(self, peer: Peer, message: Message) -> None:
        match message["type"]:
            case "upstreams":
                specs, limit = messages.read_upstreams(message)
                before = {upstream: upstream.state for upstream in self.proxy.pool.order}
                self.proxy.set_upstreams(specs, limit)
                self._ejections.update(each for each, was in before.items() if was == DOWN and each.state != DOWN)
                for upstream in self.proxy.pool.order:
                    if upstream.state == UP and before.get(upstream) != UP:
                        self._first.expect(upstream)
                        if not upstream.health.healthy:
                            self._report_health(upstream)  # Others object to it.
                self._health.update()
            case "pause":
                self.proxy.pause(messages.read_pause(message))
            case "settings":
                if "settings" not in message:
                    raise ValueError("settings: missing")
                self._configure(message["settings"])
            case "doubt":
                name, reason = messages.read_suspect(message)
                for upstream in self.proxy.pool.order:
                    if upstream.name == name:
                        self.proxy.mark_suspect(upstream, reason)
            case "front":
                self._front.order(*messages.read_front(message))
            case "drain":
                self._drain(messages.read_grace(message), messages.read_unused(message))
            case "ping":
                self.proxy.gauge_edges()
                checks, counts = self._health.take_durations(), self._health.take_counts()
                peer.send(messages.pong(message.get("id"), self._busy(), checks, counts))
            case "listener":
                peer.send(messages.listener(), [each.fileno() for each in self._listeners])
            case "reopen":
                self._reopen(*messages.read_reopen(message))
            case "status":
                peer.send(self._status())

    def _busy(self) -> dict[str, int]:
        """Return the numbers of requests and tunnels on draining upstreams that are still within their grace period."""
        now, settings = time.monotonic(), self.proxy.settings
        draining = [each for each in self.proxy.pool.order if each.state == DRAINING]
        self._draining_since = {each: self._draining_since.get(each, now) for each in draining}
        found: dict[str, int] = {}
        for each, since in self._draining_since.items():
            requests = each.in_flight if now - since < settings.shutdown_grace + DRAIN_MARGIN else 0
            tunnels = each.tunnels if now - since < settings.tunnel_grace else 0
            if requests or tunnels:
                found[each.name] = requests + tunnels
        return found

    def _reopen(self, run: str, control: str | None, counters: str) -> None:
        """Recreate files that were removed; continue without those that cannot be created."""
        with contextlib.suppress(OSError):
            self._counters.move(os.path.join(run, counters))
        with contextlib.suppress(OSError):
            log.reopen()
        if control is not None:
            with contextlib.suppress(OSError):
                self._recreate_control_socket(run, control)

    def _recreate_control_socket(self, run: str, name: str) -> None:
        folder = os.open(run, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if os.path.lexists(f"/proc/self/fd/{folder}/{name}"):
                return
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind(f"/proc/self/fd/{folder}/{name}")  # The real path may be too long for an address.
        finally:
            os.close(folder)
        listener.listen(CONTROL_BACKLOG)
        self._hub.listen(listener)

    def _configure(self, partial: Any) -> None:
        """Apply a change of settings, or nothing of it if a value is invalid."""
        try:
            self.proxy.configure(changed(self.proxy.settings, partial))
            self._ejections.configure()
            self._certificate.configure(self.proxy.settings)
            for admission in self._admissions:
                admission.configure()
        except ValueError as error:
            logger.warning("settings refused: %s", error)

    def _status(self) -> Message:
        proxy = self.proxy
        reasons = self._ejections.reasons
        views = [(each.spec, each.health.healthy, reasons.get(each, "")) for each in proxy.pool.order]
        return messages.status_report(os.getpid(), proxy.settings, views, proxy.in_flight, proxy.draining)

    # Shutdown.

    def _drain(self, grace: float, unused: int = 0) -> None:
        if self.proxy.draining or self._finishing is not None:
            return
        logger.info("draining, at most %g s", grace)
        self._stop_accepting()
        for admission in self._admissions[:unused]:
            admission.end()
        settings = self.proxy.settings
        self._loop.call_later(min(grace, settings.tunnel_grace), self.proxy.end_tunnels)
        self._loop.call_later(min(grace, settings.shutdown_grace + DRAIN_MARGIN), self._end_requests)
        self._loop.call_later(grace, self._drained)
        self._finishing = self._loop.create_task(self._drain_clients())

    async def _drain_clients(self) -> None:
        await asyncio.sleep(0)  # Those that uvloop accepted in this turn are clients in the next one.
        self.proxy.drain()

    def _handshakes(self) -> set[asyncio.Task[Any]]:
        return {task for admission in self._admissions for task in admission.handshakes}

    def _end_requests(self) -> None:
        for task in self._handshakes():
            task.cancel()
        self.proxy.end_requests()

    def _no_client_left(self) -> None:
        """End, unless connections are to become clients: in a TLS handshake, or under the front's faults."""
        serving = self._front.serving() | self._handshakes()
        if not serving:
            self._drained()
        elif self._awaiting is None:
            self._awaiting = self._loop.create_task(self._await(serving))

    async def _await(self, serving: set[asyncio.Task[Any]]) -> None:
        await asyncio.wait(serving)
        self._awaiting = None
        if not self.proxy.clients:  # The last one of them calls again.
            self._no_client_left()

    def _stop_accepting(self) -> None:
        for admission in self._admissions:
            admission.close()

    def _drained(self) -> None:
        if self.ended.done():
            return
        self._stop_accepting()
        for task in (self._finishing, self._awaiting, *self._handshakes()):
            if task is not None:
                task.cancel()
        self._hub.broadcast(messages.drained())
        self._health.stop()
        self._ejections.stop()
        if self._fault_injectors is not None:
            self._fault_injectors.close()
        self._front.close()
        self.proxy.close()
        self._hub.close()
        for listener in self._listeners:
            listener.close()
        logger.info("ended")
        self.ended.set_result(None)


def _log_error(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an unexpected exception: it ends one connection, not the process."""
    logger.error("%s", context.get("message"), exc_info=context.get("exception"))


def _authority(listener: socket.socket) -> bytes:
    address: Any = listener.getsockname()
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"{host}:{address[1]}".encode()


if __name__ == "__main__":
    sys.exit("run `python -m lb`")
