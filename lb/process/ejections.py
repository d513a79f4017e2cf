"""Ejects upstreams for their answers, and readmits them after a time (`lb.balance.ejection` decides).

While no setting asks for it, nothing observes the responses.
"""

import asyncio
from collections.abc import Callable, Iterable

from lb.balance.ejection import Ejector
from lb.balance.upstream import Upstream
from lb.proxy.client_connection import Downstream
from lb.proxy.dispatcher import Dispatcher

FAILED_ATTEMPT = 502
"""Status as which a failed attempt counts."""

Report = Callable[[Upstream, float], None]
"""Called with an upstream and the seconds for which it was ejected; 0: it was readmitted."""


class Ejections:
    """The ejections of one load balancer."""

    def __init__(self, loop: asyncio.AbstractEventLoop, proxy: Dispatcher, report: Report) -> None:
        self._loop = loop
        self._proxy = proxy
        self._report = report
        self._ejector = Ejector(proxy.settings)
        self._timers: dict[Upstream, asyncio.TimerHandle] = {}
        self._interval: asyncio.TimerHandle | None = None
        self._interval_length = 0.0
        self.reasons: dict[Upstream, str] = {}
        """The ejected upstreams, each with the reason."""

    def configure(self) -> None:
        """Apply the settings, at the start and when they changed."""
        settings = self._proxy.settings
        self._ejector.configure(settings)
        on = Ejector.is_on(settings)
        self._proxy.observe(self._on_response, on)
        self._proxy.on_upstream_error = self._on_error if on else None
        length = settings.eject_interval if on else 0.0
        if length != self._interval_length:  # Other changes leave the present interval as it is.
            self._interval_length = length
            if self._interval is not None:
                self._interval.cancel()
            self._interval = self._loop.call_later(length, self._end_interval) if on else None
        if not on:
            for upstream in list(self._timers):
                self._readmit(upstream)

    def update(self, restarted: Iterable[Upstream] = ()) -> None:
        """Follow a change of the upstreams: those that were restarted begin again."""
        self._ejector.keep(self._proxy.pool.order)
        for upstream in restarted:
            self._ejector.forget(upstream)
        for upstream in list(self._timers):
            if not upstream.ejected or upstream not in self._proxy.pool.order:
                self._cancel(upstream)
                self.reasons.pop(upstream, None)
                self._ejector.forget(upstream)

    def _cancel(self, upstream: Upstream) -> None:
        timer = self._timers.pop(upstream, None)
        if timer is not None:
            timer.cancel()

    def stop(self) -> None:
        """Cancel all timers."""
        for timer in (self._interval, *self._timers.values()):
            if timer is not None:
                timer.cancel()

    def _on_response(self, upstream: Upstream, _client: Downstream, status: int, _now: float) -> None:
        if not upstream.ejected:
            self._judge(upstream, self._ejector.observe(upstream, status))

    def _on_error(self, upstream: Upstream) -> None:
        if not upstream.ejected:
            self._judge(upstream, self._ejector.observe(upstream, FAILED_ATTEMPT))

    def _end_interval(self) -> None:
        self._interval = self._loop.call_later(self._proxy.settings.eject_interval, self._end_interval)
        for upstream, reason in self._ejector.end_interval():
            self._judge(upstream, reason)

    def _judge(self, upstream: Upstream, reason: str) -> None:
        if reason and upstream.ready and self._ejector.may_eject(self._proxy.pool.order):
            self._cancel(upstream)
            seconds = self._ejector.next_time(upstream)
            self.reasons[upstream] = reason
            self._timers[upstream] = self._loop.call_later(seconds, self._readmit, upstream)
            self._proxy.eject(upstream, True)
            self._report(upstream, seconds)

    def _readmit(self, upstream: Upstream) -> None:
        self._cancel(upstream)
        self.reasons.pop(upstream, None)
        if upstream.ejected:
            self._proxy.eject(upstream, False)
            self._report(upstream, 0.0)
