"""Reports first responses: a recovery ends when a client gets a response.

The proxy calls this module only while a first response is expected.
"""

from collections.abc import Callable

from lb.proxy.client_connection import Downstream
from lb.proxy.dispatcher import Dispatcher
from lb.proxy.upstream_pool import Upstream

Report = Callable[[str | None, float], None]
"""Called with the upstream's name (None: the load balancer itself) and the time (monotonic seconds)."""


class FirstResponses:
    """Reports the first response of each upstream that came up, and of this load balancer itself."""

    def __init__(self, proxy: Dispatcher, report: Report) -> None:
        self._proxy = proxy
        self._report = report
        self._expected: set[Upstream | None] = set()

    def expect(self, upstream: Upstream | None) -> None:
        """Report the next response of this upstream (None: of any)."""
        self._expected.add(upstream)
        self._proxy.observe(self._on_response, True)

    def _on_response(self, upstream: Upstream, _client: Downstream, _status: int, now: float) -> None:
        for each in (None, upstream):
            if each in self._expected:
                self._expected.discard(each)
                self._report(each.name if each is not None else None, now)
        # Upstreams that were removed in the meantime are no longer expected.
        self._expected.intersection_update((None, *self._proxy.pool.order))
        if not self._expected:
            self._proxy.observe(self._on_response, False)
