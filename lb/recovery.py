"""An exchange meets trouble: whether it may go to another upstream, and what its client is told if not.

The rules (RFC 9110 section 9.2.2): a request that no upstream was sent may go anywhere; one that was sent only if it is
idempotent, its body still held and no byte of a response has gone to the client. The first repeat is always free, later ones draw
on a budget (`lb.upstream.within_budget`). A connection that could not be made costs no repeat: it put no load on anybody, and a node
that leaves takes all its workers at once, so that a limit of attempts would end a request that others are there for. What a failure
says about the upstream goes to the proxy: refused connections and the supervisor's word take out, everything else is a doubt that an
active check decides.
"""

import errno
from time import monotonic
from typing import TYPE_CHECKING, Final

from lb import downstream
from lb.connection import CONNECTING, UpstreamConnection
from lb.counters import ABORTED, EDGE_ERRORS, IN_FLIGHT, RETRIES, UPSTREAM_ERRORS
from lb.downstream import Downstream
from lb.fields import Refusal
from lb.upstream import Upstream, within_budget

if TYPE_CHECKING:
    from lb.proxy import Proxy

# Our own want of resources, no sign of the upstream's health.
_OURS: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL, errno.EAGAIN))


class Recovery:
    """What connections and timers report trouble to."""

    def __init__(self, proxy: "Proxy") -> None:
        self._proxy = proxy

    def _error(self, upstream: Upstream) -> None:
        self._proxy.slots[UPSTREAM_ERRORS] += 1
        upstream.slots[EDGE_ERRORS] += 1

    def may_repeat(self, client: Downstream, *, unsent: bool = False, free: bool = False) -> bool:
        proxy = self._proxy
        body = client.body
        safe = unsent or (client.head.idempotent and not client.interims and (body is None or body.held is not None))
        if safe and not free:
            safe = client.repeats < proxy.settings.retries and within_budget(client.repeats, proxy.repeating, proxy.in_flight)
        return safe and monotonic() < client.due

    def repeat(self, client: Downstream, *, unsent: bool = False, free: bool = False) -> None:
        """Try once more where that is safe, or answer with `client.failure`."""
        proxy = self._proxy
        if self.may_repeat(client, unsent=unsent, free=free):
            proxy.slots[RETRIES] += 1
            if not free:
                client.repeats += 1
                proxy.repeating += client.repeats == 2
            proxy.dispatch(client)
        else:
            proxy.fail(client, *client.failure)
        proxy.pump()

    def _repeat_unsent(self, client: Downstream) -> None:
        """Go on to the next one: each upstream is asked once at most, and a refusal took this one out for all."""
        self.repeat(client, unsent=True, free=self._proxy.settings.retries > 0)

    def has_elsewhere(self, client: Downstream) -> bool:
        """Say whether a request whose worker is full may go to another one; otherwise the client gets that worker's own answer."""
        proxy = self._proxy
        return proxy.pool.pickable((*client.tried, client.upstream)) and self.may_repeat(client)

    def full(self, upstream: Upstream, client: Downstream) -> None:
        """A worker had no room and began nothing: no sign of sickness, another one may have room."""
        proxy = self._proxy
        proxy.unassign(client)
        client.tried = (*client.tried, upstream)
        client.failure = (503, "all workers are full")
        self.repeat(client)

    def lost_before_head(self, connection: UpstreamConnection, client: Downstream, exc: Exception | None, partial: bool) -> None:
        """A connection ended before its response began. On a used one that is the keep-alive race, on a fresh one a sign."""
        proxy = self._proxy
        proxy.unassign(client)
        upstream = connection.upstream
        race = connection.served > 0 and not partial
        client.failure = (502, "the worker closed the connection without an answer")
        if race:
            client.fresh = True
        else:
            self._error(upstream)
            client.tried = (*client.tried, upstream)
            proxy.doubt(upstream, "reset" if exc is not None else "closed before an answer")
        self.repeat(client, free=race)

    def not_connected(self, connection: UpstreamConnection, error: Exception) -> None:
        proxy = self._proxy
        upstream, client = connection.upstream, connection.client
        if connection.state != CONNECTING:
            return  # It was made after all, and may carry a request: the deadline met it before its task was told.
        number = error.errno if isinstance(error, OSError) else None
        ours = number in _OURS
        if isinstance(error, ConnectionRefusedError):
            proxy.refused_by(upstream)
        elif not ours:
            proxy.doubt(upstream, "cannot connect")
        if client is None:
            return
        self._error(upstream)
        connection.client = None
        proxy.unassign(client)
        client.tried = (*client.tried, upstream)
        if ours:
            client.failure = (503, "out of resources")
            self.repeat(client, unsent=True)
        else:
            self._repeat_unsent(client)

    def malformed(self, connection: UpstreamConnection, client: Downstream) -> None:
        """A response head that cannot be trusted: 502."""
        proxy = self._proxy
        self._error(connection.upstream)
        proxy.unassign(client)
        proxy.fail(client, 502, "the worker's response is invalid")
        proxy.pump()

    def truncated(self, connection: UpstreamConnection, client: Downstream) -> None:
        """A response broke off after it had begun: the client must be able to tell."""
        proxy = self._proxy
        self._error(connection.upstream)
        proxy.unassign(client)
        proxy.leave(client, monotonic())
        client.break_off()
        proxy.pump()

    def refused(self, client: Downstream, refusal: Refusal) -> None:
        """The client's body is at fault after its exchange had begun."""
        proxy = self._proxy
        self.cut(client)
        if client.begun:
            proxy.leave(client, monotonic())
            client.break_off()
        else:
            proxy.fail(client, refusal.status, refusal.reason)
        proxy.pump()

    def abandoned(self, client: Downstream, state: int) -> None:
        """A client went away in the middle of an exchange: its upstream need not go on."""
        proxy = self._proxy
        proxy.slots[ABORTED] += 1
        self.cut(client)
        proxy.in_flight = proxy.slots[IN_FLIGHT] = proxy.in_flight - 1
        if client.repeats > 1:
            proxy.repeating -= 1
        if state == downstream.QUEUED:
            proxy.leave_queue(client)
        proxy.pump()

    def cut(self, client: Downstream) -> None:
        """Part a client from its upstream connection; one that is still being opened may serve another."""
        proxy = self._proxy
        connection = client.connection
        if connection is not None:
            if connection.state == CONNECTING:
                connection.client = None
            else:
                connection.close()
        proxy.unassign(client)

    def expired(self, client: Downstream, now: float, *, stalled: bool) -> None:
        """A client's deadline passed in an exchange; `stalled` says that it owes us body."""
        proxy = self._proxy
        state, upstream = client.state, client.upstream
        if state == downstream.QUEUED:
            proxy.leave_queue(client)
            proxy.fail(client, 503, "no worker had room in time")
            return
        self.cut(client)
        if client.eof and now < client.due:
            proxy.slots[ABORTED] += 1
            client.status = 499
            proxy.leave(client, now)
            client.close()
        elif client.begun:
            proxy.leave(client, now)
            client.break_off()
        elif state == downstream.CONNECTING:
            assert upstream is not None
            self._error(upstream)
            proxy.doubt(upstream, "connecting timed out")
            client.tried = (*client.tried, upstream)
            client.failure = (504, "no worker could be connected in time")
            self._repeat_unsent(client)
            return
        elif stalled:
            proxy.fail(client, 408, "the request body took too long")
        else:
            if upstream is not None:
                self._error(upstream)
                proxy.doubt(upstream, "no answer in time")
            proxy.fail(client, 504, "the worker did not answer in time")
        proxy.pump()
