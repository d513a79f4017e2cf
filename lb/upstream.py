"""Upstreams and the choice between them: who is in rotation, who is next, who may be asked again.

An upstream's place in the rotation follows from three separate facts: the supervisor's word (`state`), this LB's own view
(`healthy`, by active checks and refused connections) and a passing doubt (`suspect`, raised by a sign that may be an accident:
a reset, an early close, a timeout). A suspect is skipped while others are in rotation and never taken out by doubt alone.

Pure: containers for connections are kept here, nothing is done to them. Speaks on the edge: what changes something says so.
"""

from collections.abc import Callable, Collection, Iterable
from math import inf
from typing import Any, Final

from lb.response import ResponseReader
from lb.settings import DOWN, LEAST_CONNECTIONS, UP, Settings, UpstreamSpec


class Judge:
    """Turns single checks into a state: `fall` failures in a row take it down, `rise` successes bring it up."""

    __slots__ = ("_streak", "fall", "healthy", "rise")

    def __init__(self, fall: int, rise: int, healthy: bool = True) -> None:
        self.fall = fall
        self.rise = rise
        self.healthy = healthy
        self._streak = 0

    @property
    def changing(self) -> bool:
        """Say whether the last check spoke against the state, or the state is down: then checks come quickly."""
        return self._streak > 0 or not self.healthy

    def observe(self, passed: bool, *, decisive: bool = False) -> bool:
        """Take one check in and return whether the state changed. A `decisive` failure counts as all of `fall`."""
        if passed == self.healthy:
            self._streak = 0
            return False
        self._streak += 1
        if self._streak < (self.rise if passed else self.fall) and not (decisive and not passed):
            return False
        self.set(passed)
        return True

    def set(self, healthy: bool) -> None:
        """Set the state by a stronger word than a check."""
        self.healthy = healthy
        self._streak = 0


class Upstream:
    """One worker as this LB sees it. `ready` is what the pick looks at: in rotation by word and by view."""

    __slots__ = (
        "connections", "gate", "health_path", "host", "idle", "in_flight", "judge", "name", "port", "reader", "ready", "reason", "slots",
        "state", "suspect",
    )  # fmt: skip

    def __init__(self, spec: UpstreamSpec, settings: Settings, slots: Any = None) -> None:
        self.name = spec.name
        self.host = spec.host
        self.port = spec.port
        self.health_path = spec.health_path
        self.gate: tuple[str, int] | None = None
        self.state: str = spec.state
        self.judge = Judge(settings.health_fall, settings.health_rise, healthy=spec.state != DOWN)
        self.reason = "as told" if spec.state == DOWN else "new"
        self.ready = spec.state == UP
        self.suspect = False
        self.in_flight = 0
        self.reader = ResponseReader(spec.name, settings.name, settings.max_fields)
        # Of the caller: where he counts what comes from here (`lb.counters`).
        self.slots: Any = slots
        # Of the caller, who does the I/O: idle connections, latest last, and all connections.
        self.idle: list[Any] = []
        self.connections: set[Any] = set()

    def __repr__(self) -> str:
        signs = f"{self.state}{'' if self.judge.healthy else ' unhealthy'}{' suspect' if self.suspect else ''}"
        return f"<Upstream {self.name} {self.host}:{self.port} {signs} {self.in_flight} in flight>"

    @property
    def address(self) -> tuple[str, int]:
        """Return where to connect to: its gate while there is one."""
        return self.gate or (self.host, self.port)

    @property
    def spec(self) -> UpstreamSpec:
        """Return the description it has at present."""
        return UpstreamSpec(self.name, self.host, self.port, self.state, self.health_path)

    def is_at(self, spec: UpstreamSpec) -> bool:
        """Say whether `spec` describes this very upstream."""
        return (self.name, self.host, self.port) == (spec.name, spec.host, spec.port)


