"""Defines the settings of one load balancer and the description of its upstreams: frozen data without behavior.

Both classes are sent by pickle (to the forked process) and by `dataclasses.asdict` as JSON (over the control socket),
so they contain only numbers, strings and None. All times are in seconds, all sizes in bytes.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from ipaddress import IPv4Network, IPv6Network, ip_network
from math import inf
from typing import Any, Final

ROUND_ROBIN: Final = "round-robin"
BALANCES: Final = {
    ROUND_ROBIN: ("WeightedRotation", "the next worker"),
    "least-connections": ("LeastConnections", "the worker with the fewest requests in flight, among equals the next"),
    "power-of-two-choices": (
        "TwoChoices",
        "the one with fewer requests in flight of two workers that are drawn at random",
    ),
    "peak-ewma": ("PeakEwma", "the one with the lower expected latency of two workers that are drawn at random"),
    "consistent-hash": ("ConsistentHash", "the same worker for the same `balance-key`, on every load balancer"),
    "sticky-cookie": ("StickyCookie", "the worker that the client's cookie names"),
}
"""The policies: their class in `lb.balance.policies`, and where a request goes."""

EXPECTED_STATUSES: Final = "200-399"
"""Statuses of a passed health check, where the settings say nothing else."""

UP: Final = "up"
DOWN: Final = "down"
DRAINING: Final = "draining"
UPSTREAM_STATES: Final = (UP, DOWN, DRAINING)

FOREVER: Final = 1e12
"""The end of a pause that only an order ends, in monotonic seconds."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of one load balancer; the defaults suit a single machine."""

    name: str = "lb-0"
    balance: str = ROUND_ROBIN
    balance_key: str = "address"  # of consistent-hash: address, path, header:NAME or cookie:NAME
    balance_cookie: str = "comet-worker"  # of sticky-cookie: its name
    hash_balance_factor: int | None = (
        None  # of consistent-hash: percent of its fair share that an upstream takes at most
    )
    weights: str = ""  # NAME=WEIGHT, separated by commas; 1 for those not named
    slow_start: float = 0.0  # seconds in which the weight of an upstream that came up rises

    # Active health checks.
    health_path: str = "/healthz"
    health_host: str | None = None  # Host of a check; None: the upstream's own address
    health_status: str = EXPECTED_STATUSES  # statuses of a passed check: numbers and ranges, separated by commas
    health_interval: float = 5.0
    health_timeout: float = 2.0
    health_fall: int = 2
    health_rise: int = 2

    # Ejection for answers; 0 turns a rule off.
    eject_after_5xx: int = 0  # server errors in a row
    eject_after_gateway_errors: int = 0  # in a row
    eject_error_percent: float = 0.0  # share of server errors in an interval
    eject_min_requests: int = 50  # in an interval, below which the share does not count
    eject_interval: float = 10.0
    eject_time: float = 30.0
    eject_time_max: float = 300.0
    eject_max_percent: float = 50.0  # of all upstreams
    eject_panic_percent: float = 50.0  # all are used if a smaller share is healthy and not ejected

    # One exchange.
    request_timeout: float = 30.0  # until an upstream begins its response, over all attempts (504)
    queue_timeout: float = 10.0  # waiting for an upstream with room (503)
    connect_timeout: float = 3.0  # one attempt to connect
    body_timeout: float = 60.0  # without progress in a body, in either direction
    retries: int = 2  # further upstreams tried for a request that is safe to retry
    upstream_keep_alive: bool = True  # whether a connection to a worker serves more than one request
    max_in_flight: int | None = None  # requests in flight per upstream, this load balancer's share

    # One client connection.
    head_timeout: float = 10.0  # from the first byte of a head to its last (408)
    idle_timeout: float = 60.0  # between requests, and before the first
    linger_timeout: float = 2.0  # during which input of a refused client is read and discarded
    half_close_grace: float = 3600.0  # for the response to a client that sent FIN; request_timeout limits it too
    tunnel_timeout: float = 3600.0  # without a byte in either direction on an upgraded connection

    # One upstream connection: half of the workers' keep-alive timeout (waitress: 120 s), so that this side closes
    # first.
    upstream_idle_timeout: float = 60.0

    # Limits.
    max_body: int | None = None  # 413 above it
    max_request_line: int = 8192  # 414 above it
    max_head: int = 32768  # 431 above it
    max_fields: int = 100  # 431 above it

    shutdown_grace: float = 10.0
    tunnel_grace: float = 10.0  # for tunnels while this load balancer, or their worker, is drained

    # Networks, separated by commas, whose forwarding fields are believed; None: X-Forwarded-For is kept from anybody.
    trusted_proxies: str | None = None

    # TLS for clients: files in PEM form, and what changes with their content; None: plain HTTP.
    tls_certificate: str | None = None
    tls_key: str | None = None
    tls_digest: str = ""

    access_log: str | None = None  # file that gets a line per exchange; None: no access log
    access_log_format: str = "json"
    span_socket: str | None = None  # socket that gets the spans of exchanges; None: no tracing
    trace_sample: float = 100.0  # percent of the traces that begin here which are recorded
    faults: str | None = None  # folder with the faults to inject per upstream; None: no faults
    injected_marks: bool = False  # whether upstreams say truly, by X-Comet-Injected, that they injected a failure
    paused_until: float = 0.0  # monotonic time until which requests wait at its start; later, messages change it


