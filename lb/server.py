"""The process: takes its sockets, serves, obeys its control peers and signals, drains, exits.

`run` is what a forkserver child executes; importing this module has no side effects and brings in all that serving needs, so
that from fork to accepting lie a few milliseconds. `serve` is the same without what makes a process a daemon.
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
from typing import Any, Final, cast

from lb import log, messages
from lb.access import LoggedDownstream, LoggedProxy
from lb.compiled import in_use
from lb.control import ControlHub, Peer
from lb.counters import Counters
from lb.downstream import Downstream
from lb.first import FirstAnswers
from lb.gate import Gatekeeper
from lb.health import HealthChecker
from lb.messages import Message
from lb.proxy import Proxy
from lb.settings import DRAINING, UP, Settings, UpstreamSpec, changed
from lb.upstream import Upstream

try:
    import uvloop
except ImportError:  # pragma: no cover - plain asyncio serves too, slower
    uvloop = None  # type: ignore[assignment]
try:
    from setproctitle import setproctitle
except ImportError:  # pragma: no cover
    setproctitle = None  # type: ignore[assignment]

logger = logging.getLogger("lb")

BACKLOG: Final = 4096  # create_server calls listen() again: without this the held socket would shrink to 100
SWEEP_SHARE: Final = 4
M_TRIM_THRESHOLD: Final = (-1, 8 << 20)  # mallopt(3): parameter and value
M_MMAP_THRESHOLD: Final = (-3, 1 << 20)


def run(
    settings: Settings,
    listener: socket.socket,
    upstreams: tuple[UpstreamSpec, ...],
    control: socket.socket | None = None,
    control_listener: socket.socket | None = None,
    counters_path: str | None = None,
    log_path: str | None = None,
) -> None:
    """Be a load balancer process until told to end. Exits 0 after a drain."""
    with contextlib.suppress(PermissionError):  # Already a session leader.
        os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    entitle(f"comet: {settings.name} :{listener.getsockname()[1]}")
    log.start(log_path)
    serve(settings, listener, upstreams, control, control_listener, counters_path)


def serve(
    settings: Settings,
    listener: socket.socket,
    upstreams: tuple[UpstreamSpec, ...],
    control: socket.socket | None = None,
    control_listener: socket.socket | None = None,
    counters_path: str | None = None,
    signals: tuple[signal.Signals, ...] = (signal.SIGTERM,),
) -> None:
    """Serve in this process; `signals` begin a drain, a second one ends at once."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    _keep_heap()
    loop = new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        server = Server(loop, settings, listener, Counters(counters_path))
        for number in signals:
            loop.add_signal_handler(number, server.on_signal)
        loop.run_until_complete(server.start(upstreams, control, control_listener))
        # What exists now stays: the collector need not look at it again, and finds little new, as connections break their cycles.
        gc.freeze()
        gc.set_threshold(20000, 20, 50)
        loop.run_until_complete(server.ended)
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def entitle(title: str) -> None:
    """Be listed under this title, where that can be set."""
    if setproctitle is not None:
        setproctitle(title)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return a loop of the fastest kind there is."""
    return uvloop.new_event_loop() if uvloop is not None else asyncio.new_event_loop()


def _keep_heap() -> None:
    """Let the C library keep what was freed (up to 8 MiB), where it can be told so.

    A stream takes and gives back a buffer of 256 KiB for each read; by default each of them means a change of the heap's end or a
    mapping of its own, pages zeroed by the kernel included, which took up to a third of a stream's CPU time.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            mallopt(parameter, value)


