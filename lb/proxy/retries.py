"""Handles failures of an exchange: decides whether to retry it on another upstream, and what its client gets otherwise.

The rules (RFC 9110 section 9.2.2): a request that was sent to no upstream may be retried on any. A request that was
sent may be retried only if it is idempotent, its body is still held and no byte of a response has been sent to the
client. The first retry is always allowed, later ones need budget (`lb.proxy.upstream_pool.within_budget`). A failed
attempt to connect does not count as a retry: it puts no load on a worker, and a node that leaves takes all its workers
at once, so that a limit of attempts would end a request that other workers could serve.

The proxy learns what a failure says about the upstream. A refused connection, like the supervisor's report, takes it
out of rotation. Every other failure makes it suspect, and an active health check decides.
"""

from time import monotonic
from typing import TYPE_CHECKING

from lb.http.fields import Refusal
from lb.interface.counters import ABORTED, EDGE_ERRORS, EDGE_INJECTED_ERRORS, IN_FLIGHT, RETRIES, UPSTREAM_ERRORS
from lb.proxy import connection_end
from lb.proxy.client_connection import Downstream
from lb.proxy.refusal_log import RefusalLog
from lb.proxy.upstream_connection import CONNECTING, UpstreamConnection
from lb.proxy.upstream_pool import Upstream, within_budget
from lb.system.shortage import is_local_shortage

if TYPE_CHECKING:
    from lb.proxy.dispatcher import Dispatcher


