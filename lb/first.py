"""Watches for first answers: the last step of a recovery is a client that got one.

The watch sits on the proxy only while one is expected.
"""

from collections.abc import Callable
from time import monotonic

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
        self._expected.add(upstream)
        self._proxy.on_answer = self._seen

    def _seen(self, upstream: Upstream) -> None:
        now = monotonic()
        for each in (None, upstream):
            if each in self._expected:
                self._expected.discard(each)
                self._tell(each.name if each is not None else None, now)
        # One that has gone meanwhile is expected no longer.
        self._expected.intersection_update((None, *self._proxy.pool.order))
        if not self._expected:
            self._proxy.on_answer = None