class Server:
    """Ties proxy, health checks and control together for the life of the process."""

    def __init__(self, loop: asyncio.AbstractEventLoop, settings: Settings, listener: socket.socket, counters: Counters) -> None:
        self._loop = loop
        loop.set_exception_handler(_log_error)
        self._listener = listener
        self._gates: Gatekeeper | None = None
        self._listening = 0.0
        self._server: asyncio.Server | None = None
        self.port = listener.getsockname()[1]
        self.ended: asyncio.Future[None] = loop.create_future()
        self.proxy, self._accept = _data_path(loop, settings, counters, _authority(listener))
        proxy = self.proxy
        self._health = HealthChecker(proxy)
        self._first = FirstAnswers(proxy, lambda upstream, at: self._hub.tell(messages.first(upstream, at)))
        self._hub = ControlHub(loop, self._greet, self._handle)
        proxy.on_health = self._tell_health
        proxy.on_doubt = self._health.check_now
        proxy.drained = self._drained

    async def start(
        self, upstreams: tuple[UpstreamSpec, ...], control: socket.socket | None, control_listener: socket.socket | None
    ) -> None:
        """Accept, then say so."""
        settings = self.proxy.settings
        self.proxy.set_upstreams(upstreams, settings.max_in_flight)
        # The loop gets a duplicate: the original can still be handed to a successor's supervisor.
        self._server = await self._loop.create_server(lambda: cast(Any, self._accept()), sock=self._listener.dup(), backlog=BACKLOG)
        self._listening = time.monotonic()
        self._first.expect(None)
        self._health.follow()
        self._gates = Gatekeeper(self._loop, self.proxy, settings.faults) if settings.faults is not None else None
        self._sweep()
        if control is not None:
            self._hub.add(control)
        if control_listener is not None:
            self._hub.listen(control_listener)
        logger.info("%s accepts on port %d, pid %d%s", settings.name, self.port, os.getpid(), "" if in_use() else ", interpreted")

    def on_signal(self) -> None:
        """Drain; asked a second time, end at once."""
        if self.proxy.draining:
            self._drained()
        else:
            self._drain(self.proxy.settings.shutdown_grace)

    def _sweep(self) -> None:
        self.proxy.sweep()
        self._loop.call_later(self.proxy.settings.upstream_idle_timeout / SWEEP_SHARE, self._sweep)

    # Control.

    def _greet(self, peer: Peer) -> None:
        peer.send(messages.ready(self.proxy.settings.name, os.getpid(), self.port, self._listening))
        for upstream in self.proxy.pool.order:
            peer.send(messages.health(upstream.name, upstream.judge.healthy, upstream.reason))

    def _tell_health(self, upstream: Upstream) -> None:
        if upstream not in self.proxy.pool.order:
            return  # By its name the supervisor knows another one now.
        healthy = upstream.judge.healthy
        logger.info("%s is %s: %s", upstream.name, "healthy" if healthy else "unhealthy", upstream.reason)
        self._hub.tell(messages.health(upstream.name, healthy, upstream.reason))

    def _handle(self, peer: Peer, message: Message) -> None:
        match message["type"]:
            case "upstreams":
                specs, limit = messages.read_upstreams(message)
                before = {upstream for upstream in self.proxy.pool.order if upstream.state == UP}
                self.proxy.set_upstreams(specs, limit)
                for upstream in self.proxy.pool.order:
                    if upstream.state == UP and upstream not in before:
                        self._first.expect(upstream)
                self._health.follow()
            case "settings":
                self._configure(message["settings"])
            case "doubt":
                for upstream in self.proxy.pool.order:
                    if upstream.name == message["upstream"]:
                        self.proxy.doubt(upstream, str(message["reason"]))
            case "drain":
                self._drain(float(message["grace"]))
            case "ping":
                self.proxy.gauge_edges()
                busy = {each.name: each.in_flight for each in self.proxy.pool.order if each.state == DRAINING and each.in_flight}
                peer.send(messages.pong(message.get("id"), busy))
            case "listener":
                peer.send(messages.listener(), [self._listener.fileno()])
            case "status":
                peer.send(self._status())

    def _configure(self, partial: Any) -> None:
        """Change what may change live, all of it or, at a bad value, nothing."""
        try:
            self.proxy.configure(changed(self.proxy.settings, partial))
        except ValueError as error:
            logger.warning("settings refused: %s", error)

    def _status(self) -> Message:
        proxy = self.proxy
        views: list[tuple[UpstreamSpec, bool]] = [(each.spec, each.judge.healthy) for each in proxy.pool.order]
        return messages.status_report(os.getpid(), proxy.settings, views, proxy.in_flight, proxy.draining)

    # The end.

    def _drain(self, grace: float) -> None:
        if self.proxy.draining:
            return
        if not 0 <= grace < float("inf"):
            raise ValueError("a drain needs an end")
        logger.info("draining, at most %g s", grace)
        if self._server is not None:
            self._server.close()
        self._loop.call_later(grace, self._drained)
        self.proxy.drain()

    def _drained(self) -> None:
        if self.ended.done():
            return
        if self._server is not None:
            self._server.close()
        self._hub.tell(messages.drained())
        self._health.stop()
        if self._gates is not None:
            self._gates.close()
        self.proxy.close()
        self._hub.close()
        self._listener.close()
        logger.info("ended")
        self.ended.set_result(None)


def _log_error(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A defect of ours ends one connection, not the process: what it was goes to the log."""
    logger.error("%s", context.get("message"), exc_info=context.get("exception"))


def _data_path(
    loop: asyncio.AbstractEventLoop, settings: Settings, counters: Counters, authority: bytes
) -> tuple[Proxy, Callable[[], Downstream]]:
    """Return the proxy and what makes a client connection of it."""
    if settings.access_log is None:
        proxy = Proxy(loop, settings, counters, authority)
        return proxy, lambda: Downstream(proxy)
    logged = LoggedProxy(loop, settings, counters, authority)
    return logged, lambda: LoggedDownstream(logged)


def _authority(listener: socket.socket) -> bytes:
    address: Any = listener.getsockname()
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"{host}:{address[1]}".encode()


if __name__ == "__main__":
    sys.exit("run `python -m lb`")
