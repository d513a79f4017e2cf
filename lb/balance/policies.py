"""Chooses an upstream among candidates: one class for each value of `balance`, which BALANCES lists.

`lb.proxy.upstream_pool` passes the candidates in rotation order: in rotation, not full, not suspect, not tried. Plain
rotation, without weights and without slow start, is the pool's own, because it is the default and costs least.

A weight is a share: with weights 1 and 3 the second upstream gets three requests of four. With `slow_start` the weight
of an upstream that has come up rises linearly from MIN_RAMP to its full value.

Pure: the clock and the random generator are passed in.
"""

import random
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from hashlib import blake2b
from math import ceil, exp, log
from typing import Final, Protocol

from lb.balance.upstream import Upstream
from lb.interface.settings import BALANCES, ROUND_ROBIN, Settings, parse_weights

MIN_RAMP: Final = 0.05
"""Share of its weight with which an upstream begins its slow start."""

EWMA_DECAY: Final = 10.0
"""Seconds in which the memory of a latency falls to 1/e."""

_EPSILON: Final = 1e-9
_MASK: Final = (1 << 64) - 1


class Request(Protocol):
    """What a policy sees of a request, and what it may set."""

    prefix: bytes
    set_cookie: bytes
    fast_path: bool
    started: float

    def client_ip(self) -> bytes:
        """Return the client's address."""


class Policy(ABC):
    """Chooses among candidates."""

    __slots__ = ("_clock", "_random", "_slow_start", "keeps", "observes", "weighted")

    def __init__(self, settings: Settings, clock: Callable[[], float], generator: random.Random) -> None:
        self._clock = clock
        self._random = generator
        self._slow_start = settings.slow_start
        self.weighted = bool(settings.slow_start) or len({1.0, *parse_weights(settings.weights).values()}) > 1
        self.keeps = False  # requests belong to upstreams: see `kept`
        self.observes = False  # it wants to know of responses: see `observe`

    @abstractmethod
    def choose(self, candidates: list[Upstream], request: Request | None) -> Upstream:
        """Return one of the candidates, of which there is at least one."""

    def follow(self, order: list[Upstream]) -> None:
        """Take note of all upstreams, in rotation or not."""
        return

    def kept(self, ready: list[Upstream], request: Request) -> Upstream | None:
        """Return the upstream that the request belongs to, if it is among those in rotation."""
        return None

    def observe(self, upstream: Upstream, latency: float, now: float) -> None:
        """Learn from a response that is no server error."""
        return

    def weight(self, upstream: Upstream) -> float:
        """Return the present weight."""
        if not self._slow_start:
            return upstream.weight
        risen = (self._clock() - upstream.up_since) / self._slow_start
        return upstream.weight * min(1.0, max(MIN_RAMP, risen))

    def in_turn(self, candidates: list[Upstream]) -> Upstream:
        """Return the next in a smooth weighted rotation: each gets its share, evenly spread."""
        total, best = 0.0, candidates[0]
        for each in candidates:
            weight = self.weight(each)
            each.credit += weight
            total += weight
            if each.credit > best.credit + _EPSILON:
                best = each
        best.credit -= total
        return best

    def drawn(self, candidates: list[Upstream]) -> Upstream:
        """Return one at random, by weight."""
        if not self.weighted:
            return candidates[int(self._random.random() * len(candidates))]
        weights = [self.weight(each) for each in candidates]
        left = self._random.random() * sum(weights)
        for each, weight in zip(candidates, weights, strict=True):
            left -= weight
            if left < 0:
                return each
        return candidates[-1]


class WeightedRotation(Policy):
    """Each in turn, by weight."""

    def choose(self, candidates: list[Upstream], request: Request | None) -> Upstream:
        return self.in_turn(candidates)


class LeastConnections(Policy):
    """The fewest requests in flight for its weight, among equals the next in turn."""

    def choose(self, candidates: list[Upstream], request: Request | None) -> Upstream:
        if not self.weighted:
            return min(candidates, key=lambda each: each.in_flight)
        loads = [each.in_flight / self.weight(each) for each in candidates]
        least = min(loads) + _EPSILON
        return self.in_turn([each for each, load in zip(candidates, loads, strict=True) if load <= least])


class TwoChoices(Policy):
    """The less loaded of two that are drawn at random."""

    def choose(self, candidates: list[Upstream], request: Request | None) -> Upstream:
        first = self.drawn(candidates)
        if len(candidates) == 1:
            return first
        second = self.drawn([each for each in candidates if each is not first])
        return second if self.load(second) < self.load(first) else first

    def load(self, upstream: Upstream) -> float:
        return upstream.in_flight / self.weight(upstream)


class PeakEwma(TwoChoices):
    """The lower expected latency of two that are drawn: requests in flight times an average that follows peaks at once.

    The average fades while no response comes, so that an upstream that was slow is tried again. One without a response
    yet counts as fast once, and as busy while its first requests are in flight.
    """

    PENALTY: Final = 1e6

    def __init__(self, settings: Settings, clock: Callable[[], float], generator: random.Random) -> None:
        super().__init__(settings, clock, generator)
        self.observes = True

    def load(self, upstream: Upstream) -> float:
        if not upstream.latency:
            return self.PENALTY + upstream.in_flight if upstream.in_flight else 0.0
        fade = exp(-max(0.0, self._clock() - upstream.latency_at) / EWMA_DECAY)
        return upstream.latency * fade * (upstream.in_flight + 1) / self.weight(upstream)

    def observe(self, upstream: Upstream, latency: float, now: float) -> None:
        fade = exp(-max(0.0, now - upstream.latency_at) / EWMA_DECAY)
        average = latency + (upstream.latency - latency) * fade
        upstream.latency = max(latency, average, 1e-6)
        upstream.latency_at = now


