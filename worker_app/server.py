"""The worker's server: waitress's TCP server and WSGI tasks, driven by our event loop.

Who runs what: the loop's thread reads, parses, lets the application answer (it never blocks there), commits what needs no
waiting, and sends; the ledger's thread commits the rest; one thread is the lane of `/worker/stats`, because reading may wait for
the disk; burning processor time has threads of its own. `/healthz` is answered by the loop, so it answers whatever else waits.
Requests that rest (delay, commit) hold memory, not threads.
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

from worker_app import burn
from worker_app.channel import Channel, JsonTask
from worker_app.draws import Faults
from worker_app.eventloop import EventLoop, Timer
from worker_app.exchange import Exchange
from worker_app.ledger import LONGEST_SPACING, SPACING_PER_REQUEST, Entry, Ledger

log = logging.getLogger("worker_app")

HELLO, HEALTH, STATS = "/api/v1/hello", "/healthz", "/worker/stats"
MOST_IN_FLIGHT = 4000  # requests resting at once; beyond it a worker says that it is full
BACKLOG = 4096
ACCEPTS_PER_TURN = 64
CHANNEL_TIMEOUT = 180  # seconds idle; the load balancer closes after 60, and must be the one that does
BURNERS = 4  # threads that use up processor time at once
MAX_BODY = 16 << 20  # no path here takes a body; what is sent all the same must not fill /tmp, which is memory
FULL = b'{"error":"worker is full"}'
LINGER = 0.1  # seconds at a stop in which an idle connection may still bring a request that was on its way


class WorkerServer(TcpWSGIServer):  # type: ignore[misc]
    """Serves `application` on a bound socket until `shut_down` has finished.

    `places`: requests worked on at a time, None for any number. `keeps_requests`: each counted request is kept by its id.
    """

    channel_class = Channel

    def __init__(
        self,
        application: Any,
        sock: socket.socket,
        loop: EventLoop,
        faults: Faults,
        ledger_of: Callable[..., Ledger],
        places: int | None = None,
        keeps_requests: bool = False,
        clock: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    ) -> None:
        self.loop = loop
        self.keeps_requests = keeps_requests
        self.draining = False
        self.to_commit: list[Exchange] = []
        self._commit_due: Timer | None = None
        self._faults = faults
        self._clock = clock
        self._places = places
        self._waiting: deque[Exchange] = deque()
        self._working = 0
        self._exchanges: set[Exchange] = set()
        self._paused = False
        self._stopping = False
        self._deadline = 0.0
        self._burners: Any = None
        self._stats_lane = ThreadedTaskDispatcher()
        self._stats_lane.set_thread_count(1)
        adjustments = Adjustments(
            sockets=[sock],
            channel_timeout=CHANNEL_TIMEOUT,
            connection_limit=_most_connections(),
            backlog=BACKLOG,
            recv_bytes=65536,
            max_request_body_size=MAX_BODY,
            log_socket_errors=False,
            clear_untrusted_proxy_headers=False,
            ident="comet",
        )
        info = (sock.family, sock.type, sock.proto, sock.getsockname())
        super().__init__(application, {}, True, sock, dispatcher=self._stats_lane, adj=adjustments, sockinfo=info, bind_socket=False)
        self._ledger = ledger_of(self._settled)
        loop.after_round = self._after_round
        loop.register(self._fileno, select.EPOLLIN, self._on_connection)
        self._maintain()

    # Connections

    def _on_connection(self, mask: int) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            before = len(self.active_channels)
            self.handle_accept()
            if len(self.active_channels) == before:
                break
        if len(self.active_channels) >= self.adj.connection_limit and not self._paused:
            self._paused = True
            self.loop.modify(self._fileno, 0)
            log.warning("%d connections are open: no more are accepted until some close", len(self.active_channels))

    def channel_closed(self) -> None:
        if self._paused and len(self.active_channels) < self.adj.connection_limit and not self.draining:
            self._paused = False
            self.loop.modify(self._fileno, select.EPOLLIN)

    def client_left(self) -> None:
        if not self._stopping:
            self._ledger.note(disconnected=1)

    def _maintain(self) -> None:
        """Close connections that were idle for too long."""
        cutoff = time.time() - self.adj.channel_timeout
        for channel in list(self.active_channels.values()):
            if not channel.requests and channel.last_activity < cutoff:
                channel.handle_close()
        self.loop.call_at(time.monotonic() + self.adj.cleanup_interval, self._maintain)

    def pull_trigger(self) -> None:
        """waitress wakes its loop by this; ours is told by `after_service`."""

    # Requests

    def add_task(self, channel: Channel) -> None:
        """A channel has a complete request at its head. Called with the channel's lock held: only noted."""
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
            self._stats_lane.add_task(channel)
        elif path == HEALTH and self._faults.current(self._clock()).hang >= 100.0:
            channel.hanging = True
            channel.refresh()
        else:
            channel.serve_now()

    def _admit(self, channel: Channel) -> None:
        if len(self._exchanges) >= MOST_IN_FLIGHT:
            task = JsonTask(channel, channel.requests[0], "503 Service Unavailable", FULL, (("Retry-After", "1"), ("X-Comet-Full", "1")))
            channel.answer(channel.make(task), task)
            return
        exchange = Exchange(self, channel, self._faults.next(self._clock()))
        self._exchanges.add(exchange)
        if self._places is not None and self._working >= self._places:
            self._waiting.append(exchange)
        else:
            self._working += 1
            exchange.begin()

    def call_after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call after a delay. With many in flight the delays end together, on ticks of at most 4 ms, to the nearest: the mean stays."""
        tick = min(len(self._exchanges) * SPACING_PER_REQUEST, LONGEST_SPACING)
        when = time.monotonic() + seconds
        self.loop.call_at(round(when / tick) * tick, call)

    def done(self, exchange: Exchange) -> None:
        """An exchange has ended; the next one takes its place."""
        if exchange not in self._exchanges:
            return
        self._exchanges.discard(exchange)
        if self._waiting:
            self.loop.call_soon(self._waiting.popleft().begin)
        else:
            self._working -= 1

    def burn(self, seconds: float, then: Callable[[], None]) -> None:
        """Use up processor time in a thread, then go on in the loop."""
        if self._burners is None:
            self._burners = ThreadedTaskDispatcher()  # its threads are daemons: a long burn does not hold up the end
            self._burners.set_thread_count(BURNERS)
        self._burners.add_task(burn.Burn(seconds, lambda: self.loop.call_from_thread(then)))

    def note_injection(self, kind: str) -> None:
        self._ledger.note(injected=kind)

    def _after_round(self) -> None:
        if not self.to_commit:
            return
        left = self._ledger.distance(len(self.to_commit), len(self._exchanges))
        if left <= 0.0:
            self._commit()
        elif self._commit_due is None:
            self._commit_due = self.loop.call_at(time.monotonic() + left, self._commit)

    def _commit(self) -> None:
        """Everything made so far, in one transaction."""
        if self._commit_due is not None:
            self._commit_due.cancel()
            self._commit_due = None
        if self.to_commit:
            made, self.to_commit = self.to_commit, []
            self._ledger.settle(made, len(self._exchanges))

    def _settled(self, entries: Sequence[Entry], committed: bool) -> None:
        """Called in the ledger's thread, or in the loop's."""
        if not entries:
            return
        exchanges = cast(Sequence[Exchange], entries)

        def settle() -> None:
            for exchange in exchanges:
                try:
                    exchange.settled(committed)
                except Exception:
                    self.log_exception(exchange.request)
                    exchange.channel.handle_close()
                    self.done(exchange)

        if self.loop.in_loop():
            settle()
        else:
            self.loop.call_from_thread(settle)

    def log_exception(self, request: Any) -> None:
        log.exception("unplanned exception at %s", getattr(request, "path", "a connection"))

    # The end

    def shut_down(self, grace: float) -> None:
        """Stop accepting, let what runs finish for at most `grace` seconds, then stop the loop. A second call cuts at once."""
        if self.draining:
            self._deadline = 0.0
            return
        self.draining = True
        self._deadline = time.monotonic() + grace
        log.info("stopping: %d requests in flight", len(self._exchanges))
        self.loop.unregister(self._fileno)
        self.socket.close()
        self.loop.call_at(time.monotonic() + min(LINGER, grace), self._close_idle)

    def _close_idle(self) -> None:
        """Close what has nothing to do, until all is closed or the grace is over."""
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


def _most_connections() -> int:
    """As many as the descriptors allow, with some left for files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return (wanted if soft == resource.RLIM_INFINITY else soft) - 64
