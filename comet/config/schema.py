"""Reads config.yaml into a frozen `Config`, or reports every problem at once.

Rule 1: reading never starts, creates or changes anything. Rule 2: a problem names its line, its key and what is
allowed; all problems are reported together, so that one edit can correct them. Rule 3: the keys are a table
(`comet/config/keys.py`).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from comet.common.errors import UserError
from comet.common.user_files import content_of
from comet.common.values import Key
from comet.common.wording import hint
from comet.common.yaml_lines import ConfigError as ConfigError
from comet.common.yaml_lines import Entries, label, plain, quoted, read
from comet.config import combinations, ports, upstreams
from comet.config.fault_settings import FRONT, need_time_limit, settings_of
from comet.config.keys import KEYS, LIMITS, NESTED, Values
from comet.config.runtimes import RUNTIMES, RuntimeTraits

ADMIN = "admin"
"""The name of the admin server among chosen ports."""


@dataclass(frozen=True, kw_only=True)
class Config(Values):
    """The checked config.

    `chosen` are the ports that Comet has chosen, by the names of replicas and `ADMIN`, where the config leaves the
    choice to it.
    """

    path: Path
    lines: Mapping[str, int] = field(default_factory=dict, compare=False, repr=False)
    chosen: Mapping[str, int] = field(default_factory=dict, compare=False, repr=False)

    def port(self, role: str, number: int) -> int:
        """Return the port of a replica on this machine; 0 while it is not chosen yet."""
        first = self.load_balancer_port if role == "lb" else self.worker_port
        return first + number if first else self.chosen.get(f"{role}-{number}", 0)

    @property
    def dashboard_port(self) -> int:
        """The port of the admin server; 0 where it is turned off, or not chosen yet."""
        return self.chosen.get(ADMIN, 0) if self.admin_port is None else self.admin_port

    @property
    def traits(self) -> RuntimeTraits:
        """What is special about the runtime of the workers."""
        return RUNTIMES[self.runtime]

    @property
    def limits(self) -> dict[str, float]:
        """The values below `limits`."""
        return {name: getattr(self, name.replace("-", "_")) for name in LIMITS}

    @property
    def custom_service(self) -> bool:
        """Whether the workers run a custom service instead of the application that comes with Comet."""
        return self.worker_image is not None or bool(self.worker_command or self.upstreams)

    @property
    def speaks_tls(self) -> bool:
        """Whether clients speak TLS with the load balancers."""
        return self.tls is not None or self.tls_certificate is not None

    @property
    def front_scheme(self) -> str:
        """The scheme of the URLs that clients use."""
        return "https" if self.speaks_tls else "http"

    @property
    def front_path(self) -> str:
        """The path that a client requests from the workers by default."""
        return "/" if self.custom_service else "/api/v1/hello"

    @property
    def folder(self) -> Path:
        """The folder of the config file, which is the cluster and contains `.comet/`."""
        return self.path.parent


def load(path: Path) -> Config:
    """Read and check the config file; raise ConfigError with every problem found."""
    path = path.absolute()
    return parse(content_of(path, "name the config with --config FILE"), path)


def parse(content: str | bytes, path: Path) -> Config:
    """Check the text of a config file.

    `path` is where it came from: its name is part of the problems, and its folder is the cluster.
    """
    found, problems = read(content, path.name)
    values = {name: key.check(key.default) for name, key in (KEYS | LIMITS).items() if name not in NESTED}
    lines: dict[str, int] = {}
    nested = dict.fromkeys(NESTED, Entries())

    def take(line: int, name: str, value: Any, known: Mapping[str, Key], above: str = "") -> None:
        shown, where = f"{above}{label(name)}", f"{path.name}:{line}: {above}{label(name)}"
        if name not in known:
            problems.append(f"{where}: unknown key{_nearest(name, known)}")
        elif above + name in lines:
            problems.append(f"{where}: appears twice (first in line {lines[above + name]}; keep one)")
        elif above and name in lines:
            problems.append(f"{where}: line {lines[name]} sets it by its old name, {name} (keep {shown})")
        else:
            lines[above + name] = line
            if not above and name in NESTED and isinstance(value, Entries | None):
                nested[name] = value or Entries()
                return
            try:
                values[name] = known[name].check(plain(value))
            except ValueError as error:
                problems.append(f"{where}: {error} (allowed: {known[name].allowed})")

    for entry in found:
        take(*entry, KEYS | LIMITS)
    for entry in nested["limits"]:
        take(*entry, LIMITS, "limits.")
    upstreams.imply(values, lines)
    if RUNTIMES[values["runtime"]].remote and "fault-point" not in lines:
        values["fault-point"] = "lb"
    values["faults"] = _faults(nested["faults"], values["worker"], path.name, problems)
    if not problems:
        of_workers = () if values["upstreams"] else (combinations.service_problems, combinations.swarm_problems)
        parts = (
            upstreams.problems,
            *of_workers,
            combinations.lb_fault_problems,
            combinations.tls_problems,
            ports.problems,
        )
        problems = [problem for part in parts for problem in part(values, lines, path.name)]
        problems += combinations.folder_problems(values["runtime"], path, lines)
    if problems:
        raise ConfigError(problems)
    return Config(path=path, lines=lines, **{name.replace("-", "_"): value for name, value in values.items()})


def old_names(config: Config) -> list[str]:
    """Return a line for each key that the file gives by an old name."""
    return [
        f"{config.path.name}:{line}: {name}: is now limits.{name} (the old name is accepted for now)"
        for name, line in config.lines.items()
        if name in LIMITS
    ]


def _faults(nested: Entries, workers: int, file: str, problems: list[str]) -> dict[str, dict[str, Any]]:
    """Return the fault settings of single workers, and add what is wrong with them to `problems`."""
    names = [f"worker-{index}" for index in range(workers)]
    targets = [*names, FRONT]
    found: dict[str, dict[str, Any]] = {}
    for line, worker, settings in nested:
        where = f"{file}:{line}: faults.{worker}"
        if worker not in targets:
            where = f"{file}:{line}: faults.{label(worker)}"
            known = "there are no workers" if not names else names[0] if workers == 1 else f"{names[0]} to {names[-1]}"
            problems.append(f"{where}: no such worker (allowed: {known}, or {FRONT})")
        elif worker in found:
            problems.append(f"{where}: appears twice (keep one)")
        elif not isinstance(settings, Entries | None):
            problems.append(f"{where}: {quoted(settings)} is not usable (allowed: lines of the form `setting: value`)")
        else:
            place = fault_place(file, worker)
            given = found[worker] = dict(fault_settings(settings or Entries(), place, problems, worker))
            lines = {name: at for at, name, _ in settings or ()}
            problems += [
                f"{place(lines[name], name)}: needs a time limit (the command: faults {worker} --{name}"
                f"{'' if given[name] is True else f' {given[name]:g}'} --for 5s)"
                for name in need_time_limit(given)
            ]
    return found


def fault_place(file: str, worker: str) -> Callable[[int, str], str]:
    return lambda line, name: f"{file}:{line}: faults.{worker}.{name}"


def fault_settings(
    nested: Entries, place: Callable[[int, str], str], problems: list[str], target: str = "all"
) -> Iterator[tuple[str, Any]]:
    """Yield a target's checked settings, and add what is wrong to `problems`, at the `place` of its line and name."""
    seen: set[str] = set()
    for line, name, value in nested:
        where, key = place(line, label(name)), settings_of(target).get(name)
        if key is None:
            problems.append(f"{where}: unknown key{_nearest(name, settings_of(target))}")
        elif name in seen:
            problems.append(f"{where}: appears twice (keep one)")
        else:
            seen.add(name)
            try:
                yield name, key.check(plain(value))
            except ValueError as error:
                problems.append(f"{where}: {error} (allowed: {key.allowed})")