class Retries:
    """Handles the failures that connections and timers report."""

    def __init__(self, proxy: "Dispatcher") -> None:
        self._proxy = proxy
        self._error_log = RefusalLog()

    def log_error(self, upstream: Upstream, client: Downstream, why: str, data: bytes = b"") -> None:
        """Log why a client gets no complete response to the request that this upstream served."""
        self._error_log.write(upstream.name, client.prefix[: client.prefix.index(b"\r\n")], why, data)

    def _error(self, upstream: Upstream, injected: bool = False) -> None:
        self._proxy.slots[UPSTREAM_ERRORS] += 1
        upstream.slots[EDGE_ERRORS] += 1
        upstream.slots[EDGE_INJECTED_ERRORS] += injected
        if self._proxy.on_upstream_error is not None:
            self._proxy.on_upstream_error(upstream)

    def may_retry(self, client: Downstream, *, unsent: bool = False, free: bool = False) -> bool:
        proxy = self._proxy
        body = client.body
        safe = unsent or (client.head.idempotent and not client.interims and (body is None or body.held is not None))
        if safe and not free:
            safe = client.retries < proxy.settings.retries and within_budget(
                client.retries, proxy.retrying, proxy.in_flight
            )
        return safe and monotonic() < client.due

    def retry(self, client: Downstream, *, unsent: bool = False, free: bool = False) -> None:
        """Retry if that is safe, else respond with `client.failure`."""
        proxy = self._proxy
        if self.may_retry(client, unsent=unsent, free=free):
            proxy.slots[RETRIES] += 1
            if not free:
                client.retries += 1
                proxy.retrying += client.retries == 2
            proxy.dispatch(client)
        else:
            self.give_up(client)
        proxy.serve_queue()

    def give_up(self, client: Downstream) -> None:
        """Respond with the failure of the last attempt."""
        status, message, injected = client.failure
        if client.tried and status != 503:
            self.log_error(client.tried[-1], client, message)
        self._proxy.fail(client, status, message, injected)

    def _retry_unsent(self, client: Downstream) -> None:
        """Retry on the next upstream: each is tried at most once, and a refusal takes this one out of rotation."""
        self.retry(client, unsent=True, free=self._proxy.settings.retries > 0)

    def has_alternative(self, client: Downstream) -> bool:
        """Say whether the request of a full worker may go to another; if not, the client gets the worker's response."""
        proxy = self._proxy
        room = proxy.paused or proxy.pool.has_room((*client.tried, client.upstream))
        return room and self.may_retry(client)

    def full(self, upstream: Upstream, client: Downstream) -> None:
        """Handle a worker that is full and has not begun the request: it is healthy, and another one may have room."""
        proxy = self._proxy
        proxy.unassign(client)
        client.tried = (*client.tried, upstream)
        client.failure = (503, "all workers are full", False)
        self.retry(client)

    def lost_before_head(
        self, connection: UpstreamConnection, client: Downstream, exc: Exception | None, partial: bytes
    ) -> None:
        """Handle a connection that ended before its response began; `partial` is what was received of the head.

        On a reused connection that is the keep-alive race; on a new one it makes the upstream suspect.
        """
        proxy = self._proxy
        proxy.unassign(client)
        upstream = connection.upstream
        race = connection.served > 0 and not partial and not connection.injected
        unsent = race and connection.undelivered
        client.failure = (502, "the worker closed the connection without an answer", connection.injected)
        if race:
            client.fresh = True
            upstream.closed_early()
            if not self.may_retry(client, unsent=unsent, free=True):
                self._error(upstream)
                self.log_error(
                    upstream,
                    client,
                    "it closed a connection that it had kept open (upstream-keep-alive: false avoids that)",
                )
        else:
            self._error(upstream, connection.injected)
            client.tried = (*client.tried, upstream)
            if partial:
                self.log_error(upstream, client, "the response ended within its head", partial)
            proxy.mark_suspect(upstream, "reset" if exc is not None else "closed before an answer")
        self.retry(client, unsent=unsent, free=race)

    def connect_failed(self, connection: UpstreamConnection, error: Exception, began: float) -> None:
        """Handle an attempt to connect that began then and failed.

        One that began before the upstream came into rotation says nothing about what is there now: a worker that
        restarts refuses connections until it listens, and its load balancer may read both that and its return late.
        """
        proxy = self._proxy
        upstream, client = connection.upstream, connection.client
        if connection.state != CONNECTING:
            return  # It was established just before the deadline, and may carry a request.
        own_shortage = is_local_shortage(error)
        if upstream.up_since > began:
            pass
        elif isinstance(error, ConnectionRefusedError):
            proxy.on_connection_refused(upstream)
        elif not own_shortage:
            proxy.mark_suspect(upstream, "cannot connect")
        if client is None:
            return
        if own_shortage:
            client.failure = (503, "out of resources", False)
        else:
            self._error(upstream)
        connection.client = None
        proxy.unassign(client)
        client.tried = (*client.tried, upstream)
        self._retry_unsent(client)

    def malformed(self, connection: UpstreamConnection, client: Downstream, why: str, data: bytes) -> None:
        """Respond with 502 to an invalid response head."""
        proxy = self._proxy
        self._error(connection.upstream)
        self.log_error(connection.upstream, client, f"invalid response: {why}", data)
        proxy.unassign(client)
        proxy.fail(client, 502, f"the worker's response is invalid: {why}")
        proxy.serve_queue()

    def truncated(self, connection: UpstreamConnection, client: Downstream, why: str, data: bytes) -> None:
        """End a response that failed after it had begun, so that the client notices that it is incomplete."""
        proxy = self._proxy
        self._error(connection.upstream, connection.injected)
        client.error = f"the response was cut: {why}"
        self.log_error(connection.upstream, client, client.error, data)
        proxy.unassign(client)
        proxy.count_exchange_end(client, monotonic())
        client.end_incomplete()
        proxy.serve_queue()

    def refused(self, client: Downstream, refusal: Refusal) -> None:
        """End an exchange whose request body turned out to be invalid."""
        proxy = self._proxy
        self.detach(client, client.state)
        if client.begun:
            client.error = f"the response was cut: {refusal.reason} in the request"
            proxy.count_exchange_end(client, monotonic())
            client.end_incomplete()
        else:
            proxy.fail(client, refusal.status, refusal.reason)
        proxy.serve_queue()

    def client_gone(self, client: Downstream, state: int) -> None:
        """End the exchange of a client that disconnected; its upstream need not continue."""
        proxy = self._proxy
        proxy.slots[ABORTED] += 1
        self.detach(client, state)
        proxy.in_flight = proxy.slots[IN_FLIGHT] = proxy.in_flight - 1
        if client.retries > 1:
            proxy.retrying -= 1
        proxy.serve_queue()

    def detach(self, client: Downstream, state: int) -> None:
        """Take a client that was in this state out of the queue, or off its upstream connection.

        A connection that is still being opened may serve another client.
        """
        proxy = self._proxy
        if state == connection_end.QUEUED:
            proxy.leave_queue(client)
        connection = client.connection
        if connection is not None:
            if connection.state == CONNECTING:
                connection.client = None
            else:
                connection.close()
        proxy.unassign(client)

    def expired(self, client: Downstream, now: float, *, stalled: bool) -> None:
        """Handle the deadline of a client in an exchange; `stalled` says that a part of its request body is missing."""
        proxy = self._proxy
        state, upstream = client.state, client.upstream
        injected = client.connection is not None and client.connection.injected
        self.detach(client, state)
        if state == connection_end.QUEUED:
            proxy.fail(client, 503, "no worker had room in time")
            return
        if client.eof and now < client.due and state == connection_end.WAITING:
            proxy.slots[ABORTED] += 1
            client.status = 499
            client.error = "the client went away"
            proxy.count_exchange_end(client, now)
            client.close()
        elif client.begun:
            client.error = "the response was cut: no progress in time"
            if upstream is not None and not client.blocked:
                self.log_error(upstream, client, client.error)
            proxy.count_exchange_end(client, now)
            client.give_up() if client.blocked else client.end_incomplete()
        elif state == connection_end.CONNECTING:
            assert upstream is not None
            self._error(upstream)
            proxy.mark_suspect(upstream, "connecting timed out")
            client.tried = (*client.tried, upstream)
            client.failure = (504, "no worker could be connected in time", False)
            self._retry_unsent(client)
            return
        elif stalled:
            proxy.fail(client, 408, "the request body took too long")
        else:
            if upstream is not None:
                self._error(upstream, injected)
                proxy.mark_suspect(upstream, "no answer in time")
                self.log_error(upstream, client, "the worker did not answer in time")
            proxy.fail(client, 504, "the worker did not answer in time", injected)
        proxy.serve_queue()
