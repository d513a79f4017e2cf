"""Watches for first answers: the last step of a recovery is a client that got one.

The watch sits on the proxy only while one is expected. The proxy's two ways to end an exchange are covered by functions of its own
instance, which are taken away with the last expectation: an answer that nobody waits for costs nothing.
"""

from collections.abc import Callable
from time import monotonic

from lb.connection import UpstreamConnection
from lb.downstream import Downstream
from lb.proxy import Proxy
from lb.upstream import Upstream

Tell = Callable[[str | None, float], None]
"""(upstream's name, or None for the load balancer itself; monotonic seconds)."""


class FirstAnswers:
    """Tells of the first answer of each upstream that came up, and of this load balancer's own."""

    def __init__(self, proxy: Proxy, tell: Tell) -> None:
        self._proxy = proxy
        self._tell = tell
        self._expected: set[Upstream | None] = set()

    def expect(self, upstream: Upstream | None) -> None:
        """Tell of the next answer that comes from it (None: from any)."""
        if not self._expected:
            self._cover()
        self._expected.add(upstream)

    def _cover(self) -> None:
        proxy = self._proxy
        answered, leave = type(proxy).answered, type(proxy).leave

        def watched_answered(connection: UpstreamConnection, client: Downstream, status: int, size: int) -> None:
            answered(proxy, connection, client, status, size)
            self._seen(connection.upstream)

        def watched_leave(client: Downstream, now: float) -> None:
            upstream = client.upstream
            leave(proxy, client, now)
            if upstream is not None:
                self._seen(upstream)

        vars(proxy).update(answered=watched_answered, leave=watched_leave)

    def _seen(self, upstream: Upstream) -> None:
        now = monotonic()
        for each in (None, upstream):
            if each in self._expected:
                self._expected.discard(each)
                self._tell(each.name if each is not None else None, now)
        # One that has gone meanwhile is expected no longer.
        self._expected.intersection_update((None, *self._proxy.pool.order))
        if not self._expected:
            for name in ("answered", "leave"):
                vars(self._proxy).pop(name, None)
