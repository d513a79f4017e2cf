"""What one load balancer is told about itself and its upstreams: plain frozen data, no behaviour.

Both classes travel by pickle (to the forked process) and by `dataclasses.asdict` as JSON (over the control socket), so they
hold nothing but numbers, strings and None. All times are seconds, all sizes bytes.
"""

import re
from dataclasses import dataclass, fields, replace
from math import inf
from typing import Any, Final

ROUND_ROBIN: Final = "round-robin"
LEAST_CONNECTIONS: Final = "least-connections"
BALANCES: Final = (ROUND_ROBIN, LEAST_CONNECTIONS)

UP: Final = "up"
DOWN: Final = "down"
DRAINING: Final = "draining"
UPSTREAM_STATES: Final = (UP, DOWN, DRAINING)


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that shapes one LB; each field has the default that serves one machine."""

    name: str = "lb-0"
    balance: str = ROUND_ROBIN

    # Active health checks.
    health_path: str = "/healthz"
    health_interval: float = 5.0
    health_timeout: float = 2.0
    health_fall: int = 2
    health_rise: int = 2

    # One exchange.
    request_timeout: float = 30.0  # until an upstream begins its response, all attempts together (504)
    queue_timeout: float = 10.0  # waiting for an upstream with room (503)
    connect_timeout: float = 3.0  # one connection attempt
    body_timeout: float = 60.0  # no progress in a body, either way
    retries: int = 2  # further upstreams tried for a request that is safe to repeat
    max_in_flight: int | None = None  # requests in flight per upstream, this LB's share

    # One client connection.
    head_timeout: float = 10.0  # from a head's first byte to its last (408)
    idle_timeout: float = 60.0  # between requests, and before the first
    linger_timeout: float = 2.0  # how long what a refused client still sends is read and dropped
    half_close_grace: float = 1.0  # how long a client that sent FIN may still be waiting for its answer
    tunnel_timeout: float = 3600.0  # no byte either way through an upgraded connection

    # One upstream connection: half of the keep-alive that workers grant (waitress: 120 s), so that we close first.
    upstream_idle_timeout: float = 60.0

    # Limits.
    max_body: int | None = None  # 413 above it
    max_request_line: int = 8192  # 414 above it
    max_head: int = 32768  # 431 above it
    max_fields: int = 100  # 431 above it

    shutdown_grace: float = 10.0

    access_log: str | None = None  # the file that gets a line per exchange; none: no file
    faults: str | None = None  # the folder that says what is to go wrong with which upstream; none: nothing


@dataclass(frozen=True, slots=True)
class UpstreamSpec:
    """A worker as the supervisor (or the command line) describes it; `state` is one of UPSTREAM_STATES. A `health_path` of its own
    goes before that of the settings: while a service is rolled, the old ones and those that follow may each have theirs."""

    name: str
    host: str
    port: int
    state: str = UP
    health_path: str | None = None


_FIXED: Final = frozenset({"name", "access_log", "faults"})
_DEFAULTS: Final[dict[str, Any]] = {field.name: field.default for field in fields(Settings)}
_OPTIONAL: Final = frozenset({"max_body", "max_in_flight"})  # whole numbers or None
_MAY_BE_ZERO: Final = frozenset({"retries", "max_body", "half_close_grace", "shutdown_grace", "queue_timeout"})
_PATH = re.compile(r"/[\x21\x22\x24-\x7e]*").fullmatch


def is_path(value: Any) -> bool:
    """Whether this can be asked for in a health check."""
    return isinstance(value, str) and _PATH(value) is not None


def changed(settings: Settings, partial: dict[str, Any]) -> Settings:
    """Return `settings` with what `partial` names and may change live; unknown names are ignored (a newer peer's).

    ValueError: a value of a wrong type or out of range; then nothing is changed.
    """
    if not isinstance(partial, dict):
        raise ValueError("settings are no object")
    values = {key: _checked(key, value) for key, value in partial.items() if key in _DEFAULTS and key not in _FIXED}
    return replace(settings, **values)


def _checked(key: str, value: Any) -> Any:
    """Return a value as its field's type. ValueError."""
    default = _DEFAULTS[key]
    if key == "balance":
        valid = isinstance(value, str) and value in BALANCES
    elif key == "health_path":
        valid = is_path(value)
    elif value is None:
        valid = key in _OPTIONAL
    else:
        kinds = (int, float) if isinstance(default, float) else (int,)
        valid = isinstance(value, kinds) and not isinstance(value, bool) and (0 if key in _MAY_BE_ZERO else 1e-3) <= value < inf
    if not valid:
        raise ValueError(f"setting {key}: {value!r} is not valid")
    return float(value) if isinstance(default, float) else value
