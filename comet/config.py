"""config.yaml -> a frozen `Config`, or every problem at once.

Rule 1: reading never starts, creates or changes anything.
Rule 2: a problem names its line, its key and what is allowed; all problems are reported together, so that one edit can mend them.
Rule 3: the keys are a table (`KEYS`); documentation, defaults, ranges and the error texts are read from it.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from comet import faults
from comet.checks import Key, constraints, environment, flag, memory, number, one_of, or_word, refused, shown, text, volumes, whole, words
from comet.errors import UserError
from comet.located import ConfigError as ConfigError
from comet.located import Entries, entries, plain

PORT = (whole(1, 65535), "a whole number from 1 to 65535")
SECONDS = (number(0.05, 86400), "seconds, from 0.05 to 86400")
IMAGE = r"[a-z0-9][\w.\-/:@]*"
USER = r"[\w.\-]+(?::[\w.\-]+)?"
REGISTRY = r"[a-z0-9][\w.\-]*(?::[0-9]{1,5})?(?:/[\w.\-]+)*"
HOST = (text(r"[0-9A-Za-z_.:\-]+"), "an IP address or host name")

KEYS: dict[str, Key] = {
    "worker": Key(3, whole(0, 200), "a whole number from 0 to 200", "worker replicas"),
    "pool": Key(2, whole(1, 64), "a whole number from 1 to 64", "load-balancer processes"),
    "stats-dir": Key("worker-stats.db", text(), "a path or a database URL", "where the SQL database lies"),
    "avg-delay": faults.SETTINGS["avg-delay"],
    "failure": faults.SETTINGS["failure"],
    "load-balancer-port": Key(5050, *PORT, "port of the first load balancer; the next one gets +1"),
    "worker-port": Key(6000, *PORT, "port of the first worker on the host; the next one gets +1"),
    "runtime": Key("docker", one_of("docker", "process", "swarm"), "docker, process or swarm", "what runs the workers"),
    "registry": Key("none", or_word("none", text(REGISTRY), None), "HOST[:PORT][/PATH], or none", "where a swarm's nodes get the image"),
    "worker-constraints": Key([], constraints, "a list of NAME==VALUE or NAME!=VALUE", "which nodes of a swarm may run workers"),
    "worker-image": Key("built", or_word("built", text(IMAGE), None), "the name of an image, or built", "image that the workers run"),
    "worker-target-port": Key(8080, *PORT, "port that the service listens on inside its container"),
    "worker-command": Key("none", or_word("none", words, ()), "a command line", "what a worker of your own runs"),
    "worker-environment": Key({}, environment, "lines of the form `NAME: value`", "variables for a service of your own"),
    "worker-volumes": Key([], volumes, "a list of SOURCE:TARGET or SOURCE:TARGET:ro", "folders mounted into a container of your own"),
    "worker-user": Key("default", or_word("default", text(USER), None), "a user or user:group", "user of a service of your own"),
    "worker-read-only": Key(False, flag, "true or false", "whether the file system of a container of your own is read-only"),
    "worker-cpus": Key("all", or_word("all", number(0.01, 1024), None), "all, or a number of cores from 0.01", "CPU limit of a container"),
    "worker-pids": Key(2100, whole(10, 100000), "a whole number from 10 to 100000", "most processes and threads of a container"),
    "worker-threads": Key("auto", or_word("auto", whole(1, 2000), None), "auto, or a whole number from 1 to 2000", "threads of a worker"),
    "worker-memory": Key("256m", memory, "32m or more, with a unit of b, k, m or g", "memory limit of a worker"),
    "load-balancer-host": Key("0.0.0.0", *HOST, "address that the load balancers listen on"),
    "worker-host": Key("127.0.0.1", *HOST, "address that the workers are published on"),
    "balance": Key("round-robin", one_of("round-robin", "least-connections"), "round-robin or least-connections", "choice of the worker"),
    "health-path": Key(
        "/healthz", text(r"/[\x21\x22\x24-\x7e]*"), "a path that begins with /, without #", "path of the active health check"
    ),
    "health-interval": Key(5, *SECONDS, "time between two checks of a worker"),
    "health-timeout": Key(2, *SECONDS, "time that a check may take"),
    "health-fall": Key(2, whole(1, 100), "a whole number from 1 to 100", "failed checks until a worker is out"),
    "health-rise": Key(2, whole(1, 100), "a whole number from 1 to 100", "good checks until a worker is in again"),
    "health-restart": Key(6, whole(0, 1000), "a whole number from 0 to 1000", "failed checks until a worker is restarted; 0: never"),
    "watchdog-timeout": Key(3, number(1, 3600), "seconds, from 1 to 3600", "time without a sign of life until a load balancer is killed"),
    "request-timeout": Key(30, *SECONDS, "time until a worker begins its response, all attempts together"),
    "queue-timeout": Key(10, *SECONDS, "time that a request may wait for a worker with room"),
    "connect-timeout": Key(3, *SECONDS, "time that one attempt to connect to a worker may take"),
    "head-timeout": Key(10, *SECONDS, "time from the first to the last byte of a request's head"),
    "body-timeout": Key(60, *SECONDS, "time without progress in a body, of a request or a response"),
    "idle-timeout": Key(60, *SECONDS, "time that a client's connection is kept between requests"),
    "retries": Key(2, whole(0, 10), "a whole number from 0 to 10", "further workers tried for a safe request"),
    "max-body": Key("none", or_word("none", whole(0, 2**63 - 1), None), "none, or a number of bytes", "largest request body"),
    "max-request-line": Key(8192, whole(64, 65536), "a whole number of bytes from 64 to 65536", "longest request line"),
    "max-head": Key(32768, whole(64, 65536), "a whole number of bytes from 64 to 65536", "largest head of a request"),
    "max-fields": Key(100, whole(1, 10000), "a whole number from 1 to 10000", "most fields in the head of a request"),
    "shutdown-grace": Key(10, number(0, 3600), "seconds, from 0 to 3600", "time for requests in flight at a stop"),
    "start-timeout": Key(60, *SECONDS, "time that a replica may take from its start until it is ready"),
    "restart-backoff-max": Key(30, *SECONDS, "longest delay before a restart"),
    "restart-stable": Key(10, *SECONDS, "time ready after which former crashes are forgotten"),
    "admin-port": Key(5040, whole(0, 65535), "a whole number from 0 to 65535", "dashboard, API and metrics; 0 turns it off"),
    "delay-distribution": faults.SETTINGS["delay-distribution"],
    "seed": Key("none", or_word("none", whole(0, 2**63 - 1), None), "none, or a whole number from 0", "what the workers' draws begin with"),
    "access-log": Key(False, flag, "true or false", "whether load balancers write a line per request"),
    "request-ledger": Key(False, flag, "true or false", "whether workers keep the id of each counted request in the database"),
    "fault-point": Key("worker", one_of("worker", "lb"), "worker or lb", "who brings the faults about"),
    "faults": Key({}, refused, "fault settings by worker name", "what is wrong with single workers"),
}


@dataclass(frozen=True)
class Config:
    """The checked config; a key's dashes are underscores here. Times are in seconds, `avg_delay` in ms, memory in bytes."""

    path: Path
    worker: int
    pool: int
    stats_dir: str
    avg_delay: float
    failure: float
    load_balancer_port: int
    worker_port: int
    runtime: str
    registry: str | None
    worker_constraints: tuple[str, ...]
    worker_image: str | None
    worker_target_port: int
    worker_command: tuple[str, ...]
    worker_environment: tuple[tuple[str, str], ...]
    worker_volumes: tuple[tuple[str, str, bool], ...]
    worker_user: str | None
    worker_read_only: bool
    worker_cpus: float | None
    worker_pids: int
    worker_threads: int | None
    worker_memory: int
    load_balancer_host: str
    worker_host: str
    balance: str
    health_path: str
    health_interval: float
    health_timeout: float
    health_fall: int
    health_rise: int
    health_restart: int
    watchdog_timeout: float
    request_timeout: float
    queue_timeout: float
    connect_timeout: float
    head_timeout: float
    body_timeout: float
    idle_timeout: float
    retries: int
    max_body: int | None
    max_request_line: int
    max_head: int
    max_fields: int
    shutdown_grace: float
    start_timeout: float
    restart_backoff_max: float
    restart_stable: float
    admin_port: int
    delay_distribution: str
    seed: int | None
    access_log: bool
    request_ledger: bool
    fault_point: str
    faults: Mapping[str, Mapping[str, Any]]
    lines: Mapping[str, int] = field(default_factory=dict, compare=False, repr=False)

    @property
    def own_service(self) -> bool:
        """Whether the workers are somebody's own service, not the application that comes with Comet."""
        return self.worker_image is not None or bool(self.worker_command)

    @property
    def front_path(self) -> str:
        """What a client asks the workers for that was told nothing else."""
        return "/" if self.own_service else "/api/v1/hello"

    @property
    def folder(self) -> Path:
        """The cluster: the folder of the config file, in which `.comet/` lies."""
        return self.path.parent