class ConsistentHash(Policy):
    """The same upstream for the same key, on every load balancer, by rendezvous hashing.

    Each upstream has a score for the key, and the highest wins. So when one goes, only its keys move, evenly to the
    others. With `hash_balance_factor` an upstream takes at most that percentage of its fair share of the requests in
    flight, and the next by score takes the rest. Without a key the request goes to the next in turn.

    A spare upstream, which serves while others are replaced, takes the keys of those that are out of rotation and no
    others, so that a replacement moves no key of a worker that serves.
    """

    __slots__ = ("_factor", "_key_of", "_regular", "_with_spare")

    def __init__(self, settings: Settings, clock: Callable[[], float], generator: random.Random) -> None:
        super().__init__(settings, clock, generator)
        self._slow_start = 0.0  # A key that moves back and forth would be no gain.
        self._factor = (settings.hash_balance_factor or 0) / 100
        self._key_of = key_reader(settings.balance_key)
        self._regular: list[Upstream] = []
        self._with_spare = False

    def follow(self, order: list[Upstream]) -> None:
        self._regular = [each for each in order if not each.spare]
        self._with_spare = len(self._regular) < len(order)

    def choose(self, candidates: list[Upstream], request: Request | None) -> Upstream:
        key = b"" if request is None else self._key_of(request)
        if not key:
            return self.in_turn(candidates)
        if self._factor:
            candidates = self._within_bound(candidates)
        code = int.from_bytes(blake2b(key, digest_size=8).digest(), "little")
        if self._with_spare:
            candidates = self._spare_or_regular(code, candidates)
        return max(candidates, key=lambda each: score(code, each))

    def _spare_or_regular(self, code: int, candidates: list[Upstream]) -> list[Upstream]:
        owner = max(self._regular, key=lambda each: score(code, each), default=None)
        needs_spare = owner is not None and not owner.ready
        return [each for each in candidates if each.spare == needs_spare] or candidates

    def _within_bound(self, candidates: list[Upstream]) -> list[Upstream]:
        requests = 1 + sum(each.in_flight for each in candidates)
        share = self._factor * requests / sum(each.weight for each in candidates)
        return [each for each in candidates if each.in_flight < ceil(share * each.weight - _EPSILON)] or candidates


class StickyCookie(Policy):
    """The upstream that the client's cookie names; without one, or when it is gone, the next in turn, and a cookie."""

    __slots__ = ("_attributes", "_find", "_name")

    def __init__(self, settings: Settings, clock: Callable[[], float], generator: random.Random) -> None:
        super().__init__(settings, clock, generator)
        self.keeps = True
        self._name = settings.balance_cookie.encode()
        self._find = _cookie_pattern(self._name)
        self._attributes = b"; Path=/; HttpOnly; SameSite=Lax"
        self._attributes += b"; Secure" if settings.tls_certificate is not None else b""

    def kept(self, ready: list[Upstream], request: Request) -> Upstream | None:
        found = self._find(request.prefix)
        if found is not None:
            name = found[1].decode("latin-1")
            for each in ready:
                if each.name == name:
                    request.set_cookie = b""
                    return each
        return None

    def choose(self, candidates: list[Upstream], request: Request | None) -> Upstream:
        chosen = self.in_turn(candidates)
        if request is not None:
            request.set_cookie = b"Set-Cookie: %b=%b%b\r\n" % (self._name, chosen.name.encode(), self._attributes)
            request.fast_path = False  # Responses on the fast path are the same for all clients.
        return chosen


def policy_class(balance: str) -> type[Policy]:
    """Return the policy of a value of `balance`."""
    found: type[Policy] = getattr(sys.modules[__name__], BALANCES[balance][0])
    return found


def policy_of(settings: Settings, clock: Callable[[], float]) -> Policy | None:
    """Return the policy that the settings name; None means plain rotation."""
    policy = policy_class(settings.balance)(settings, clock, random.Random())  # nosec B311
    return None if settings.balance == ROUND_ROBIN and not policy.weighted else policy


def score(code: int, upstream: Upstream) -> float:
    """Return the score of an upstream for a key's hash: larger with its weight, independent of the other upstreams."""
    mixed = (code ^ upstream.seed) * 0xBF58476D1CE4E5B9 & _MASK
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & _MASK
    return -upstream.weight / log((((mixed ^ mixed >> 31) >> 11) + 0.5) / (1 << 53))


def key_reader(key: str) -> Callable[[Request], bytes]:
    """Return the function that reads a request's key: `address`, `path`, `header:NAME` or `cookie:NAME`."""
    kind, _, name = key.partition(":")
    if kind == "address":
        return _address
    if kind == "path":
        return _path
    find = _cookie_pattern(name.encode()) if kind == "cookie" else _header_pattern(name.encode())
    return lambda request: b"" if (found := find(request.prefix)) is None else found[1]


def _address(request: Request) -> bytes:
    return request.client_ip()


def _path(request: Request) -> bytes:
    return request.prefix.split(b" ", 2)[1].partition(b"?")[0]


def _header_pattern(name: bytes) -> Callable[[bytes], re.Match[bytes] | None]:
    return re.compile(rb"\r\n(?i:%b):[ \t]*([^\r\n]*)" % re.escape(name)).search


def _cookie_pattern(name: bytes) -> Callable[[bytes], re.Match[bytes] | None]:
    return re.compile(rb"\r\n(?i:cookie):(?:[^\r\n]*?;)?[ \t]*%b=\"?([^;\"\r\n]*)" % re.escape(name)).search