@dataclass(frozen=True, slots=True)
class UpstreamSpec:
    """A worker as the supervisor or the command line describes it; `state` is one of UPSTREAM_STATES.

    Its `health_path` and `health_host` take precedence over those of the settings: during a rolling update old and new
    replicas may have different ones. `objection` is why other load balancers find it unhealthy: one that starts does
    not use it before a check has passed. `spare`: it serves only while others are replaced.
    """

    name: str
    host: str
    port: int
    state: str = UP
    health_path: str | None = None
    health_host: str | None = None
    objection: str = ""
    spare: bool = False


ACCESS_LOG_FORMATS: Final = ("json", "combined")
_FIXED: Final = frozenset(
    {"name", "access_log", "access_log_format", "span_socket", "faults", "injected_marks", "paused_until"}
)
_DEFAULTS: Final[dict[str, Any]] = {field.name: field.default for field in fields(Settings)}
_OPTIONAL: Final = frozenset({"max_body", "max_in_flight", "hash_balance_factor"})  # integers or None
_MAY_BE_ZERO: Final = frozenset(
    {"retries", "max_body", "half_close_grace", "shutdown_grace", "tunnel_grace", "queue_timeout", "slow_start"}
    | {"eject_after_5xx", "eject_after_gateway_errors", "eject_error_percent", "eject_max_percent"}
    | {"eject_panic_percent", "trace_sample"}
)
BALANCE_KEY: Final = r"address|path|(?:header|cookie):[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
COOKIE_NAME: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
MAX_WEIGHT: Final = 256
MAPPED_BITS: Final = 96
"""Bits of an IPv4-mapped IPv6 address before the IPv4 address."""
_STATUSES = re.compile(r"([0-9]{3})(?:-([0-9]{3}))?").fullmatch
_HOST = re.compile(r"(?:[0-9A-Za-z_.\-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?").fullmatch
_PATH = re.compile(r"/[\x21\x22\x24-\x7e]*").fullmatch


def is_path(value: Any) -> bool:
    """Return whether this is a valid path of a health check."""
    return isinstance(value, str) and _PATH(value) is not None


def is_host(value: Any) -> bool:
    """Return whether this is a valid Host of a health check."""
    return isinstance(value, str) and _HOST(value) is not None


def parse_weights(text: str) -> dict[str, float]:
    """Return the weights by the names of upstreams; raise ValueError if the text is malformed."""
    weights = {}
    for part in text.split(",") if text else ():
        name, _, weight = part.rpartition("=")
        if not name or not weight.isascii() or not weight.isdigit() or not 1 <= int(weight) <= MAX_WEIGHT:
            raise ValueError(f"weight {part!r} is not NAME=WEIGHT with a weight from 1 to {MAX_WEIGHT}")
        weights[name.strip()] = float(weight)
    return weights


