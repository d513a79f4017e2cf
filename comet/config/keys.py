"""The keys of config.yaml as a table: defaults, checks, what is allowed and what they mean. Pure.

Documentation, ranges and the error texts are read from it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from comet.common.values import SECONDS as TIME_UNITS
from comet.common.values import (
    Check,
    Key,
    constraints,
    environment,
    flag,
    host,
    listed,
    measured,
    memory,
    networks,
    number,
    one_of,
    or_word,
    refused,
    text,
    user,
    volumes,
    weights,
    whole,
    words,
)
from comet.config import upstreams
from comet.config.fault_settings import FRONT, SETTINGS
from comet.config.runtimes import RUNTIMES
from fault_rules import UNITS
from lb.interface.settings import ACCESS_LOG_FORMATS, BALANCE_KEY, BALANCES, COOKIE_NAME, MAX_WEIGHT, parse_statuses

PORT = (whole(1, 65535), "a whole number from 1 to 65535")
FIRST_PORT = (whole(0, 65535), "a whole number from 0 to 65535")
SECONDS = (measured(0.05, 86400, TIME_UNITS), "seconds, from 0.05 to 86400")
PERCENT = (measured(0, 100, UNITS["%"]), "percent, from 0 to 100")
ROW = (whole(0, 100000), "a whole number from 0 to 100000")
IMAGE = r"[a-z0-9][\w.\-/:@]*"
_PORT = r":(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
REGISTRY = rf"[a-z0-9][\w.\-]*(?:{_PORT})?(?:/[\w.\-]+)*"
AUTHORITY = rf"(?:[0-9A-Za-z_.\-]+|\[[0-9A-Fa-f:.]+\])(?:{_PORT})?"
HOST = (host, "an IP address or host name")


def _either(words: Iterable[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} or {last}"


SUPERVISED = [name for name, traits in RUNTIMES.items() if traits.supervised]


def _access_log(value: Any) -> str | None:
    """Return the format of the access log, None for no log."""
    if isinstance(value, bool):
        return ACCESS_LOG_FORMATS[0] if value else None
    return one_of(*ACCESS_LOG_FORMATS)(value)  # type: ignore[no-any-return]


def key(default: Any, check: Check, allowed: str, meaning: str, *, fixed: bool = False, under: str = "") -> Any:
    """Return the field of a key; one that is `fixed` cannot change while the cluster runs."""
    return field(metadata={"key": Key(default, check, allowed, meaning, fixed), "under": under})


def taken(known: Key) -> Any:
    """Return the field of a key that is declared elsewhere."""
    return key(known.default, known.check, known.allowed, known.meaning)


@dataclass(frozen=True, kw_only=True)
class Values:
    """The values of all keys; dashes of a key are underscores here.

    Times are in seconds, `avg_delay` is in ms, and memory is in bytes.
    """

    worker: int = key(3, whole(0, 200), "a whole number from 0 to 200", "worker replicas")
    pool: int = key(2, whole(1, 64), "a whole number from 1 to 64", "load-balancer processes")
    stats_dir: str = key(
        "worker-stats.db", text(r"(?s).+"), "a path or a database URL", "where the SQL database lies", fixed=True
    )
    avg_delay: float = taken(SETTINGS["avg-delay"])
    failure: float = taken(SETTINGS["failure"])
    load_balancer_port: int = key(
        5050, *FIRST_PORT, "port of the first load balancer; the next one gets +1; 0: free ones", fixed=True
    )
    worker_port: int = key(
        6000, *FIRST_PORT, "port of the first worker on the host; the next one gets +1; 0: free ones", fixed=True
    )
    runtime: str = key("docker", one_of(*SUPERVISED), _either(SUPERVISED), "what runs the workers", fixed=True)
    upstreams: tuple[tuple[str, int], ...] = key(
        [], upstreams.addresses, upstreams.ALLOWED, "what already runs and takes the place of workers"
    )
    registry: str | None = key(
        "none",
        or_word("none", text(REGISTRY), None),
        "HOST[:PORT][/PATH], or none",
        "where a swarm's nodes get the image",
    )
    worker_constraints: tuple[str, ...] = key(
        [], constraints, "a list of NAME==VALUE or NAME!=VALUE", "which nodes of a swarm may run workers"
    )
    worker_image: str | None = key(
        "built", or_word("built", text(IMAGE), None), "the name of an image, or built", "image that the workers run"
    )
    worker_target_port: int = key(8080, *PORT, "port that the service listens on inside its container")
    worker_command: tuple[str, ...] = key(
        "none", or_word("none", words, ()), "a command line", "what a custom service runs"
    )
    worker_environment: tuple[tuple[str, str], ...] = key(
        {}, environment, "lines of the form `NAME: value`", "variables of a custom service"
    )
    worker_volumes: tuple[tuple[str, str, bool], ...] = key(
        [],
        volumes,
        "a list of SOURCE:TARGET or SOURCE:TARGET:ro, or of mappings with source, target and read-only",
        "folders mounted into a container of a custom service",
    )
    worker_user: str | None = key(
        "default", or_word("default", user, None), "a user or user:group", "user of a custom service"
    )
    worker_read_only: bool = key(
        False, flag, "true or false", "whether the file system of a container of a custom service is read-only"
    )
    worker_cpus: float | None = key(
        "all",
        or_word("all", number(0.01, 1024), None),
        "all, or a number of cores from 0.01",
        "CPU limit of a container",
    )
    worker_pids: int = key(
        2100, whole(10, 100000), "a whole number from 10 to 100000", "most processes and threads of a container"
    )
    worker_threads: int | None = key(
        "auto", or_word("auto", whole(1, 2000), None), "auto, or a whole number from 1 to 2000", "threads of a worker"
    )
    worker_memory: int = key("256m", memory, "32m or more, with a unit of b, k, m or g", "memory limit of a worker")
    load_balancer_host: str = key("0.0.0.0", *HOST, "address that the load balancers listen on", fixed=True)
    front_port: int | None = key(
        "none",
        or_word("none", whole(1, 65535), None),
        "none, or a whole number from 1 to 65535",
        "one more port, which all load balancers serve together",
        fixed=True,
    )
    tls: str | None = key(
        "none",
        or_word("none", one_of("self-signed"), None),
        "none or self-signed",
        "a certificate for development, in place of the two files",
    )
    tls_certificate: str | None = key(
        "none", or_word("none", text(r"(?s).+"), None), "none, or a file", "certificate of the load balancers, as PEM"
    )
    tls_key: str | None = key(
        "none", or_word("none", text(r"(?s).+"), None), "none, or a file", "its private key, as PEM"
    )
    trusted_proxies: str | None = key(
        "none",
        or_word("none", networks, None),
        "none, or a list of addresses and networks",
        "whose forwarding fields and PROXY protocol are believed",
    )
    worker_host: str = key("127.0.0.1", *HOST, "address that the workers are published on", fixed=True)
    balance: str = key("round-robin", one_of(*BALANCES), _either(BALANCES), "choice of the worker")
    balance_key: str = key(
        "address",
        text(BALANCE_KEY),
        "address, path, header:NAME or cookie:NAME",
        "what consistent-hash sends to the same worker",
    )
    hash_balance_factor: int | None = key(
        "none",
        or_word("none", whole(101, 10000), None),
        "none, or percent from 101",
        "most requests in flight on a worker, of its fair share, with consistent-hash",
    )
    balance_cookie: str = key(
        "comet-worker", text(COOKIE_NAME), "the name of a cookie", "what names the worker with sticky-cookie"
    )
    weights: tuple[tuple[str, int], ...] = key(
        {},
        weights(1, MAX_WEIGHT),
        f"lines of the form `NAME: weight`, from 1 to {MAX_WEIGHT}",
        "shares of single workers; 1 for the others",
    )
    slow_start: float = key(
        0,
        measured(0, 86400, TIME_UNITS),
        "seconds, from 0 to 86400",
        "time in which the share of a worker that came up rises",
    )
    health_path: str = key(
        "/healthz",
        text(r"/[\x21\x22\x24-\x7e]*"),
        "a path that begins with /, without #",
        "path of the active health check",
    )
    health_host: str | None = key(
        "none", or_word("none", text(AUTHORITY), None), "none, or HOST or HOST:PORT", "Host of the active health check"
    )
    health_status: str = key(
        "200-399",
        listed(parse_statuses),
        "a status, a range such as 200-399, or a list of these",
        "statuses of a passed health check",
    )
    health_interval: float = key(5, *SECONDS, "time between two checks of a worker")
    health_timeout: float = key(2, *SECONDS, "time that a check may take")
    health_fall: int = key(2, whole(1, 100), "a whole number from 1 to 100", "failed checks until a worker is out")
    health_rise: int = key(2, whole(1, 100), "a whole number from 1 to 100", "good checks until a worker is in again")
    health_restart: int = key(
        6, whole(0, 1000), "a whole number from 0 to 1000", "failed checks until a worker is restarted; 0: never"
    )
    watchdog_timeout: float = key(
        3,
        measured(1, 3600, TIME_UNITS),
        "seconds, from 1 to 3600",
        "time without a sign of life until a load balancer is killed",
    )
    eject_after_5xx: int = key(0, *ROW, "server errors in a row after which a worker is ejected; 0: never")
    eject_after_gateway_errors: int = key(0, *ROW, "the same for 502, 503, 504 and failed attempts alone")
    eject_error_percent: float = key(
        0, *PERCENT, "share of server errors in an interval from which a worker is ejected; 0: never"
    )
    eject_min_requests: int = key(
        50, whole(1, 10**6), "a whole number from 1 to 1000000", "responses in an interval below which no share counts"
    )
    eject_interval: float = key(10, *SECONDS, "length of these intervals")
    eject_time: float = key(30, *SECONDS, "length of the first ejection; the n-th is n times as long")
    eject_time_max: float = key(300, *SECONDS, "longest ejection")
    eject_max_percent: float = key(50, *PERCENT, "most workers that a load balancer ejects at a time")
    eject_panic_percent: float = key(
        50, *PERCENT, "share of workers, healthy and not ejected, below which ejections are ignored; 0: never"
    )
    request_timeout: float = key(30, *SECONDS, "time until a worker begins its response, all attempts together")
    queue_timeout: float = key(10, *SECONDS, "time that a request may wait for a worker with room")
    connect_timeout: float = key(3, *SECONDS, "time that one attempt to connect to a worker may take")
    idle_timeout: float = key(60, *SECONDS, "time that a client's connection is kept between requests")
    upstream_keep_alive: bool = key(
        True, flag, "true or false", "whether a connection to a worker serves more than one request"
    )
    retries: int = key(2, whole(0, 10), "a whole number from 0 to 10", "further workers tried for a safe request")
    max_body: int | None = key(
        "none", or_word("none", whole(0, 2**63 - 1), None), "none, or a number of bytes", "largest request body"
    )
    shutdown_grace: float = key(
        10, measured(0, 3600, TIME_UNITS), "seconds, from 0 to 3600", "time for requests in flight at a stop"
    )
    tunnel_grace: float = key(
        10,
        measured(0, 86400, TIME_UNITS),
        "seconds, from 0 to 86400",
        "time that WebSockets and the like live on in a roll",
    )
    start_timeout: float = key(60, *SECONDS, "time that a replica may take from its start until it is ready")
    restart_backoff_max: float = key(30, *SECONDS, "longest delay before a restart")
    restart_stable: float = key(10, *SECONDS, "time ready after which former crashes are forgotten")
    admin_port: int | None = key(
        5040,
        or_word("auto", whole(0, 65535), None),
        "auto, or a whole number from 0 to 65535",
        "dashboard, API and metrics; 0 turns it off, auto takes a free port",
        fixed=True,
    )
    delay_distribution: str = taken(SETTINGS["delay-distribution"])
    seed: int | None = key(
        "none",
        or_word("none", whole(0, 2**63 - 1), None),
        "none, or a whole number from 0",
        "what the workers' draws begin with",
    )
    trace_endpoint: str | None = key(
        "none",
        or_word("none", text(rf"https?://{AUTHORITY}(?:/[\x21-\x7e]*)?"), None),
        "none, or a URL like http://127.0.0.1:4318",
        "the OpenTelemetry collector that gets spans by OTLP over HTTP",
        fixed=True,
    )
    trace_sample: float = key(100, *PERCENT, "share of the traces that begin here which are recorded, in percent")
    access_log: str | None = key(
        False,
        _access_log,
        f"true, false, {_either(ACCESS_LOG_FORMATS)}",
        "whether load balancers write a line per request, and its format; true: json",
        fixed=True,
    )
    request_ledger: bool = key(
        False, flag, "true or false", "whether workers keep the id of each counted request in the database"
    )
    fault_point: str = key(
        "worker",
        one_of("worker", "lb", FRONT),
        "worker, lb or front",
        "what injects faults that name no other target",
        fixed=True,
    )
    request_faults: bool = key(
        False, flag, "true or false", "whether a request may ask for a fault itself, by X-Comet-Fault"
    )
    faults: Mapping[str, Mapping[str, Any]] = key(
        {}, refused, "fault settings by worker name", "what is wrong with single workers"
    )
    head_timeout: float = key(10, *SECONDS, "time from the first to the last byte of a request's head", under="limits")
    body_timeout: float = key(
        60, *SECONDS, "time without progress in a body, of a request or a response", under="limits"
    )
    max_request_line: int = key(
        8192, whole(64, 65536), "a whole number of bytes from 64 to 65536", "longest request line", under="limits"
    )
    max_head: int = key(
        32768, whole(64, 65536), "a whole number of bytes from 64 to 65536", "largest head of a request", under="limits"
    )
    max_fields: int = key(
        100, whole(1, 10000), "a whole number from 1 to 10000", "most fields in the head of a request", under="limits"
    )


def _declared(under: str) -> dict[str, Key]:
    listed = [each for each in fields(Values) if each.metadata["under"] == under]
    return {each.name.replace("_", "-"): each.metadata["key"] for each in listed}


LIMITS = _declared("limits")
"""The keys below `limits`; at the top level they are accepted, too, by which they were known up to version 0.7."""

KEYS = _declared("")
KEYS = {
    **{name: each for name, each in KEYS.items() if name != "faults"},
    "limits": Key({}, refused, "lines of the form `limit: value`", "bounds on a client's request"),
    "faults": KEYS["faults"],
}

NESTED = ("limits", "faults")
"""The keys that have keys below them."""