def load(path: Path) -> Config:
    """Read and check the config file; raises ConfigError with every problem found."""
    path = path.absolute()
    try:
        content = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError([f"{path}: there is no such file (name the config with --config FILE)"]) from None
    except IsADirectoryError:
        raise ConfigError([f"{path}: is a directory (name the config file itself)"]) from None
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: is not UTF-8 text (byte {error.start})"]) from None
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from None
    return parse(content, path)


def parse(content: str, path: Path) -> Config:
    """Check the text of a config file. `path` is where it came from: its name stands in the problems, its folder is the cluster."""
    problems: list[str] = []
    values = {name: key.check(key.default) for name, key in KEYS.items() if name != "faults"}
    lines: dict[str, int] = {}
    nested = Entries()
    for line, name, value in entries(content, path.name):
        where = f"{path.name}:{line}: {name}"
        key = KEYS.get(name)
        if name == "faults" and name not in lines and (value is None or isinstance(value, Entries)):
            lines[name] = line
            nested = value or nested
            continue
        if key is None:
            problems.append(f"{where}: unknown key{_nearest(name)}")
        elif name in lines:
            problems.append(f"{where}: stands twice (first in line {lines[name]}; keep one)")
        else:
            lines[name] = line
            try:
                values[name] = key.check(plain(value))
            except ValueError as error:
                problems.append(f"{where}: {error} (allowed: {key.allowed})")
    if values["runtime"] == "swarm" and "fault-point" not in lines:
        values["fault-point"] = "lb"
    values["faults"] = _faults(nested, values["worker"], path.name, problems)
    if not problems:
        parts = (_service_problems, _swarm_problems, _port_problems)
        problems = [problem for part in parts for problem in part(values, lines, path.name)]
    if problems:
        raise ConfigError(problems)
    return Config(path=path, lines=lines, **{name.replace("-", "_"): value for name, value in values.items()})


