"""Exchanges find their upstream here: the pick, the queue, repeats, what failures mean, and the accounts.

The one owner of what all connections share. Decisions that need no I/O are taken in `lb.upstream`; connections report here and
do as told. An exchange is counted in flight from `begin` to `_leave`, at an upstream from `_assign` to `_unassign`.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from email.utils import formatdate
from math import inf
from time import monotonic, time
from typing import Any, Final, cast

from lb import downstream
from lb.connection import AWAITING, IDLE, UpstreamConnection
from lb.counters import (
    BYTES_IN,
    BYTES_OUT,
    EDGE_IN_FLIGHT,
    EDGE_LATENCY,
    EDGE_US,
    IN_FLIGHT,
    LATENCY_TABLE,
    OWN_ERRORS,
    QUEUED,
    REQUESTS,
    Counters,
    latency_bucket,
)
from lb.downstream import Downstream
from lb.recovery import Recovery
from lb.replies import error_reply
from lb.request import RequestReader
from lb.settings import Settings, UpstreamSpec
from lb.upstream import Upstream, UpstreamPool
from lb.wheel import Wheel

_TABLED: Final = len(LATENCY_TABLE)
FRESH_ENOUGH: Final = 1.0  # seconds idle up to which a connection may carry what must not be sent twice

OfUpstream = Callable[[Upstream], None]


def _nothing(_: Upstream) -> None:
    pass


class Proxy:
    """The state of one load balancer."""

    def __init__(self, loop: asyncio.AbstractEventLoop, settings: Settings, counters: Counters, local_host: bytes) -> None:
        self._loop = loop
        self.settings = settings
        self.slots = counters.slots
        self._own = counters.edge("")
        self.pool = UpstreamPool(settings, counters.edge)
        self.requests = RequestReader(settings.max_request_line, settings.max_fields, local_host, max_head=settings.max_head)
        self.wheel = Wheel(loop, _reach(settings))
        self.clients: set[Downstream] = set()
        self.in_flight = 0
        self.draining = False
        # Hooks of the server: an edge of health, a doubt that a check must decide, an answer (while one is waited for), the end of a drain.
        self.on_health: OfUpstream = _nothing
        self.on_doubt: OfUpstream = _nothing
        self.on_answer: OfUpstream | None = None
        self.drained: Callable[[], None] = lambda: None
        self._queue: deque[Downstream] = deque()
        self.repeating = 0
        self._opening: set[asyncio.Task[None]] = set()
        self._date = (0, b"")
        self.recovery = Recovery(self)

    def date(self) -> bytes:
        """Return the present Date field value (RFC 9110 section 6.6.1), made once a second."""
        now = int(time())
        if self._date[0] != now:
            self._date = (now, formatdate(now, usegmt=True).encode())
        return self._date[1]

    def own_answer(self, status: int, message: str, *, close: bool, head_only: bool) -> bytes:
        """Return an error answer of our own, counted."""
        reply = error_reply(status, message, self.settings.name, self.date(), close=close, head_only=head_only)
        self.slots[OWN_ERRORS] += 1
        self.slots[BYTES_OUT] += len(reply)
        return reply

    # An exchange begins and finds its upstream.

    def begin(self, client: Downstream, size: int) -> None:
        """Count a request, whose head has `size` bytes, and send it on its way."""
        slots = self.slots
        slots[REQUESTS] += 1
        slots[BYTES_IN] += size
        self.in_flight = slots[IN_FLIGHT] = self.in_flight + 1
        upstream = self.pool.pick()
        if upstream is None:
            self._wait_or_fail(client)
            return
        idle = upstream.idle
        if idle and client.body is None and (client.head.idempotent or idle[-1].idle_since > client.started - FRESH_ENOUGH):
            upstream.in_flight += 1
            client.upstream = upstream
            client.connection = connection = idle.pop()
            connection.client = client
            connection.state = AWAITING
            if client.payload:
                connection.transport.write(b"".join((client.prefix, client.tail, client.payload)))
            else:
                connection.transport.write(client.prefix + client.tail)
        else:
            self._assign(client, upstream)

    def dispatch(self, client: Downstream) -> None:
        """Find an upstream for a repeat: another one, or the same by a connection that was not in use before."""
        upstream = self.pool.pick(client.tried)
        if upstream is None:
            self._wait_or_fail(client)
        else:
            self._assign(client, upstream)

    def _wait_or_fail(self, client: Downstream) -> None:
        if not self.pool.rotation(client.tried):
            self.fail(client, *client.failure)
            return
        now = monotonic()
        client.state = downstream.QUEUED
        client.deadline = now + self.settings.queue_timeout
        if client.tried:
            client.deadline = min(client.deadline, client.due)
        self.wheel.hasten(client, now)
        self._queue.append(client)
        self._count_queue()

    def _assign(self, client: Downstream, upstream: Upstream) -> None:
        upstream.in_flight += 1
        client.upstream = upstream
        now = monotonic()
        idle = upstream.idle
        if idle and not client.fresh and (client.head.idempotent or idle[-1].idle_since > now - FRESH_ENOUGH):
            connection = idle.pop()
            connection.client = client
            self._send(connection, client, now)
            return
        client.state = downstream.CONNECTING
        client.deadline = min(now + self.settings.connect_timeout, client.due)
        self.wheel.hasten(client, now)
        client.connection = connection = UpstreamConnection(self, upstream, client)
        self._open(connection)

    def _open(self, connection: UpstreamConnection) -> None:
        task = self._loop.create_task(self._connect(connection))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _connect(self, connection: UpstreamConnection) -> None:
        upstream = connection.upstream
        try:
            async with asyncio.timeout(self.settings.connect_timeout + 1.0):
                await self._loop.create_connection(lambda: cast(Any, connection), *upstream.address)
        except (OSError, TimeoutError, ValueError) as error:  # ValueError: a host that cannot be one
            self.recovery.not_connected(connection, error)

    def connected(self, connection: UpstreamConnection) -> None:
        """Send the request that a new connection was opened for; without one the connection waits for another."""
        client = connection.client
        if client is not None:
            self._send(connection, client, monotonic())
        elif connection.upstream.ready:
            connection.state = IDLE
            connection.rest(monotonic())
        else:
            connection.close()

    def _send(self, connection: UpstreamConnection, client: Downstream, now: float) -> None:
        client.connection = connection
        connection.state = AWAITING
        head = client.prefix + client.tail
        body = client.body
        if body is None:
            connection.transport.write(head + client.payload)
        else:
            connection.transport.writelines([head, *(body.held or ())])
            if body.overfull or not client.head.idempotent:
                body.forget()
        client.request_started(now)

    # An exchange ends.

    def answered(self, connection: UpstreamConnection, client: Downstream, status: int, size: int) -> None:
        """The common path's end, the whole response was written in one go: `ended` with all that it calls in one function."""
        now = monotonic()
        slots = self.slots
        slots[BYTES_OUT] += size
        self.in_flight = slots[IN_FLIGHT] = self.in_flight - 1
        upstream = connection.upstream
        edge = upstream.slots
        edge[status // 100] += 1
        micros = int((now - client.started) * 1e6)
        edge[EDGE_LATENCY + (LATENCY_TABLE[micros] if micros < _TABLED else latency_bucket(micros))] += 1
        edge[EDGE_US] += micros
        if client.repeats > 1:
            self.repeating -= 1
        upstream.in_flight -= 1
        if upstream.ready:
            connection.idle_since = now
            upstream.idle.append(connection)
        else:
            connection.close()
        if self._queue:
            self.pump()
        if client.closing or client.blocked or client.buffer or client.reading_held:
            client.finished(now)
        else:
            client.connection = client.upstream = client.body = None
            client.state = downstream.IDLE
            client.deadline = now + self.settings.idle_timeout
        if self.on_answer is not None:
            self.on_answer(upstream)

    def ended(self, connection: UpstreamConnection, client: Downstream) -> None:
        """Settle a complete exchange: its connection rests if it may, its slot goes to whoever waits."""
        now = monotonic()
        upstream = connection.upstream
        upstream.in_flight -= 1
        if connection.state == IDLE:
            if client.blocked:
                connection.transport.resume_reading()
            if upstream.ready:
                connection.rest(now)
            else:
                connection.close()
        self.leave(client, now)
        if self._queue:
            self.pump()
        client.finished(now)

    def leave(self, client: Downstream, now: float) -> None:
        """Count an exchange as over, with the status that `client.status` holds."""
        slots = self.slots
        self.in_flight = slots[IN_FLIGHT] = self.in_flight - 1
        micros = int((now - client.started) * 1e6)
        edge = self._own if client.upstream is None else client.upstream.slots
        edge[client.status // 100] += 1
        edge[EDGE_LATENCY + latency_bucket(micros)] += 1
        edge[EDGE_US] += micros
        if client.repeats > 1:
            self.repeating -= 1
        if self.on_answer is not None and client.upstream is not None:
            self.on_answer(client.upstream)

    def unassign(self, client: Downstream) -> None:
        """Give back the client's place at its upstream."""
        if client.upstream is not None:
            client.upstream.in_flight -= 1
        client.upstream = None
        client.connection = None

    def fail(self, client: Downstream, status: int, message: str) -> None:
        """End an exchange with an error answer of our own."""
        now = monotonic()
        client.fail(status, message)
        self.leave(client, now)
        client.finished(now)

    def gauge_edges(self) -> None:
        """Show how many requests are in flight on each upstream: on demand, as it would cost too much to keep it current."""
        for upstream in self.pool.order:
            upstream.slots[EDGE_IN_FLIGHT] = upstream.in_flight

    # The queue.

    def pump(self) -> None:
        """Give places that became free to those who wait, in turn. Who waits to be repeated elsewhere holds up nobody behind."""
        queue = self._queue
        passed = 0
        while passed < len(queue):
            client = queue[passed]
            upstream = self.pool.pick(client.tried)
            if upstream is None and self.pool.rotation(client.tried):
                if not client.tried:
                    break  # Nobody has room.
                passed += 1
                continue
            del queue[passed]
            self._count_queue()
            if upstream is None:
                self.fail(client, *client.failure)
                continue
            if not client.tried:  # The first attempt begins now; later ones share what is left of its time.
                client.due = monotonic() + self.settings.request_timeout
            self._assign(client, upstream)

    def leave_queue(self, client: Downstream) -> None:
        """Take out a client that waits no longer."""
        self._queue.remove(client)
        self._count_queue()

    def _count_queue(self) -> None:
        self.slots[QUEUED] = len(self._queue)

    # Upstreams come and go.

    def set_upstreams(self, specs: Iterable[UpstreamSpec], max_in_flight: int | None) -> list[Upstream]:
        """Make the upstreams what the supervisor wants; return the new ones."""
        self.pool.limit = inf if max_in_flight is None else max_in_flight
        new, out, removed = self.pool.apply(specs)
        for upstream in (*out, *removed):
            self._close_idle(upstream)
        for upstream in removed:
            upstream.slots[EDGE_IN_FLIGHT] = 0
        for upstream in out:
            self.on_health(upstream)
            self._move_on(upstream)
        self.pump()
        return new

    def configure(self, settings: Settings) -> None:
        """Take over settings that changed live."""
        self.settings = settings
        self.pool.configure(settings)
        self.wheel.reach = _reach(settings)
        self.requests.limit(settings.max_request_line, settings.max_fields, settings.max_head)

    def doubt(self, upstream: Upstream, reason: str) -> None:
        """Skip an upstream for a sign that an immediate check shall decide."""
        if self.pool.doubt(upstream):
            upstream.reason = reason
            self.on_doubt(upstream)

    def refused_by(self, upstream: Upstream) -> None:
        """A refused connection takes an upstream out at once, the last one too."""
        if upstream.judge.healthy:
            upstream.judge.set(False)
            self._edge(upstream, "connection refused")

    def checked(self, upstream: Upstream, passed: bool, reason: str) -> None:
        """Take in an active check. While in doubt one failure decides, unless it is the last upstream in rotation."""
        decisive = upstream.suspect and len(self.pool.rotation()) > 1
        self.pool.trust(upstream)
        if reason == "connection refused":
            self.refused_by(upstream)
        elif upstream.judge.observe(passed, decisive=decisive):
            self._edge(upstream, reason)
        self.pump()

    def forsake(self, upstream: Upstream) -> None:
        """Wait no longer for what is silent, wherever another upstream can be asked; what can be asked nowhere else goes on waiting."""
        self._move_on(upstream, wherever=self.recovery.may_repeat)
        self.pump()

    def _edge(self, upstream: Upstream, reason: str) -> None:
        upstream.reason = reason
        self.pool.trust(upstream)
        self.pool.settle(upstream)
        self.on_health(upstream)
        if not upstream.judge.healthy:
            self._close_idle(upstream)
            self._move_on(upstream)
            self.pump()

    def _close_idle(self, upstream: Upstream) -> None:
        for connection in list(upstream.idle):
            connection.close()

    def _move_on(self, upstream: Upstream, wherever: Callable[[Downstream], bool] = lambda client: True) -> None:
        """Requests that wait on an upstream gone out for a first byte go elsewhere, if that is safe and there is an elsewhere."""
        for connection in list(upstream.connections):
            client = connection.client
            if client is None or connection.state != AWAITING or not client.head.idempotent or client.interims:
                continue
            if wherever(client) and self.pool.rotation((*client.tried, upstream)):
                connection.close()
                self.unassign(client)
                client.tried = (*client.tried, upstream)
                client.failure = (502, "the worker went away")
                self.recovery.repeat(client)

    def lead(self, upstream: Upstream, gate: tuple[str, int] | None) -> None:
        """From now on connect to this upstream through its gate, or (None) straight."""
        upstream.gate = gate
        self._close_idle(upstream)

    def sweep(self) -> None:
        """Close upstream connections that were idle so long that the worker may be about to."""
        oldest = monotonic() - self.settings.upstream_idle_timeout
        for upstream in self.pool.order:
            for connection in [each for each in upstream.idle if each.idle_since < oldest]:
                connection.close()

    # Draining.

    def drain(self) -> None:
        """Let each connection's next response be its last."""
        self.draining = True
        for client in self.clients:
            client.plain = False
            client.closing = client.closing or not client.begun
        if not self.clients:
            self.drained()

    def close(self) -> None:
        """Close everything at once."""
        for client in list(self.clients):
            client.transport.abort()
        for upstream in self.pool.order:
            for connection in list(upstream.connections):
                connection.close()
        for task in list(self._opening):
            task.cancel()
        self.wheel.close()


def _reach(settings: Settings) -> float:
    return min(settings.head_timeout, settings.idle_timeout, settings.request_timeout, settings.body_timeout)
