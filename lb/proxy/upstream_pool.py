"""Keeps the upstreams and chooses between them: which are in rotation, which is next, whether a retry is allowed.

An upstream's place in the rotation depends on three separate facts: the supervisor's order (`state`), this load
balancer's own view (`healthy`, from active checks and refused connections), and a temporary suspicion (`suspect`, after
a sign that may be an accident: a reset, an early close, a timeout). A suspect is skipped while others are in rotation,
and never removed for suspicion alone.

An upstream may also be ejected for its answers (`lb.balance.ejection`). It is then out of rotation, unless the share of
upstreams that are healthy and not ejected falls below `eject_panic_percent`: then ejections are ignored.

Pure: it holds the containers of connections and does nothing with the connections. A function that may change a state
returns whether it did.
"""

from collections.abc import Callable, Collection, Iterable
from math import inf
from typing import Any, Final

from lb.balance.policies import Policy, Request, policy_of
from lb.balance.upstream import HealthThreshold as HealthThreshold
from lb.balance.upstream import Upstream as Upstream
from lb.interface.settings import DOWN, UP, Settings, UpstreamSpec, parse_weights


class UpstreamPool:
    """All upstreams in rotation order, and the choice of the next."""

    def __init__(
        self,
        settings: Settings,
        slots: Callable[[str], Any] = lambda name: None,
        clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """Create an empty pool; `slots` returns the counters of an upstream by its name."""
        self._slots = slots
        self._clock = clock
        self.order: list[Upstream] = []
        self.limit: float = inf if settings.max_in_flight is None else settings.max_in_flight
        self.suspects = 0
        self._settings = settings
        self._cursor = 0
        self.panics = False
        self._weights = parse_weights(settings.weights)
        self._policy: Policy | None = policy_of(settings, clock)

    def pick(self, tried: Collection[Upstream] = (), request: Request | None = None) -> Upstream | None:
        """Return the next upstream with room that was not tried, or None (see `rotation` for the reason)."""
        if self._policy is not None:
            return self._pick_by(self._policy, tried, request)
        order = self.order
        at = first = self._cursor if self._cursor < len(order) else 0
        while order:
            upstream = order[at]
            at += 1
            if upstream.ready and upstream.in_flight < self.limit and not upstream.suspect and upstream not in tried:
                self._cursor = at
                return upstream
            if at == len(order):
                at = 0
            if at == first:
                break
        return self._pick_suspect(tried) if self.suspects else None

    def _pick_by(self, policy: Policy, tried: Collection[Upstream], request: Request | None) -> Upstream | None:
        """Return the policy's choice; None also if the request belongs to an upstream that is full: it waits."""
        ready = [each for each in self.order[self._cursor :] if each.ready and each not in tried]
        ready += [each for each in self.order[: self._cursor] if each.ready and each not in tried]
        if policy.keeps and request is not None:
            kept = policy.kept(ready, request)
            if kept is not None:
                return kept if kept.in_flight < self.limit else None
        sure = [each for each in ready if not each.suspect] or ready
        free = [each for each in sure if each.in_flight < self.limit]
        if not free:
            return None
        chosen = policy.choose(free, request)
        self._cursor = (self.order.index(chosen) + 1) % len(self.order)
        return chosen

    @property
    def keeps(self) -> bool:
        """Say whether a request may wait for its upstream while others have room."""
        return self._policy is not None and self._policy.keeps

    @property
    def observer(self) -> Callable[[Upstream, float, float], None] | None:
        """Return what is to be called with upstream, latency and time of each response, if anything."""
        return self._policy.observe if self._policy is not None and self._policy.observes else None

    def _pick_suspect(self, tried: Collection[Upstream]) -> Upstream | None:
        candidates = [each for each in self.order if each.ready and each not in tried]
        if any(not each.suspect for each in candidates):
            return None  # There is one that is not suspect but full: the request waits for it.
        return next((each for each in candidates if each.in_flight < self.limit), None)

    def has_room(self, tried: Collection[Upstream | None]) -> bool:
        """Say whether an upstream that was not tried has room now; the rotation does not advance."""
        return any(each.ready and each.in_flight < self.limit and each not in tried for each in self.order)

    def rotation(self, tried: Collection[Upstream] = ()) -> list[Upstream]:
        """Return the upstreams in rotation, full or not, without those tried."""
        return [each for each in self.order if each.ready and each not in tried]

    def apply(self, specs: Iterable[UpstreamSpec]) -> tuple[list[Upstream], list[Upstream], list[Upstream]]:
        """Update the list to the supervisor's; return (new, taken out of rotation at once, removed) for the caller.

        An upstream that is new or no longer down counts as healthy; with `up` it is in rotation at once. Other changes
        leave this load balancer's own view unchanged. The rotation continues with the upstream that was next, if it
        still exists.
        """
        upcoming = self.order[self._cursor :] + self.order[: self._cursor]
        kept: list[Upstream] = []
        new: list[Upstream] = []
        out: list[Upstream] = []
        for spec in specs:
            upstream = next((each for each in self.order if each.is_at(spec)), None)
            if upstream is None:
                new.append(upstream := Upstream(spec, self._settings, self._slots(spec.name)))
                upstream.weight = self._weights.get(spec.name, 1.0)
                if self.order:  # At the start of the load balancer all have their full weight.
                    upstream.up_since = self._clock()
            elif upstream.state != spec.state:
                if spec.state == DOWN:
                    upstream.health.set(False)
                    out.append(upstream)
                elif upstream.state == DOWN:
                    upstream.health.set(True)
                    upstream.ejected = False
                    self.clear_suspect(upstream)
                upstream.state = spec.state
                upstream.reason = "set by the supervisor"
                self.update_ready(upstream)
            upstream.health_path = spec.health_path
            upstream.health_host = spec.health_host
            kept.append(upstream)
        removed = [each for each in self.order if each not in kept]
        for each in removed:
            self.clear_suspect(each)
            each.ready = False
        self.order = kept
        self._cursor = next((kept.index(each) for each in upcoming if each in kept), 0)
        self._follow()
        self.update_panic()
        return new, out, removed

    def configure(self, settings: Settings) -> None:
        """Apply settings that changed while running."""
        self._settings = settings
        before, self._weights = self._weights, parse_weights(settings.weights)
        self._policy = policy_of(settings, self._clock)
        self._follow()
        for each in self.order:
            each.weight = self._weights.get(each.name, 1.0)
            if self._weights != before:
                each.credit = 0.0  # A claim of a large weight is worth many requests of a small one.
            each.health.fall, each.health.rise = settings.health_fall, settings.health_rise
            each.reader.configure(keep_alive=settings.upstream_keep_alive)
        self.update_panic()

    def _follow(self) -> None:
        if self._policy is not None:
            self._policy.follow(self.order)

    def update_ready(self, upstream: Upstream) -> None:
        """Derive `ready` from the supervisor's order, the load balancer's own view and the upstream's answers."""
        ready = upstream.state == UP and upstream.health.healthy and (self.panics or not upstream.ejected)
        if ready and not upstream.ready:
            upstream.up_since = self._clock()
            upstream.credit = 0.0
        upstream.ready = ready

    def update_panic(self) -> None:
        """Decide whether ejections are ignored, after any change of a state, a health or an ejection."""
        usable = sum(each.state == UP and each.health.healthy and not each.ejected for each in self.order)
        panics = 100 * usable < self._settings.eject_panic_percent * len(self.order)
        if panics != self.panics:
            self.panics = panics
            for each in self.order:
                if each.ejected:
                    self.update_ready(each)

    def mark_suspect(self, upstream: Upstream) -> bool:
        """Mark `upstream` suspect: it is skipped while others are in rotation. Return whether that is a change."""
        if upstream.suspect or not upstream.ready:
            return False
        upstream.suspect = True
        self.suspects += 1
        return True

    def clear_suspect(self, upstream: Upstream) -> None:
        """Clear the suspicion."""
        if upstream.suspect:
            upstream.suspect = False
            self.suspects -= 1


FREE_RETRIES: Final = 1
"""Retries of a request that need no budget."""

MIN_BUDGET: Final = 3
"""Requests that may be in further retries at once, in any case."""

BUDGET_SHARE: Final = 0.2
"""Share of the requests in flight that may be in further retries."""


def within_budget(retries_done: int, retrying_now: int, in_flight: int) -> bool:
    """Say whether one more retry is allowed: the first always is, later ones within a share of the requests in flight.

    So one dead worker never costs a client its response, and many dead workers never multiply the load on the others.
    """
    return retries_done < FREE_RETRIES or retrying_now < max(MIN_BUDGET, BUDGET_SHARE * in_flight)