PLACES = ("{host}", "{port}", "{name}")
"""What a worker-command may leave to be filled in."""

OWN_ONLY = ("worker-target-port", "worker-environment", "worker-volumes", "worker-user", "worker-read-only", "worker-cpus", "worker-pids")
APP_ONLY = ("avg-delay", "failure", "delay-distribution", "seed", "faults")
CONTAINER_ONLY = ("worker-image", "worker-target-port", "worker-volumes", "worker-read-only", "worker-cpus", "worker-pids")


def _service_problems(values: Mapping[str, Any], lines: Mapping[str, int], name: str) -> Iterator[str]:
    """What does not go together about whose service the workers are."""
    containers, command = values["runtime"] != "process", values["worker-command"]
    given = {key for key in lines if key in KEYS and values[key] != (KEYS[key].check(KEYS[key].default) if key != "faults" else {})}

    def told(keys: Iterable[str], wrong: str) -> Iterator[str]:
        return (f"{name}:{lines[key]}: {key}: {wrong}" for key in keys if key in given)

    if command and containers and values["worker-image"] is None:
        yield from told(("worker-command",), "has nothing to run it in (name a worker-image, or set runtime: process)")
    unknown = [mark for word in command for mark in re.findall(r"\{[a-z]+\}", word) if mark not in PLACES]
    if unknown:
        yield from told(("worker-command",), f"{unknown[0]} is not known (allowed: {', '.join(PLACES)})")
    if not containers:
        yield from told(CONTAINER_ONLY, "is for containers (leave it out with runtime: process)")
    if values["worker-image"] is not None or command:
        yield from told(("request-ledger",), "is kept by the built-in worker only (leave it out)")
        if values["fault-point"] == "worker":
            yield from told(APP_ONLY, "acts in the built-in worker only (with a service of your own, set fault-point: lb)")
    else:
        own = "is for a service of your own (name its worker-image, or with runtime: process its worker-command)"
        yield from told((key for key in OWN_ONLY if containers or key not in CONTAINER_ONLY), own)
    if values["fault-point"] == "lb":
        yield from told(("seed",), "is for draws of the built-in worker (leave it out with fault-point: lb)")
        for worker, settings in values["faults"].items():
            for key in sorted(set(settings) & set(faults.WORKER_ONLY)):
                yield f"{name}:{lines['faults']}: faults.{worker}.{key}: acts within the worker (leave it out with fault-point: lb)"


