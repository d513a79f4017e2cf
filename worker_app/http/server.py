"""Serves HTTP: waitress's TCP server and WSGI tasks, driven by Comet's event loop.

The loop's thread reads, parses, runs the application (which never blocks there), commits where no waiting is needed,
and sends. The writer thread of the commit queue commits the rest. `/worker/stats` has one thread, because reading may
wait for the disk. Faults that use processor time have their own threads. The loop serves `/healthz`, so it responds
whatever else waits. A request that waits (delay, commit) holds memory, not a thread.
"""

from __future__ import annotations

import logging
import resource
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

from waitress.adjustments import Adjustments  # type: ignore[import-untyped]
from waitress.server import TcpWSGIServer  # type: ignore[import-untyped]
from waitress.task import ThreadedTaskDispatcher  # type: ignore[import-untyped]

from worker_app.common.boot import boot_time
from worker_app.faults import resource_use
from worker_app.faults.sampling import FaultSampler
from worker_app.http.connection import Channel, JsonTask
from worker_app.http.event_loop import EventLoop, Timer
from worker_app.http.exchange import Exchange
from worker_app.stats.commit_queue import MAX_SPACING, SPACING_PER_REQUEST, CommitQueue, Entry

log = logging.getLogger("worker_app")

HELLO, HEALTH, STATS = "/api/v1/hello", "/healthz", "/worker/stats"
MAX_IN_FLIGHT = 4000
"""Requests in flight above which a worker responds that it is full."""

BACKLOG = 4096
ACCEPTS_PER_ITERATION = 64

CHANNEL_TIMEOUT = 180
"""Seconds after which an idle connection is closed; the load balancer closes first, after 60 s."""

CPU_FAULT_THREADS = 4

MAX_BODY = 16 << 20
"""Bytes of a request body. No path here takes one; a body that is sent anyway must not fill /tmp, which is memory."""

SPARE_DESCRIPTORS = 64
"""For files and threads: the rest is for connections."""

FEW_CONNECTIONS = 192

FULL = b'{"error":"worker is full"}'

IDLE_GRACE = 0.1
"""Seconds after a stop in which a request that is already on its way may arrive on an idle connection."""