def parse_statuses(text: str) -> list[tuple[int, int]]:
    """Return the ranges of statuses in a list of statuses and ranges; raise ValueError if it is malformed."""
    ranges = []
    for part in text.split(","):
        found = _STATUSES(part.strip())
        if found is None or not 100 <= (low := int(found[1])) <= (high := int(found[2] or found[1])) <= 599:
            raise ValueError(f"{part!r} is no status and no range of statuses from 100 to 599")
        ranges.append((low, high))
    return ranges


def is_among(status: int, ranges: list[tuple[int, int]]) -> bool:
    """Say whether a status is in one of the ranges."""
    return any(low <= status <= high for low, high in ranges)


def parse_networks(text: str) -> list[IPv4Network | IPv6Network]:
    """Return the networks in a list of addresses and networks; raise ValueError if one is none.

    A network of IPv4-mapped IPv6 addresses is that of the IPv4 addresses, as which peers are known.
    """
    found = [ip_network(part.strip(), strict=False) for part in text.split(",") if part.strip()]
    return [_unmapped(each) for each in found]


def _unmapped(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    if isinstance(network, IPv6Network) and network.prefixlen >= MAPPED_BITS:
        address = network.network_address.ipv4_mapped
        if address is not None:
            return IPv4Network((address, network.prefixlen - MAPPED_BITS))
    return network


def _is_read_by(parse: Callable[[str], Any]) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        try:
            return isinstance(value, str) and parse(value) is not None
        except ValueError:
            return False

    return check


def _matches(pattern: str) -> Callable[[Any], bool]:
    compiled = re.compile(pattern).fullmatch
    return lambda value: isinstance(value, str) and compiled(value) is not None


_TEXTS: Final[dict[str, Callable[[Any], bool]]] = {
    "balance": lambda value: isinstance(value, str) and value in BALANCES,
    "access_log_format": lambda value: isinstance(value, str) and value in ACCESS_LOG_FORMATS,
    "balance_key": _matches(BALANCE_KEY),
    "balance_cookie": _matches(COOKIE_NAME),
    "weights": _is_read_by(parse_weights),
    "trusted_proxies": lambda value: value is None or _is_read_by(parse_networks)(value),
    "health_path": is_path,
    "health_status": _is_read_by(parse_statuses),
    "tls_certificate": lambda value: value is None or isinstance(value, str),
    "tls_key": lambda value: value is None or isinstance(value, str),
    "tls_digest": lambda value: isinstance(value, str),
    "health_host": lambda value: value is None or is_host(value),
}
"""The checks of settings that are no numbers."""


def changed(settings: Settings, partial: dict[str, Any]) -> Settings:
    """Return `settings` with the changes in `partial`, as far as they may change while running.

    Unknown names are ignored: a newer peer may send them. ValueError: a value has the wrong type or is out of range;
    then nothing is changed.
    """
    if not isinstance(partial, dict):
        raise ValueError("settings: not an object")
    values = {key: _checked(key, value) for key, value in partial.items() if key in _DEFAULTS and key not in _FIXED}
    return replace(settings, **values)


def _checked(key: str, value: Any) -> Any:
    """Return a value in its field's type; raise ValueError if it is invalid."""
    default = _DEFAULTS[key]
    if key in _TEXTS:
        valid = _TEXTS[key](value)
    elif isinstance(default, bool):
        valid = isinstance(value, bool)
    elif value is None:
        valid = key in _OPTIONAL
    else:
        kinds = (int, float) if isinstance(default, float) else (int,)
        valid = (
            isinstance(value, kinds)
            and not isinstance(value, bool)
            and (0 if key in _MAY_BE_ZERO else 1e-3) <= value < inf
        )
    if not valid:
        raise ValueError(f"setting {key}: {value!r} is not valid")
    return float(value) if isinstance(default, float) else value