LOOPBACK = r"postgres(?:ql)?://(?:[^@/]*@)?(?:localhost|127\.[0-9.]+|\[::1\])?(?:[:/?]|$)"
SWARM_ONLY = ("registry", "worker-constraints")


def _swarm_problems(values: Mapping[str, Any], lines: Mapping[str, int], name: str) -> Iterator[str]:
    """What does not go together with machines that are not this one."""
    stats, own = str(values["stats-dir"]), values["worker-image"] is not None
    if values["runtime"] != "swarm":
        given = (key for key in SWARM_ONLY if key in lines and values[key] != KEYS[key].check(KEYS[key].default))
        yield from (f"{name}:{lines[key]}: {key}: is for a swarm (set runtime: swarm, or leave it out)" for key in given)
        return
    line, allowed = (lines.get("stats-dir", lines["runtime"]), "postgresql://user:password@host/database")
    if not own and "://" not in stats:
        yield f"{name}:{line}: stats-dir: {stats} is a file, and other machines cannot reach it (allowed with runtime: swarm: {allowed})"
    elif not own and re.match(LOOPBACK, stats):
        yield f"{name}:{line}: stats-dir: names this machine as each machine calls itself (give the address by which the nodes reach it)"
    if values["fault-point"] == "worker":
        told = "acts through a folder of this machine (leave it out: with runtime: swarm the load balancers bring faults about)"
        yield f"{name}:{lines['fault-point']}: fault-point: worker {told}"
    if any("{name}" in word for word in values["worker-command"]):
        yield f"{name}:{lines['worker-command']}: worker-command: {{name}} is not known to a swarm (the variable COMET_REPLICA tells it)"