class WorkerServer(TcpWSGIServer):  # type: ignore[misc]
    """Serves `application` on a bound socket until `shut_down` has finished.

    `max_active` limits the requests served at a time (None: no limit); `keep_request_ids` stores the id of each counted
    one.
    """

    channel_class = Channel

    def __init__(
        self,
        application: Any,
        sock: socket.socket,
        loop: EventLoop,
        faults: FaultSampler,
        make_commit_queue: Callable[..., CommitQueue],
        max_active: int | None = None,
        keep_request_ids: bool = False,
    ) -> None:
        self.loop = loop
        self.keep_request_ids = keep_request_ids
        self.draining = False
        self.to_commit: list[Exchange] = []
        self._commit_due: Timer | None = None
        self._faults = faults
        self._max_active = max_active
        self._waiting: deque[Exchange] = deque()
        self._active = 0
        self._exchanges: set[Exchange] = set()
        self._paused = False
        self._stopping = False
        self._deadline = 0.0
        self._cpu_dispatcher: Any = None
        self._stats_dispatcher = ThreadedTaskDispatcher()
        self._stats_dispatcher.set_thread_count(1)
        adjustments = Adjustments(
            sockets=[sock],
            channel_timeout=CHANNEL_TIMEOUT,
            connection_limit=_connection_limit(),
            backlog=BACKLOG,
            recv_bytes=65536,
            max_request_body_size=MAX_BODY,
            log_socket_errors=False,
            clear_untrusted_proxy_headers=False,
            ident="comet",
        )
        info = (sock.family, sock.type, sock.proto, sock.getsockname())
        super().__init__(
            application,
            {},
            True,
            sock,
            dispatcher=self._stats_dispatcher,
            adj=adjustments,
            sockinfo=info,
            bind_socket=False,
        )
        self._commit_queue = make_commit_queue(self._on_committed)
        loop.after_iteration = self._after_iteration
        loop.register(self._fileno, select.EPOLLIN, self._on_connection)
        self._maintain()

    # Connections

    def _on_connection(self, mask: int) -> None:
        for _ in range(ACCEPTS_PER_ITERATION):
            if not self._accepts_one():
                break
        if len(self.active_channels) >= self.adj.connection_limit and not self._paused:
            self._paused = True
            self.loop.modify(self._fileno, 0)
            log.warning("%d connections are open: no more are accepted until some close", len(self.active_channels))

    def _accepts_one(self) -> bool:
        before = len(self.active_channels)
        self.handle_accept()
        return len(self.active_channels) != before

    def channel_closed(self) -> None:
        if self._paused and len(self.active_channels) < self.adj.connection_limit and not self.draining:
            self._paused = False
            self.loop.modify(self._fileno, select.EPOLLIN)

    def client_disconnected(self) -> None:
        if not self._stopping:
            self._commit_queue.note(disconnected=1)

    def _maintain(self) -> None:
        """Close connections that have been idle for too long."""
        cutoff = time.time() - self.adj.channel_timeout
        for channel in list(self.active_channels.values()):
            if not channel.requests and channel.last_activity < cutoff:
                channel.handle_close()
        self.loop.call_at(time.monotonic() + self.adj.cleanup_interval, self._maintain)

    def pull_trigger(self) -> None:
        """Do nothing: waitress wakes its own loop by this, here `Channel.after_service` does."""

    # Requests

    def add_task(self, channel: Channel) -> None:
        """Schedule the first request of a channel, which is complete; called with the channel's lock held."""
        if self.loop.in_loop():
            self.loop.call_soon(lambda: self._dispatch(channel))
        else:
            self.loop.call_from_thread(lambda: self._dispatch(channel))

    def _dispatch(self, channel: Channel) -> None:
        if not channel.connected or not channel.requests:
            return
        request = channel.requests[0]
        path = "" if request.error else "/" + request.path.lstrip("/")
        if path == HELLO and request.command in ("GET", "HEAD"):
            self._admit(channel)
        elif path == STATS and request.command in ("GET", "HEAD"):
            self._stats_dispatcher.add_task(channel)
        elif path == HEALTH and self._faults.current(boot_time()).hang >= 100.0:
            channel.hanging = True
            channel.refresh()
        else:
            channel.serve_inline()

    def _admit(self, channel: Channel) -> None:
        if len(self._exchanges) >= MAX_IN_FLIGHT:
            task = JsonTask(
                channel,
                channel.requests[0],
                "503 Service Unavailable",
                FULL,
                (("Retry-After", "1"), ("X-Comet-Full", "1")),
            )
            channel.respond(channel.run_task(task), task)
            return
        exchange = Exchange(self, channel, self._faults.next(boot_time()))
        self._exchanges.add(exchange)
        if self._max_active is not None and self._active >= self._max_active:
            self._waiting.append(exchange)
        else:
            self._active += 1
            exchange.start()

    def call_after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call after a delay.

        With many requests in flight delays end together: each is rounded to the nearest tick of at most 4 ms, so their
        mean does not change.
        """
        tick = min(len(self._exchanges) * SPACING_PER_REQUEST, MAX_SPACING)
        when = time.monotonic() + seconds
        self.loop.call_at(round(when / tick) * tick, call)

    def done(self, exchange: Exchange) -> None:
        """End an exchange; the next waiting one takes its place."""
        if exchange not in self._exchanges:
            return
        self._exchanges.discard(exchange)
        if self._waiting:
            self.loop.call_soon(self._waiting.popleft().start)
        else:
            self._active -= 1

    def use_cpu(self, seconds: float, then: Callable[[], None]) -> None:
        """Use processor time in a thread, then continue in the loop."""
        if self._cpu_dispatcher is None:
            self._cpu_dispatcher = ThreadedTaskDispatcher()  # daemon threads: they do not delay the exit
            self._cpu_dispatcher.set_thread_count(CPU_FAULT_THREADS)
        self._cpu_dispatcher.add_task(resource_use.CpuTask(seconds, lambda: self.loop.call_from_thread(then)))

    def note_injection(self, kind: str) -> None:
        self._commit_queue.note(injected=kind)

    def _after_iteration(self) -> None:
        if not self.to_commit:
            return
        left = self._commit_queue.batching_delay(len(self.to_commit), len(self._exchanges))
        if left <= 0.0:
            self._commit()
        elif self._commit_due is None:
            self._commit_due = self.loop.call_at(time.monotonic() + left, self._commit)

    def _commit(self) -> None:
        """Commit all responses that are ready in one transaction."""
        if self._commit_due is not None:
            self._commit_due.cancel()
            self._commit_due = None
        if self.to_commit:
            ready, self.to_commit = self.to_commit, []
            self._commit_queue.commit(ready, len(self._exchanges))

    def _on_committed(self, entries: Sequence[Entry], committed: bool) -> None:
        """Continue the exchanges in the loop; called in the writer thread or in the loop's."""
        if not entries:
            return
        exchanges = cast(Sequence[Exchange], entries)

        def notify() -> None:
            for exchange in exchanges:
                try:
                    exchange.on_committed(committed)
                except Exception:
                    self.log_exception(exchange.request)
                    exchange.channel.handle_close()
                    self.done(exchange)

        if self.loop.in_loop():
            notify()
        else:
            self.loop.call_from_thread(notify)

    def log_exception(self, request: Any) -> None:
        log.exception("unplanned exception at %s", getattr(request, "path", "a connection"))  # noqa: LOG004 called by handlers

    # Shutdown

    def shut_down(self, grace: float) -> None:
        """Stop accepting, wait up to `grace` seconds for requests in flight, then stop; a second call ends the wait."""
        if self.draining:
            self._deadline = 0.0
            return
        self.draining = True
        self._deadline = time.monotonic() + grace
        log.info("stopping: %d requests in flight", len(self._exchanges))
        # Who waits in the backlog has connected, and would be reset.
        while len(self.active_channels) < self.adj.connection_limit and self._accepts_one():
            pass
        self.loop.unregister(self._fileno)
        self.socket.close()
        self.loop.call_at(time.monotonic() + min(IDLE_GRACE, grace), self._close_idle)

    def _close_idle(self) -> None:
        """Close idle connections, until all are closed or the grace period is over."""
        for channel in list(self.active_channels.values()):
            if channel.hanging or not (channel.requests or channel.total_outbufs_len or channel.request is not None):
                channel.handle_close()
        if not self.active_channels or time.monotonic() >= self._deadline:
            self._stopping = True
            for channel in list(self.active_channels.values()):
                channel.handle_close()
            self.loop.stop()
        else:
            self.loop.call_at(time.monotonic() + 0.02, self._close_idle)


def _connection_limit() -> int:
    """Raise the limit of descriptors, and return the number of connections that leaves some descriptors for files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    most = (wanted if soft == resource.RLIM_INFINITY else soft) - SPARE_DESCRIPTORS
    if most < FEW_CONNECTIONS:
        log.warning(
            "%d open files are allowed (ulimit -n), which is room for %d connections; raise the limit",
            soft,
            max(most, 1),
        )
    return most