class UpstreamPool:
    """All upstreams in rotation order, and the pick."""

    def __init__(self, settings: Settings, slots: Callable[[str], Any] = lambda name: None) -> None:
        """`slots` gives an upstream, by its name, the place where the caller counts."""
        self._slots = slots
        self.order: list[Upstream] = []
        self.limit: float = inf if settings.max_in_flight is None else settings.max_in_flight
        self.suspects = 0
        self._settings = settings
        self._cursor = 0
        self._least = settings.balance == LEAST_CONNECTIONS

    def pick(self, tried: Collection[Upstream] = ()) -> Upstream | None:
        """Return the next upstream with room that was not tried, or None (`rotation` tells why)."""
        if self._least:
            return self._pick_least(tried)
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

    def _pick_least(self, tried: Collection[Upstream]) -> Upstream | None:
        """Return the upstream with the fewest requests in flight, of equals the next in turn."""
        turn = self.order[self._cursor :] + self.order[: self._cursor]
        free = [each for each in turn if each.ready and each.in_flight < self.limit and not each.suspect and each not in tried]
        if not free:
            return self._pick_suspect(tried) if self.suspects else None
        best = min(free, key=lambda each: each.in_flight)
        self._cursor = (self.order.index(best) + 1) % len(self.order)
        return best

    def _pick_suspect(self, tried: Collection[Upstream]) -> Upstream | None:
        candidates = [each for each in self.order if each.ready and each not in tried]
        if any(not each.suspect for each in candidates):
            return None  # Full, not absent: the request waits for it.
        return next((each for each in candidates if each.in_flight < self.limit), None)

    def pickable(self, tried: Collection[Upstream | None]) -> bool:
        """Say whether one that was not tried has room at this moment; the turn stays as it is."""
        return any(each.ready and each.in_flight < self.limit and each not in tried for each in self.order)

    def rotation(self, tried: Collection[Upstream] = ()) -> list[Upstream]:
        """Return who is in rotation, full or not, less those tried."""
        return [each for each in self.order if each.ready and each not in tried]

    def apply(self, specs: Iterable[UpstreamSpec]) -> tuple[list[Upstream], list[Upstream], list[Upstream]]:
        """Make the list what the supervisor wants; return (new, gone out at once, removed), for the caller to act on.

        `up` from down or new is in rotation at once; an unchanged `up` leaves this LB's own view alone. The turn goes on with
        the upstream that was next, where it still exists.
        """
        upcoming = self.order[self._cursor :] + self.order[: self._cursor]
        kept: list[Upstream] = []
        new: list[Upstream] = []
        out: list[Upstream] = []
        for spec in specs:
            upstream = next((each for each in self.order if each.is_at(spec)), None)
            if upstream is None:
                new.append(upstream := Upstream(spec, self._settings, self._slots(spec.name)))
            elif upstream.state != spec.state:
                if spec.state == DOWN:
                    upstream.judge.set(False)
                    out.append(upstream)
                elif upstream.state == DOWN and spec.state == UP:
                    upstream.judge.set(True)
                    self.trust(upstream)
                upstream.state = spec.state
                upstream.reason = "as told"
                self.settle(upstream)
            upstream.health_path = spec.health_path
            kept.append(upstream)
        removed = [each for each in self.order if each not in kept]
        for each in removed:
            self.trust(each)
            each.ready = False
        self.order = kept
        self._cursor = next((kept.index(each) for each in upcoming if each in kept), 0)
        return new, out, removed

    def configure(self, settings: Settings) -> None:
        """Take over settings that changed live."""
        self._settings = settings
        self._least = settings.balance == LEAST_CONNECTIONS
        for each in self.order:
            each.judge.fall, each.judge.rise = settings.health_fall, settings.health_rise

    def settle(self, upstream: Upstream) -> None:
        """Draw the conclusion from word and view."""
        upstream.ready = upstream.state == UP and upstream.judge.healthy

    def doubt(self, upstream: Upstream) -> bool:
        """Skip `upstream` while others are in rotation; return whether that is news."""
        if upstream.suspect or not upstream.ready:
            return False
        upstream.suspect = True
        self.suspects += 1
        return True

    def trust(self, upstream: Upstream) -> None:
        """End the doubt."""
        if upstream.suspect:
            upstream.suspect = False
            self.suspects -= 1


FREE_REPEATS: Final = 1
MIN_BUDGET: Final = 3
BUDGET_SHARE: Final = 0.2


def within_budget(repeats_done: int, repeating_now: int, in_flight: int) -> bool:
    """Say whether one more repeat is affordable: the first always is, later ones draw on a share of what is in flight.

    So one dead worker never costs a client an answer, and many dead workers never multiply the load on the rest.
    """
    return repeats_done < FREE_REPEATS or repeating_now < max(MIN_BUDGET, BUDGET_SHARE * in_flight)