def _faults(nested: Entries, workers: int, file: str, problems: list[str]) -> dict[str, dict[str, Any]]:
    """The fault settings of single workers; what is wrong with them is added to `problems`."""
    names = [f"worker-{index}" for index in range(workers)]
    found: dict[str, dict[str, Any]] = {}
    for line, worker, settings in nested:
        where = f"{file}:{line}: faults.{worker}"
        if worker not in names:
            known = "there are no workers" if not names else names[0] if workers == 1 else f"{names[0]} to {names[-1]}"
            problems.append(f"{where}: no such worker (allowed: {known})")
        elif worker in found:
            problems.append(f"{where}: stands twice (keep one)")
        elif not isinstance(settings, Entries | None):
            problems.append(f"{where}: {shown(settings)} is not usable (allowed: lines of the form `setting: value`)")
        else:
            found[worker] = dict(fault_settings(settings or Entries(), f"{file}:{{}}: faults.{worker}.{{}}", problems))
    return found


def fault_settings(nested: Entries, place: str, problems: list[str]) -> Iterator[tuple[str, Any]]:
    """Checked settings; what is wrong is added to `problems`, at a `place` that takes the line and the name."""
    met: set[str] = set()
    for line, name, value in nested:
        where, key = place.format(line, name), faults.SETTINGS.get(name)
        if key is None:
            problems.append(f"{where}: unknown key{_nearest(name, faults.SETTINGS)}")
        elif name in met:
            problems.append(f"{where}: stands twice (keep one)")
        else:
            met.add(name)
            try:
                yield name, key.check(plain(value))
            except ValueError as error:
                problems.append(f"{where}: {error} (allowed: {key.allowed})")


def _nearest(name: str, known: Mapping[str, Key] = KEYS) -> str:
    near = difflib.get_close_matches(name.lower().replace("_", "-"), known, n=1)
    return f" (did you mean {near[0]}?)" if near else f" (allowed: {', '.join(known)})"


PORT_KEYS = ("runtime", "load-balancer-port", "worker-port", "admin-port")


def port_ranges(values: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    """(key, first port, number of ports) of each range that the cluster takes; an empty range is left out."""
    ranges = [
        ("load-balancer-port", values["load-balancer-port"], values["pool"]),
        # The nodes of a swarm choose the ports of their tasks.
        ("worker-port", values["worker-port"], 0 if values["runtime"] == "swarm" else values["worker"]),
        ("admin-port", values["admin-port"], 1 if values["admin-port"] else 0),
    ]
    return [(key, first, count) for key, first, count in ranges if count]


def parse_numbers(config: Config, worker: int | None, pool: int | None) -> Config:
    """The config with other numbers of replicas (None: as they are); UserError where they are out of range or their ports overlap."""
    numbers = {"worker": config.worker if worker is None else worker, "pool": config.pool if pool is None else pool}
    for name, value in numbers.items():
        try:
            KEYS[name].check(value)
        except ValueError as error:
            raise UserError(f"{name}: {error} (allowed: {KEYS[name].allowed}); nothing was changed", 2) from None
    values = {key: getattr(config, key.replace("-", "_")) for key in PORT_KEYS} | numbers
    for problem in _port_problems(values, {}, ""):
        raise UserError(f"{problem.removeprefix(':1: ')}; nothing was changed")
    return replace(config, worker=numbers["worker"], pool=numbers["pool"])


def _port_problems(values: Mapping[str, Any], lines: Mapping[str, int], name: str) -> Iterator[str]:
    ranges = port_ranges(values)
    for key, first, count in ranges:
        if first + count - 1 > 65535:
            yield f"{name}:{lines.get(key, 1)}: {key}: {count} ports from {first} go past 65535 (allowed: up to {65536 - count})"
    for index, (key, first, count) in enumerate(ranges):
        for other, other_first, other_count in ranges[:index]:
            if first < other_first + other_count and other_first < first + count:
                line = max(lines.get(key, 1), lines.get(other, 1))
                here, there = span(first, count), span(other_first, other_count)
                yield f"{name}:{line}: {key}: {here} overlaps {other} {there} (allowed: ranges that do not meet)"


def span(first: int, count: int) -> str:
    return str(first) if count == 1 else f"{first}-{first + count - 1}"
