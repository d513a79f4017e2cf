"""Exchanges find their upstream here: the pick, the queue, repeats, what failures mean, and the accounts.

The one owner of what all connections share. Decisions that need no I/O are taken in `lb.upstream`; connections report here and
do as told. An exchange is counted in flight from `begin` to `_leave`, at an upstream from `_assign` to `_unassign`.
"""

import asyncio
import errno
from collections import deque
from collections.abc import Callable, Iterable
from email.utils import formatdate
from math import inf
from time import monotonic, time
from typing import Final

from lb import downstream
from lb.connection import AWAITING, CONNECTING, IDLE, UpstreamConnection
from lb.counters import (
    ABORTED,
    BYTES_IN,
    BYTES_OUT,
    IN_FLIGHT,
    LATENCY,
    LATENCY_US,
    QUEUED,
    REQUESTS,
    RESPONSES,
    RETRIES,
    UPSTREAM_ERRORS,
    Counters,
    latency_bucket,
)
from lb.downstream import Downstream
from lb.fields import Refusal
from lb.request import RequestReader
from lb.response import ResponseHead
from lb.settings import Settings, UpstreamSpec
from lb.tunnel import Tunnel
from lb.upstream import Upstream, UpstreamPool, within_budget
from lb.wheel import Wheel

FRESH_ENOUGH: Final = 1.0  # seconds idle up to which a connection may carry what must not be sent twice
# Our own want of resources, no sign of the upstream's health.
_OURS: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL, errno.EAGAIN))

HealthEdge = Callable[[Upstream], None]


def _nothing(_: Upstream) -> None:
    pass