def _nearest(name: str, known: Mapping[str, Key] = KEYS) -> str:
    return f" ({hint(name, known)})"


def ports_text(config: Config) -> str:
    """Return the ports of a cluster by their keys, for people."""
    values = {key: getattr(config, key.replace("-", "_")) for key in (*ports.PORT_KEYS, "pool", "worker")}
    given = [f"{key} {ports.span(first, count)}" for key, first, count in ports.port_ranges(values)]
    chosen = {
        "load-balancer-port": config.load_balancer_port == 0,
        "worker-port": config.worker_port == 0 and config.worker > 0 and not config.traits.remote,
        "admin-port": config.admin_port is None,
    }
    return ", ".join([*given, *(f"{key} any free" for key, is_chosen in chosen.items() if is_chosen)])


def parse_numbers(config: Config, worker: int | None, pool: int | None) -> Config:
    """Return the config with other replica counts; None keeps a count.

    Raise UserError if a count is out of range or port ranges overlap.
    """
    numbers = {"worker": config.worker if worker is None else worker, "pool": config.pool if pool is None else pool}
    for name, value in numbers.items():
        try:
            KEYS[name].check(value)
        except ValueError as error:
            raise UserError(f"{name}: {error} (allowed: {KEYS[name].allowed}); nothing was changed", 2) from None
    values = {key: getattr(config, key.replace("-", "_")) for key in ports.PORT_KEYS} | numbers
    for problem in ports.problems(values, {}, ""):
        raise UserError(f"{problem.removeprefix(':1: ')}; nothing was changed")
    return replace(config, worker=numbers["worker"], pool=numbers["pool"])
