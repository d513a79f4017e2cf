"""Describes one upstream as a load balancer sees it, and how checks decide about its health.

Pure: it holds the containers of connections and does nothing with the connections.
"""

from hashlib import blake2b
from typing import Any, Final

from lb.http.response import ResponseReader
from lb.interface.settings import DOWN, UP, Settings, UpstreamSpec

MAX_IDLE_UNREPEATABLE: Final = 1.0
"""Seconds a connection may have been idle to carry a request that cannot be retried."""

KEEP_ALIVE_CHECKS: Final = 100
"""Successive reuses that find a connection open, after which an upstream is known to keep its connections."""


class HealthThreshold:
    """Turns checks into a state: `fall` successive failures make it unhealthy, `rise` successes healthy."""

    __slots__ = ("_streak", "fall", "healthy", "rise")

    def __init__(self, fall: int, rise: int, healthy: bool = True) -> None:
        self.fall = fall
        self.rise = rise
        self.healthy = healthy
        self._streak = 0

    @property
    def changing(self) -> bool:
        """Say whether checks are to be frequent: the last one contradicts the state, or the state is unhealthy."""
        return self._streak > 0 or not self.healthy

    def observe(self, passed: bool, *, decisive: bool = False) -> bool:
        """Apply one check and return whether the state changed; a `decisive` failure counts as `fall` failures."""
        if passed == self.healthy:
            self._streak = 0
            return False
        self._streak += 1
        if self._streak < (self.rise if passed else self.fall) and not (decisive and not passed):
            return False
        self.set(passed)
        return True

    def set(self, healthy: bool) -> None:
        """Set the state for a reason that is stronger than a check."""
        self.healthy = healthy
        self._streak = 0


class Upstream:
    """One worker as this load balancer sees it; `ready` means in rotation: ordered by the supervisor, and healthy."""

    __slots__ = (
        "closes_early", "connections", "credit", "dial_address", "ejected", "hangs", "health", "health_host",
        "health_path", "host", "idle", "in_flight", "keep_alive_checks_left", "latency", "latency_at", "name", "port",
        "reader", "ready", "reason", "seed", "slots", "spare", "state", "suspect", "tunnels", "up_since", "weight",
    )  # fmt: skip

    def __init__(self, spec: UpstreamSpec, settings: Settings, slots: Any = None) -> None:
        self.name = spec.name
        self.host = spec.host
        self.port = spec.port
        self.health_path = spec.health_path
        self.health_host = spec.health_host
        self.spare = spec.spare  # it serves only while others are replaced
        self.dial_address: tuple[str, int] | None = None
        self.hangs = False  # its faults let every request hang
        self.state: str = spec.state
        is_usable = spec.state != DOWN and not spec.objection
        self.health = HealthThreshold(settings.health_fall, settings.health_rise, healthy=is_usable)
        self.reason = "set by the supervisor" if spec.state == DOWN else spec.objection or "new"
        self.ready = spec.state == UP and is_usable
        self.suspect = False
        self.closes_early = False  # it closed a connection soon after its last use, without `Connection: close`
        self.keep_alive_checks_left = KEEP_ALIVE_CHECKS  # checks of idle connections that must still find them open
        self.in_flight = 0
        self.tunnels = 0  # upgraded connections: they do not count as requests
        self.reader = ResponseReader(
            spec.name,
            settings.name,
            settings.max_fields,
            keep_alive=settings.upstream_keep_alive,
            marks=settings.injected_marks,
        )
        # What policies know of it.
        self.weight = 1.0
        self.credit = 0.0  # its claim in a weighted rotation
        self.up_since = -1e9
        self.latency = self.latency_at = 0.0  # an average in seconds, and when it was last updated
        self.seed = int.from_bytes(blake2b(spec.name.encode(), digest_size=8).digest(), "little")
        self.ejected = False  # its answers were bad (`lb.balance.ejection`)
        # The caller's counters of this upstream (`lb.interface.counters`).
        self.slots: Any = slots
        # The caller, which does the I/O, keeps these: idle connections, the latest last, and all connections.
        self.idle: list[Any] = []
        self.connections: set[Any] = set()

    def closed_early(self) -> None:
        """Note that it closed a connection soon after its last use: it has to prove again that it keeps them."""
        self.closes_early = True
        self.keep_alive_checks_left = KEEP_ALIVE_CHECKS

    def __repr__(self) -> str:
        signs = f"{self.state}{'' if self.health.healthy else ' unhealthy'}{' suspect' if self.suspect else ''}"
        return f"<Upstream {self.name} {self.host}:{self.port} {signs} {self.in_flight} in flight>"

    @property
    def address(self) -> tuple[str, int]:
        """Return the address to connect to: that of its fault injector, if it has one."""
        return self.dial_address or (self.host, self.port)

    @property
    def check_address(self) -> tuple[str, int]:
        """Return where to connect for a health check: no fault changes it but one that all requests meet."""
        return self.address if self.hangs else (self.host, self.port)

    @property
    def spec(self) -> UpstreamSpec:
        """Return its present description."""
        return UpstreamSpec(
            self.name, self.host, self.port, self.state, self.health_path, self.health_host, spare=self.spare
        )

    def is_at(self, spec: UpstreamSpec) -> bool:
        """Say whether `spec` describes this upstream."""
        return (self.name, self.host, self.port) == (spec.name, spec.host, spec.port)
