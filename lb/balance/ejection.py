"""Decides which upstreams are ejected for their answers, and for how long: outlier detection as in Envoy.

An upstream is ejected after a number of server errors in a row (5xx, or gateway errors alone: 502, 503, 504 and
attempts that failed), or when their share of an interval's responses is too large. The first ejection takes
`eject_time`, the n-th n times as long, up to `eject_time_max`. Each interval without one takes one off. At most
`eject_max_percent` of the upstreams are ejected at a time; how few may be left is decided in `lb.proxy.upstream_pool`.

Pure: it changes nothing but its own counts.
"""

from collections.abc import Collection

from lb.balance.upstream import Upstream
from lb.interface.settings import Settings

GATEWAY_ERRORS = frozenset((502, 503, 504))


class _Record:
    """What is known of the answers of one upstream."""

    __slots__ = ("errors", "failures", "gateway_errors", "requests", "times")

    def __init__(self) -> None:
        self.errors = 0  # server errors in a row
        self.gateway_errors = 0  # gateway errors in a row
        self.requests = 0  # in this interval
        self.failures = 0  # in this interval
        self.times = 0  # ejections that count for the length of the next


class Ejector:
    """The counts of all upstreams."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._records: dict[Upstream, _Record] = {}

    @staticmethod
    def is_on(settings: Settings) -> bool:
        """Say whether the settings ask for ejections at all."""
        return bool(settings.eject_after_5xx or settings.eject_after_gateway_errors or settings.eject_error_percent)

    def configure(self, settings: Settings) -> None:
        """Apply settings that changed while running; when ejections are turned off, forget all that was counted."""
        self._settings = settings
        if not self.is_on(settings):
            self._records.clear()

    def keep(self, present: Collection[Upstream]) -> None:
        """Forget the upstreams that are no longer present."""
        self._records = {upstream: record for upstream, record in self._records.items() if upstream in present}

    def forget(self, upstream: Upstream) -> None:
        """Begin again with an upstream that was restarted."""
        self._records.pop(upstream, None)

    def observe(self, upstream: Upstream, status: int) -> str:
        """Count a response, or as 502 a failed attempt; return why the upstream should be ejected, or an empty text."""
        record = self._records.setdefault(upstream, _Record())
        record.requests += 1
        if status < 500:
            record.errors = record.gateway_errors = 0
            return ""
        record.failures += 1
        record.errors += 1
        record.gateway_errors = record.gateway_errors + 1 if status in GATEWAY_ERRORS else 0
        limit = self._settings.eject_after_gateway_errors
        if limit and record.gateway_errors >= limit:
            record.gateway_errors = record.errors = 0
            return f"{limit} gateway errors in a row"
        limit = self._settings.eject_after_5xx
        if limit and record.errors >= limit:
            record.gateway_errors = record.errors = 0
            return f"{limit} server errors in a row"
        return ""

    def end_interval(self) -> list[tuple[Upstream, str]]:
        """Start a new interval; return the upstreams that should be ejected for the last one, with the reason."""
        found = []
        limit = self._settings.eject_error_percent
        for upstream, record in self._records.items():
            requests, failures, record.requests, record.failures = record.requests, record.failures, 0, 0
            if upstream.ejected:
                continue
            record.times = max(0, record.times - 1)
            if limit and requests >= self._settings.eject_min_requests and 100 * failures >= limit * requests:
                found.append((upstream, f"{100 * failures / requests:.0f}% of {requests} responses are server errors"))
        return found

    def may_eject(self, order: Collection[Upstream]) -> bool:
        """Say whether one more of these upstreams may be ejected."""
        ejected = sum(each.ejected for each in order)
        return 100 * (ejected + 1) <= self._settings.eject_max_percent * len(order)

    def next_time(self, upstream: Upstream) -> float:
        """Count an ejection and return how many seconds it takes."""
        record = self._records.setdefault(upstream, _Record())
        record.times += 1
        record.errors = record.gateway_errors = record.requests = record.failures = 0
        return min(self._settings.eject_time * record.times, self._settings.eject_time_max)
