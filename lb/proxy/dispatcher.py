"""Dispatches exchanges to upstreams: choice, queue, health of upstreams, and counters.

It is the single owner of the state that all connections share. Decisions without I/O are made in
`lb.proxy.upstream_pool`; connections report events here and follow its calls. An exchange counts as in flight from
`begin` to `count_exchange_end`, at an upstream from `_assign` to `unassign`.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from email.utils import formatdate
from math import inf
from time import monotonic, time
from typing import Any, Final

from lb.balance.upstream import KEEP_ALIVE_CHECKS, MAX_IDLE_UNREPEATABLE
from lb.http.error_responses import error_response
from lb.http.trust import Readers
from lb.interface.counters import (
    BYTES_IN,
    BYTES_OUT,
    EDGE_IN_FLIGHT,
    EDGE_INJECTED_RESPONSES,
    EDGE_LATENCY,
    EDGE_US,
    IN_FLIGHT,
    LATENCY_TABLE,
    OWN_ERRORS,
    QUEUED,
    REQUESTS,
    TUNNELS,
    Counters,
    latency_bucket,
)
from lb.interface.settings import DRAINING, FOREVER, Settings, UpstreamSpec
from lb.proxy import connection_end
from lb.proxy.client_connection import NO_WORKER, Downstream
from lb.proxy.connection_end import TUNNEL
from lb.proxy.deadlines import TimerWheel
from lb.proxy.dialer import Dialer
from lb.proxy.retries import Retries
from lb.proxy.tunnel import Tunnel
from lb.proxy.upstream_connection import AWAITING, HIGH_WATER, IDLE, UpstreamConnection
from lb.proxy.upstream_pool import Upstream, UpstreamPool
from lb.system.shortage import is_local_shortage

_TABLE_SIZE: Final = len(LATENCY_TABLE)

SHORTAGE_PAUSE: Final = 0.05
"""Seconds before the next attempt to connect after a shortage of descriptors, buffers or ports."""

SHORTAGE_TIMEOUT: Final = 1.0
"""Seconds after which a shortage fails the attempt."""

UpstreamCallback = Callable[[Upstream], None]
ResponseObserver = Callable[[Upstream, Downstream, int, float], None]
"""Called with upstream, client, status and time (monotonic seconds) of a complete response."""


def _nothing(_: Upstream) -> None:
    pass


class Dispatcher:
    """The shared state of one load balancer."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, settings: Settings, counters: Counters, local_host: bytes
    ) -> None:
        self._loop = loop
        self.settings = settings
        self._copy_timeouts(settings)
        self.slots = counters.slots
        self._own_edge = counters.edge("")
        self.pool = UpstreamPool(settings, counters.edge, monotonic)
        self._local_host = local_host
        self.readers = Readers(settings, local_host)
        self.wheel = TimerWheel(loop, _reach(settings))
        self.clients: set[Downstream] = set()
        self.tunnels: set[Tunnel] = set()
        self.in_flight = 0
        self.draining = False
        # Callbacks of the server: a change of health, a suspect upstream that a check must decide about, the end of a
        # drain, a shortage of descriptors, which closing idle connections relieves.
        self.on_health: UpstreamCallback = _nothing
        self.on_suspect: UpstreamCallback = _nothing
        self.on_upstream_error: UpstreamCallback | None = None  # a failed attempt, while somebody observes
        self.drained: Callable[[], None] = lambda: None
        self.on_shortage: Callable[[], None] = lambda: None
        self.limited_type: type[Any] | None = None
        """A type of transport with the wanted upper limit by default: its connections need no call to set it."""
        # What is called for each response; None while nobody observes them, which is the usual case.
        self._on_response: ResponseObserver | None = None
        self._observers: list[ResponseObserver] = []
        self._queue: deque[Downstream] = deque()
        self.paused = False
        self._limit = self.pool.limit
        self._end_of_pause: asyncio.TimerHandle | None = None
        self._stopped_clocks: dict[Downstream, tuple[float, float]] = {}
        """During a pause, by queued client: the seconds that it may still wait, and since when it has waited."""
        self.retrying = 0
        self.dialer = Dialer(loop)
        self._opening: set[asyncio.Task[None]] = set()
        self._date = (0, b"")
        self.retries = Retries(self)
        self.observe(self._learn, self.pool.observer is not None)

    def _copy_timeouts(self, settings: Settings) -> None:
        """Copy what every exchange reads: an attribute of this class costs less than one of the settings."""
        self.idle_timeout = settings.idle_timeout
        self.request_timeout = settings.request_timeout
        self.body_timeout = settings.body_timeout

    def date(self) -> bytes:
        """Return the current value of Date (RFC 9110 section 6.6.1), generated once a second."""
        now = int(time())
        if self._date[0] != now:
            self._date = (now, formatdate(now, usegmt=True).encode())
        return self._date[1]

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Call back in the next iteration of the loop."""
        self._loop.call_soon(callback)

    def own_response(self, status: int, message: str, *, close: bool, head_only: bool) -> bytes:
        """Return an error response of the load balancer itself, and count it."""
        reply = error_response(status, message, self.settings.name, self.date(), close=close, head_only=head_only)
        self.slots[OWN_ERRORS] += 1
        self.slots[BYTES_OUT] += len(reply)
        return reply

    def limit_writing(self, transport: asyncio.Transport) -> None:
        """Limit what is written to a client and not yet sent; note the type of a transport that does so by default."""
        if transport.get_write_buffer_limits()[1] == HIGH_WATER:
            self.limited_type = type(transport)
        transport.set_write_buffer_limits(high=HIGH_WATER)

    def make_client(self) -> Downstream:
        """Return the protocol of a new client's connection."""
        return Downstream(self)

    # Start of an exchange and choice of its upstream.

    def begin(self, client: Downstream, size: int) -> None:
        """Count a request, whose head has `size` bytes, and send it to an upstream."""
        slots = self.slots
        slots[REQUESTS] += 1
        slots[BYTES_IN] += size
        self.in_flight = slots[IN_FLIGHT] = self.in_flight + 1
        upstream = self.pool.pick((), client)
        if upstream is None:
            self._wait_or_fail(client)
            return
        idle = upstream.idle
        if (
            idle
            and client.body is None
            and (client.head.idempotent or self._has_intact(upstream, client.started, held=True))
        ):
            upstream.in_flight += 1
            client.upstream = upstream
            connection: UpstreamConnection = idle.pop()
            client.connection = connection
            connection.client = client
            connection.state = AWAITING
            if client.payload:
                connection.transport.write(b"".join((client.prefix, client.tail, client.payload)))
            else:
                connection.transport.write(client.prefix + client.tail)
        else:
            self._assign(client, upstream)

    def dispatch(self, client: Downstream) -> None:
        """Choose an upstream for a retry: another one, or the same over a new connection."""
        upstream = self.pool.pick(client.tried, client)
        if upstream is None:
            self._wait_or_fail(client)
        else:
            self._assign(client, upstream)

    def _wait_or_fail(self, client: Downstream) -> None:
        if not self.paused and not self.pool.rotation(client.tried):
            self.retries.give_up(client)
            return
        now = monotonic()
        client.state = connection_end.QUEUED
        client.deadline = now + self.settings.queue_timeout
        if client.tried:
            client.deadline = min(client.deadline, client.due)
        if self.paused:
            self._stop_clock(client, now)
        else:
            self.wheel.schedule_earlier(client, now)
        self._queue.append(client)
        self._count_queue()

    def _assign(self, client: Downstream, upstream: Upstream) -> None:
        upstream.in_flight += 1
        client.upstream = upstream
        now = monotonic()
        idle = upstream.idle
        if idle and not client.fresh and (client.is_retriable() or self._has_intact(upstream, now, held=False)):
            connection = idle.pop()
            connection.client = client
            self._send(connection, client, now)
            return
        client.state = connection_end.CONNECTING
        client.deadline = min(now + self.settings.connect_timeout, client.due)
        self.wheel.schedule_earlier(client, now)
        client.connection = connection = UpstreamConnection(self, upstream, client)
        if not self.settings.upstream_keep_alive:
            connection.retire()
        if upstream.dial_address is not None:
            connection.retire()
        self._open(connection)

    def _has_intact(self, upstream: Upstream, now: float, *, held: bool) -> bool:
        """Say whether the latest idle connection may carry a request that cannot be retried.

        It must have been used a moment ago, and the worker must not have closed it since. A worker that closed a
        connection soon after its use gets such requests on new connections, until it has kept one open. The check costs
        a system call. It is omitted for a worker that has kept its connections so far, if the request is `held`: that
        one is sent to another worker if this one closed the connection before it arrived.
        """
        idle = upstream.idle
        if upstream.closes_early and idle and idle[0].idle_since <= now - MAX_IDLE_UNREPEATABLE:
            upstream.closes_early = False
        while idle and not upstream.closes_early:
            connection: UpstreamConnection = idle[-1]
            if connection.idle_since <= now - MAX_IDLE_UNREPEATABLE:
                return False
            if held and not upstream.keep_alive_checks_left:
                return True
            if not connection.has_input():
                if upstream.keep_alive_checks_left:
                    upstream.keep_alive_checks_left -= 1
                return True
            upstream.keep_alive_checks_left = KEEP_ALIVE_CHECKS
            connection.close()
        return False

    def _open(self, connection: UpstreamConnection) -> None:
        task = self._loop.create_task(self._connect(connection))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _connect(self, connection: UpstreamConnection) -> None:
        began = monotonic()
        try:
            await self.connect(lambda: connection, *connection.upstream.address, lambda: connection.client is not None)
        except (OSError, TimeoutError, ValueError) as error:  # ValueError: an invalid host
            self.retries.connect_failed(connection, error, began)

    async def connect(self, factory: Callable[[], Any], host: str, port: int, wanted: Callable[[], bool]) -> Any:
        """Return the transport of a new connection, whose protocol `factory` returns; raise OSError or TimeoutError.

        A shortage on this side passes when idle connections are closed: while the connection is `wanted`, it is waited
        for, well within the client's deadline.
        """
        timeout = self.settings.connect_timeout
        shortage_deadline = monotonic() + min(SHORTAGE_TIMEOUT, timeout / 2)
        async with asyncio.timeout(timeout + 1.0):
            while True:
                try:
                    return await self.dialer.connect(factory, host, port, timeout)
                except OSError as error:
                    if not is_local_shortage(error) or not wanted() or monotonic() > shortage_deadline:
                        raise
                    self.on_shortage()
                    await asyncio.sleep(SHORTAGE_PAUSE)

    def connected(self, connection: UpstreamConnection) -> None:
        """Send the request for which the connection was opened; without one the connection becomes idle."""
        client = connection.client
        if client is not None and connection.upstream.state == DRAINING:
            # It was chosen before the upstream was drained. Nothing was sent yet, so any other one may serve it.
            connection.close()
            self.unassign(client)
            client.failure = NO_WORKER
            self.dispatch(client)
        elif client is not None:
            self._send(connection, client, monotonic())
        elif connection.upstream.ready and not connection.retired:
            connection.state = IDLE
            connection.become_idle(monotonic())
        else:
            connection.close()

    def _send(self, connection: UpstreamConnection, client: Downstream, now: float) -> None:
        client.connection = connection
        connection.state = AWAITING
        head = client.prefix + client.tail
        if not self.settings.upstream_keep_alive and not client.head.upgrades:
            head = head[:-2] + b"Connection: close\r\n\r\n"
        body = client.body
        if body is None:
            connection.transport.write(head + client.payload)
        else:
            connection.transport.writelines([head, *(body.held or ())])
            client.trim_hold(connection)
        client.request_started(now)

    # End of an exchange.

    def finish_exchange_fast(
        self, connection: UpstreamConnection, client: Downstream, status: int, size: int, body: int
    ) -> None:
        """End an exchange on the fast path, where the whole response was written at once.

        `size` is the number of its bytes, `body` that of the body's. It does what `finish_exchange` does with all its
        calls, in one function.
        """
        now = monotonic()
        slots = self.slots
        slots[BYTES_OUT] += size
        self.in_flight = slots[IN_FLIGHT] = self.in_flight - 1
        upstream = connection.upstream
        edge = upstream.slots
        edge[status // 100] += 1
        micros = int((now - client.started) * 1e6)
        edge[EDGE_LATENCY + (LATENCY_TABLE[micros] if micros < _TABLE_SIZE else latency_bucket(micros))] += 1
        edge[EDGE_US] += micros
        if client.retries > 1:
            self.retrying -= 1
        upstream.in_flight -= 1
        if upstream.ready:
            connection.idle_since = now
            upstream.idle.append(connection)
        else:
            connection.close()
        if self._queue:
            self.serve_queue()
        if client.closing or client.blocked or client.buffer or client.reading_held:
            client.finished(now)
        else:
            client.connection = client.upstream = client.body = None
            client.state = connection_end.IDLE
            client.deadline = now + self.idle_timeout
        if self._on_response is not None:
            self._on_response(upstream, client, status, now)

    def finish_exchange(self, connection: UpstreamConnection, client: Downstream) -> None:
        """End a complete exchange: its connection becomes idle if allowed, the next queued request gets its place."""
        now = monotonic()
        upstream = connection.upstream
        upstream.in_flight -= 1
        if connection.injected:
            connection.injected = False
            upstream.slots[EDGE_INJECTED_RESPONSES] += client.status >= 500
        if connection.state == IDLE:
            if client.blocked:
                connection.transport.resume_reading()
            if upstream.ready:
                connection.become_idle(now)
            else:
                connection.close()
        self.count_exchange_end(client, now)
        if self._queue:
            self.serve_queue()
        client.finished(now)

    def count_exchange_end(self, client: Downstream, now: float) -> None:
        """Count the end of an exchange, with the status in `client.status`."""
        slots = self.slots
        self.in_flight = slots[IN_FLIGHT] = self.in_flight - 1
        micros = int((now - client.started) * 1e6)
        edge = self._own_edge if client.upstream is None else client.upstream.slots
        edge[client.status // 100] += 1
        edge[EDGE_LATENCY + latency_bucket(micros)] += 1
        edge[EDGE_US] += micros
        if client.retries > 1:
            self.retrying -= 1
        if self._on_response is not None and client.upstream is not None:
            self._on_response(client.upstream, client, client.status, now)

    def observe(self, observer: ResponseObserver, wanted: bool) -> None:
        """Call `observer` for each response of an upstream from now on, or no longer."""
        if wanted != (observer in self._observers):
            self._observers = [each for each in self._observers if each != observer] + [observer] * wanted
            self._on_response = self._notify if self._observers else None

    def _notify(self, upstream: Upstream, client: Downstream, status: int, now: float) -> None:
        for observer in self._observers:
            observer(upstream, client, status, now)

    def _learn(self, upstream: Upstream, client: Downstream, status: int, now: float) -> None:
        """Report a latency to the policy, without the wait for a place or for the end of a pause.

        That of a retry or a server error says nothing about the upstream.
        """
        observer = self.pool.observer
        if observer is not None and status < 500 and not client.tried and client.sent_at >= client.started:
            observer(upstream, now - client.sent_at, now)

    def unassign(self, client: Downstream) -> None:
        """Release the client's place at its upstream."""
        if client.upstream is not None:
            client.upstream.in_flight -= 1
        client.upstream = None
        client.connection = None

    def add_tunnel(self, tunnel: Tunnel) -> None:
        """Count a tunnel."""
        self.tunnels.add(tunnel)
        self.slots[TUNNELS] = len(self.tunnels)

    def remove_tunnel(self, tunnel: Tunnel) -> None:
        """Stop counting a tunnel."""
        self.tunnels.discard(tunnel)
        self.slots[TUNNELS] = len(self.tunnels)

    def fail(self, client: Downstream, status: int, message: str, injected: bool = False) -> None:
        """End an exchange with an error response of the load balancer itself; `injected`: because of such a fault."""
        now = monotonic()
        if injected:
            self._own_edge[EDGE_INJECTED_RESPONSES] += 1
        client.fail(status, message)
        self.count_exchange_end(client, now)
        client.finished(now)

    def gauge_edges(self) -> None:
        """Update the gauges of requests in flight per upstream: on demand, since continuous updates cost too much."""
        for upstream in self.pool.order:
            upstream.slots[EDGE_IN_FLIGHT] = upstream.in_flight

    # The queue.

    def serve_queue(self) -> None:
        """Assign free places to queued requests in order; one that waits for another upstream blocks no other."""
        if self.paused:
            return
        queue = self._queue
        passed = 0
        while passed < len(queue):
            client = queue[passed]
            upstream = self.pool.pick(client.tried, client)
            if upstream is None and self.pool.rotation(client.tried):
                if not client.tried and not self.pool.keeps:
                    break  # No upstream has room.
                passed += 1
                continue
            del queue[passed]
            self._count_queue()
            if upstream is None:
                self.retries.give_up(client)
                continue
            if not client.tried:  # The first attempt starts now; later ones share the rest of its time.
                client.due = monotonic() + self.request_timeout
            self._assign(client, upstream)

    def leave_queue(self, client: Downstream) -> None:
        """Remove a client that no longer waits."""
        self._queue.remove(client)
        self._stopped_clocks.pop(client, None)
        self._count_queue()

    def pause(self, until: float) -> None:
        """Let requests wait in the queue until this time, without a limit; a time that has passed ends the pause.

        Without room for a request no upstream is chosen, so the choice itself needs no check for a pause. Requests in
        flight continue.
        """
        now = monotonic()
        if self._end_of_pause is not None:
            self._end_of_pause.cancel()
            self._end_of_pause = None
        if until <= now or self.draining:
            self._resume()
            return
        if until < FOREVER:
            self._end_of_pause = self._loop.call_later(until - now, self._resume)
        if not self.paused:
            self.paused = True
            self.pool.limit = 0.0
            for client in self._queue:
                self._stop_clock(client, now)

    def _resume(self) -> None:
        if not self.paused:
            return
        self.paused = False
        self.pool.limit = self._limit
        now = monotonic()
        for client, (left, since) in self._stopped_clocks.items():
            client.deadline = now + left
            client.due += now - since
            self.wheel.schedule_earlier(client, now)
        self._stopped_clocks.clear()
        self.serve_queue()

    def _stop_clock(self, client: Downstream, now: float) -> None:
        """Stop the time that a queued client may wait."""
        self._stopped_clocks[client] = (client.deadline - now, now)
        client.deadline = inf

    def _count_queue(self) -> None:
        self.slots[QUEUED] = len(self._queue)

    # Changes of upstreams.

    def set_upstreams(self, specs: Iterable[UpstreamSpec], max_in_flight: int | None) -> list[Upstream]:
        """Update the upstreams to the supervisor's list; return the new ones."""
        self._limit = inf if max_in_flight is None else max_in_flight
        self.pool.limit = 0.0 if self.paused else self._limit
        new, out, removed = self.pool.apply(specs)
        for upstream in (*out, *removed):
            self._close_idle(upstream)
        for upstream in removed:
            upstream.slots[EDGE_IN_FLIGHT] = 0
        for upstream in out:
            self.on_health(upstream)
            self._retry_pending(upstream)
        self.serve_queue()
        return new

    def configure(self, settings: Settings) -> None:
        """Apply settings that changed while running."""
        before, self.settings = self.settings, settings
        self._copy_timeouts(settings)
        self.pool.configure(settings)
        self.observe(self._learn, self.pool.observer is not None)
        if not settings.upstream_keep_alive:
            for upstream in self.pool.order:
                self._close_idle(upstream)
        self.wheel.reach = _reach(settings)
        trust, tls = settings.trusted_proxies, settings.tls_certificate is None
        if (trust, tls) == (before.trusted_proxies, before.tls_certificate is None):
            self.readers.configure(settings)
        else:
            self.readers = Readers(settings, self._local_host)
            for client in self.clients:
                client.choose_reader()

    def mark_suspect(self, upstream: Upstream, reason: str) -> None:
        """Mark an upstream suspect; an immediate check decides about it."""
        if self.pool.mark_suspect(upstream):
            upstream.reason = reason
            self.on_suspect(upstream)

    def on_connection_refused(self, upstream: Upstream) -> None:
        """Take an upstream that refused a connection out of rotation at once, even the last one."""
        if upstream.health.healthy:
            upstream.health.set(False)
            self._health_changed(upstream, "connection refused")

    def checked(self, upstream: Upstream, passed: bool, reason: str) -> None:
        """Apply the result of an active check; for a suspect one failure decides, unless it is the last in rotation."""
        decisive = upstream.suspect and len(self.pool.rotation()) > 1
        self.pool.clear_suspect(upstream)
        if reason == "connection refused":
            self.on_connection_refused(upstream)
        elif upstream.health.observe(passed, decisive=decisive):
            self._health_changed(upstream, reason)
        self.serve_queue()

    def fail_over_pending(self, upstream: Upstream) -> None:
        """Retry the pending requests of an unreachable upstream on others."""
        self._retry_pending(upstream)
        self.serve_queue()

    def _health_changed(self, upstream: Upstream, reason: str) -> None:
        upstream.reason = reason
        self.pool.clear_suspect(upstream)
        self.pool.update_ready(upstream)
        self.pool.update_panic()
        self.on_health(upstream)
        if not upstream.health.healthy:
            self._close_idle(upstream)
            self._retry_pending(upstream)
            self.serve_queue()

    def eject(self, upstream: Upstream, ejected: bool) -> None:
        """Take an upstream out of rotation for its answers, or readmit it; requests in flight continue."""
        upstream.ejected = ejected
        self.pool.update_ready(upstream)
        self.pool.update_panic()
        if not upstream.ready:
            self._close_idle(upstream)
        self.serve_queue()

    def _close_idle(self, upstream: Upstream) -> None:
        for connection in list(upstream.idle):
            connection.close()

    def _retry_pending(self, upstream: Upstream) -> None:
        """Retry requests that wait for this upstream's first byte, if another is in rotation.

        Those that may not be retried still wait: the upstream may yet answer them.
        """
        for connection in list(upstream.connections):
            client = connection.client
            if client is None or connection.state != AWAITING:
                continue
            if self.retries.may_retry(client) and self.pool.rotation((*client.tried, upstream)):
                connection.close()
                self.unassign(client)
                client.tried = (*client.tried, upstream)
                client.failure = (502, "the worker went away", False)
                self.retries.retry(client)

    def set_dial_address(self, upstream: Upstream, address: tuple[str, int] | None) -> None:
        """Connect to this upstream through its fault injector from now on, or (None) directly."""
        upstream.dial_address = address
        self._close_idle(upstream)
        for connection in list(upstream.connections):
            connection.retire()  # It bypasses the fault injector, or uses one that is closed.

    def sweep(self) -> None:
        """Close upstream connections that have been idle so long that the worker may be about to close them."""
        oldest = monotonic() - self.settings.upstream_idle_timeout
        for upstream in self.pool.order:
            for connection in [each for each in upstream.idle if each.idle_since < oldest]:
                connection.close()

    # Draining.

    def drain(self) -> None:
        """Close each connection after its next response; a pause ends here, as this process cannot keep requests."""
        self.draining = True
        self.pause(0.0)
        for client in self.clients:
            client.fast_path = False
            client.closing = client.closing or not client.begun
        if not self.clients:
            self.drained()

    def end_requests(self) -> None:
        """Abort all requests; tunnels continue."""
        for client in list(self.clients):
            if client.state != TUNNEL:
                client.transport.abort()

    def end_tunnels(self) -> None:
        """Abort all tunnels."""
        for tunnel in list(self.tunnels):
            tunnel.abort()

    def close(self) -> None:
        """Close all connections at once."""
        self.end_tunnels()
        for client in list(self.clients):
            client.abort()
        for upstream in self.pool.order:
            for connection in list(upstream.connections):
                connection.close()
        for task in list(self._opening):
            task.cancel()
        self.wheel.close()


def _reach(settings: Settings) -> float:
    return min(settings.head_timeout, settings.idle_timeout, settings.request_timeout, settings.body_timeout / 2)