class Proxy:
    """The state of one load balancer."""

    def __init__(self, loop: asyncio.AbstractEventLoop, settings: Settings, counters: Counters, local_host: bytes) -> None:
        self._loop = loop
        self.settings = settings
        self.slots = counters.slots
        self.pool = UpstreamPool(settings)
        self.requests = RequestReader(settings.max_request_line, settings.max_fields, local_host)
        self.wheel = Wheel(loop, _reach(settings))
        self.clients: set[Downstream] = set()
        self.in_flight = 0
        self.draining = False
        # Hooks of the server: an edge of health, a doubt that a check must decide, the end of a drain.
        self.on_health: HealthEdge = _nothing
        self.on_doubt: HealthEdge = _nothing
        self.drained: Callable[[], None] = lambda: None
        self._queue: deque[Downstream] = deque()
        self._repeating = 0
        self._opening: set[asyncio.Task[None]] = set()
        self._date = (0, b"")

    def date(self) -> bytes:
        """Return the present Date field value (RFC 9110 section 6.6.1), made once a second."""
        now = int(time())
        if self._date[0] != now:
            self._date = (now, formatdate(now, usegmt=True).encode())
        return self._date[1]

    # An exchange begins and finds its upstream.

    def begin(self, client: Downstream) -> None:
        """Count a request and send it on its way."""
        slots = self.slots
        slots[REQUESTS] += 1
        slots[BYTES_IN] += client.head.size
        self.in_flight = slots[IN_FLIGHT] = self.in_flight + 1
        upstream = self.pool.pick()
        if upstream is None:
            self._wait_or_fail(client)
        elif client.head.bare and upstream.idle:
            upstream.in_flight += 1
            client.upstream = upstream
            client.connection = connection = upstream.idle.pop()
            connection.client = client
            connection.state = AWAITING
            connection.transport.write(client.head.prefix + client.tail)
        else:
            self._assign(client, upstream)

    def _dispatch(self, client: Downstream) -> None:
        upstream = self.pool.pick(client.tried)
        if upstream is None:
            self._wait_or_fail(client)
        else:
            self._assign(client, upstream)

    def _wait_or_fail(self, client: Downstream) -> None:
        if not self.pool.rotation(client.tried):
            self._fail(client, *client.failure)
            return
        now = monotonic()
        client.state = downstream.QUEUED
        client.deadline = now + self.settings.queue_timeout
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
            await asyncio.wait_for(
                self._loop.create_connection(lambda: connection, upstream.host, upstream.port), self.settings.connect_timeout + 1.0
            )
        except (OSError, TimeoutError) as error:
            self._not_connected(connection, error)

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
        head = client.head.prefix + client.tail
        body = client.body
        if body is None:
            connection.transport.write(head + client.payload)
        else:
            connection.transport.writelines([head, *(body.held or ())])
            if body.overfull or not client.head.idempotent:
                body.forget()
        client.request_started(now)

    # An exchange ends well.

    def answered(self, connection: UpstreamConnection, client: Downstream, status: int, size: int) -> None:
        """The common path's end: the whole response was written in one go."""
        client.status = status
        self.slots[BYTES_OUT] += size
        self.ended(connection, client)

    def ended(self, connection: UpstreamConnection, client: Downstream) -> None:
        """Settle a complete exchange: its connection rests if it may, its slot goes to whoever waits."""
        now = monotonic()
        upstream = connection.upstream
        upstream.in_flight -= 1
        if connection.state == IDLE:
            if client.blocked:
                connection.transport.resume_reading()
            if upstream.ready:
                connection.idle_since = now
                upstream.idle.append(connection)
            else:
                connection.close()
        self._leave(client, now)
        if self._queue:
            self._pump()
        client.finished(now)

    def _leave(self, client: Downstream, now: float) -> None:
        slots = self.slots
        self.in_flight = slots[IN_FLIGHT] = self.in_flight - 1
        slots[RESPONSES + client.status // 100] += 1
        seconds = now - client.started
        slots[LATENCY + latency_bucket(seconds)] += 1
        slots[LATENCY_US] += int(seconds * 1e6)
        if client.repeats > 1:
            self._repeating -= 1

    # An exchange meets trouble.

    def _unassign(self, client: Downstream) -> None:
        if client.upstream is not None:
            client.upstream.in_flight -= 1
        client.upstream = None
        client.connection = None

    def _fail(self, client: Downstream, status: int, message: str) -> None:
        now = monotonic()
        client.fail(status, message)
        self._leave(client, now)
        client.finished(now)

    def _may_repeat(self, client: Downstream, *, unsent: bool = False, free: bool = False) -> bool:
        body = client.body
        safe = unsent or (client.head.idempotent and not client.interims and (body is None or body.held is not None))
        if safe and not free:
            safe = client.repeats < self.settings.retries and within_budget(client.repeats, self._repeating, self.in_flight)
        return safe and monotonic() < client.due

    def _repeat(self, client: Downstream, *, unsent: bool = False, free: bool = False) -> None:
        """Try once more where that is safe, or answer with `client.failure`."""
        if self._may_repeat(client, unsent=unsent, free=free):
            self.slots[RETRIES] += 1
            if not free:
                client.repeats += 1
                self._repeating += client.repeats == 2
            self._dispatch(client)
        else:
            self._fail(client, *client.failure)
        self._pump()

    def has_elsewhere(self, client: Downstream) -> bool:
        """Say whether a request whose worker is full may go to another one; otherwise the client gets that worker's own answer."""
        return self.pool.pickable((*client.tried, client.upstream)) and self._may_repeat(client)

    def full(self, upstream: Upstream, client: Downstream) -> None:
        """A worker had no room and began nothing: no sign of sickness, another one may have room."""
        self._unassign(client)
        client.tried = (*client.tried, upstream)
        client.failure = (503, "all workers are full")
        self._repeat(client)

    def lost_before_head(self, connection: UpstreamConnection, client: Downstream, exc: Exception | None, partial: bool) -> None:
        """A connection ended before its response began. On a used one that is the keep-alive race, on a fresh one a sign."""
        self._unassign(client)
        upstream = connection.upstream
        race = connection.served > 0 and not partial
        client.failure = (502, "the worker closed the connection without an answer")
        if race:
            client.fresh = True
        else:
            self.slots[UPSTREAM_ERRORS] += 1
            client.tried = (*client.tried, upstream)
            self.doubt(upstream, "reset" if exc is not None else "closed before an answer")
        self._repeat(client, free=race)

    def _not_connected(self, connection: UpstreamConnection, error: Exception) -> None:
        upstream, client = connection.upstream, connection.client
        number = error.errno if isinstance(error, OSError) else None
        ours = number in _OURS
        if isinstance(error, ConnectionRefusedError):
            self.refused_by(upstream)
        elif not ours:
            self.doubt(upstream, "cannot connect")
        if client is None:
            return
        self.slots[UPSTREAM_ERRORS] += 1
        connection.client = None
        self._unassign(client)
        client.tried = (*client.tried, upstream)
        if ours:
            client.failure = (503, "out of resources")
        self._repeat(client, unsent=True)

    def malformed(self, connection: UpstreamConnection, client: Downstream) -> None:
        """A response head that cannot be trusted: 502."""
        self.slots[UPSTREAM_ERRORS] += 1
        self._unassign(client)
        self._fail(client, 502, "the worker's response is invalid")
        self._pump()

    def truncated(self, connection: UpstreamConnection, client: Downstream) -> None:
        """A response broke off after it had begun: the client must be able to tell."""
        self.slots[UPSTREAM_ERRORS] += 1
        self._unassign(client)
        self._leave(client, monotonic())
        client.break_off()
        self._pump()

    def refused(self, client: Downstream, refusal: Refusal) -> None:
        """The client's body is at fault after its exchange had begun."""
        self._cut(client)
        if client.begun:
            self._leave(client, monotonic())
            client.break_off()
        else:
            self._fail(client, refusal.status, refusal.reason)
        self._pump()

    def abandoned(self, client: Downstream, state: int) -> None:
        """A client went away in the middle of an exchange: its upstream need not go on."""
        self.slots[ABORTED] += 1
        self._cut(client)
        self.in_flight = self.slots[IN_FLIGHT] = self.in_flight - 1
        if client.repeats > 1:
            self._repeating -= 1
        if state == downstream.QUEUED:
            self._queue.remove(client)
            self._count_queue()
        self._pump()

    def _cut(self, client: Downstream) -> None:
        """Part a client from its upstream connection; one that is still being opened may serve another."""
        connection = client.connection
        if connection is not None:
            if connection.state == CONNECTING:
                connection.client = None
            else:
                connection.close()
        self._unassign(client)

    def expired(self, client: Downstream, now: float, *, stalled: bool) -> None:
        """A client's deadline passed in an exchange; `stalled` says that it owes us body."""
        state, upstream = client.state, client.upstream
        if state == downstream.QUEUED:
            self._queue.remove(client)
            self._count_queue()
            self._fail(client, 503, "no worker had room in time")
            return
        self._cut(client)
        if client.eof and now < client.due:
            self.slots[ABORTED] += 1
            client.status = 499
            self._leave(client, now)
            client.close()
        elif client.begun:
            self._leave(client, now)
            client.break_off()
        elif state == downstream.CONNECTING and now < client.due:
            assert upstream is not None
            self.slots[UPSTREAM_ERRORS] += 1
            self.doubt(upstream, "connecting timed out")
            client.tried = (*client.tried, upstream)
            client.failure = (504, "no worker could be connected in time")
            self._repeat(client, unsent=True)
            return
        elif stalled:
            self._fail(client, 408, "the request body took too long")
        else:
            if upstream is not None:
                self.slots[UPSTREAM_ERRORS] += 1
                self.doubt(upstream, "no answer in time")
            self._fail(client, 504, "the worker did not answer in time")
        self._pump()

    def upgrade(self, connection: UpstreamConnection, client: Downstream, head: ResponseHead, rest: bytes) -> None:
        """Both sides leave HTTP (RFC 9110 section 7.8): a tunnel takes over both connections."""
        client.transport.write(head.start + b"Connection: upgrade\r\nUpgrade: " + head.upgrade + b"\r\n\r\n" + rest)
        client.status = 101
        self.wheel.remove(client)
        client.state = downstream.TUNNEL
        early, client.buffer = client.buffer, b""

        def ended() -> None:
            connection.upstream.connections.discard(connection)
            self._unassign(client)
            self._leave(client, monotonic())
            self._pump()
            client.connection_lost(None)

        connection.state = IDLE
        connection.client = None
        tunnel = Tunnel(self, client.transport, connection.transport, ended)
        if early:
            connection.transport.write(early)
        if client.blocked:
            connection.transport.pause_reading()
        tunnel.start()

    # The queue.

    def _pump(self) -> None:
        queue = self._queue
        while queue:
            client = queue[0]
            upstream = self.pool.pick(client.tried)
            if upstream is None:
                if self.pool.rotation(client.tried):
                    break
                queue.popleft()
                self._count_queue()
                self._fail(client, *client.failure)
                continue
            queue.popleft()
            self._count_queue()
            client.due = monotonic() + self.settings.request_timeout
            self._assign(client, upstream)

    def _count_queue(self) -> None:
        self.slots[QUEUED] = len(self._queue)

    # Upstreams come and go.

    def set_upstreams(self, specs: Iterable[UpstreamSpec], max_in_flight: int | None) -> list[Upstream]:
        """Make the upstreams what the supervisor wants; return the new ones."""
        self.pool.limit = inf if max_in_flight is None else max_in_flight
        new, out, removed = self.pool.apply(specs)
        for upstream in (*out, *removed):
            self._close_idle(upstream)
        for upstream in out:
            self.on_health(upstream)
            self._move_on(upstream)
        self._pump()
        return new

    def configure(self, settings: Settings) -> None:
        """Take over settings that changed live."""
        self.settings = settings
        self.pool.configure(settings)
        self.wheel.reach = _reach(settings)
        self.requests.max_line, self.requests.max_fields = settings.max_request_line, settings.max_fields
        self.requests.recent.forget()

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
        self._pump()

    def _edge(self, upstream: Upstream, reason: str) -> None:
        upstream.reason = reason
        self.pool.trust(upstream)
        self.pool.settle(upstream)
        self.on_health(upstream)
        if not upstream.judge.healthy:
            self._close_idle(upstream)
            self._move_on(upstream)
            self._pump()

    def _close_idle(self, upstream: Upstream) -> None:
        for connection in list(upstream.idle):
            connection.close()

    def _move_on(self, upstream: Upstream) -> None:
        """Requests that wait on an upstream gone out for a first byte go elsewhere, if that is safe and there is an elsewhere."""
        for connection in list(upstream.connections):
            client = connection.client
            if client is None or connection.state != AWAITING or not client.head.idempotent or client.interims:
                continue
            if self.pool.rotation((*client.tried, upstream)):
                connection.close()
                self._unassign(client)
                client.tried = (*client.tried, upstream)
                client.failure = (502, "the worker went away")
                self._repeat(client)

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
