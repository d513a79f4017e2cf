"""A scenario file: timed steps, each with its faults, its kills and its crowd of clients. Pure: text in, `Scenario` or every problem out.

A step's faults hold while the step lasts and no longer; a step that names none is a calm one.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from comet.checks import Key, shown, text, whole
from comet.config import fault_settings
from comet.faults import span
from comet.located import ConfigError, Entries, entries, plain

MOST_CLIENTS = 500
LONGEST_STEP = 3600.0


def _time(low: float, high: float) -> Callable[[Any], float]:
    """Seconds from 5, 5s, 50ms; 0 where that is allowed."""

    def check(value: Any) -> float:
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            seconds = 0.0 if value in (0, "0", "0s", "0ms") else span(value)
            if low <= seconds <= high:
                return seconds
            raise ValueError(f"{value} is out of range")
        raise ValueError(f"{shown(value)} is not usable")

    return check


_CLIENTS = Key(20, whole(0, MOST_CLIENTS), f"a whole number from 0 to {MOST_CLIENTS}", "clients that ask at a time")
_PAUSE = Key("50ms", _time(0, 3600), "a time like 0, 50ms or 1s", "pause of a client between an answer and its next request")

TOP: dict[str, Key] = {
    "description": Key("", text(r"(?s).*"), "text", "what it shows"),
    "clients": _CLIENTS,
    "pause": _PAUSE,
    "timeout": Key("10s", _time(0.05, 3600), "a time like 500ms or 10s", "how long a client waits for an answer"),
    "path": Key("", text(r"(/[!-~]*)?"), "a path that begins with /", "what the clients ask for"),
}
STEP: dict[str, Key] = {
    "name": Key("", text(), "text", "its name in the report"),
    "for": Key(None, _time(0.1, LONGEST_STEP), "a time from 100ms to 1h", "how long it lasts"),
    "clients": _CLIENTS,
    "pause": _PAUSE,
}


@dataclass(frozen=True)
class Step:
    """`faults` are settings by worker name or `all`; `kill` names replicas that are killed when the step begins. Times in seconds."""

    name: str
    seconds: float
    clients: int
    pause: float
    faults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    kill: tuple[str, ...] = ()
    line: int = 0

    def settings(self, worker: str) -> dict[str, Any]:
        """What is wrong with a worker: what is wrong with all, and with this one on top."""
        return {**self.faults.get("all", {}), **self.faults.get(worker, {})}


@dataclass(frozen=True)
class Scenario:
    """`path` is what clients ask for; empty: what the cluster's own config suggests."""

    file: str
    description: str
    timeout: float
    path: str
    steps: tuple[Step, ...]

    @property
    def seconds(self) -> float:
        return sum(step.seconds for step in self.steps)


def parse(content: str, file: str) -> Scenario:
    """The scenario that a file's text describes; ConfigError names every problem with its line."""
    problems: list[str] = []
    values = {name: key.check(key.default) for name, key in TOP.items()}
    listed: list[Any] = []
    begin = 1
    met: set[str] = set()
    for line, name, value in entries(content, file, "`steps:` and a list of steps is a beginning"):
        where = f"{file}:{line}: {name}"
        if name in met:
            problems.append(f"{where}: stands twice (keep one)")
        elif name == "steps" and isinstance(value, list) and not isinstance(value, Entries) and value:
            listed, begin = value, line
        elif name == "steps":
            problems.append(f"{where}: {shown(plain(value))} is not usable (allowed: a list of steps, each of the form `- for: 5s`)")
        elif name in TOP:
            _check(TOP[name], value, where, problems, values, name)
        else:
            problems.append(f"{where}: unknown key (allowed: {', '.join([*TOP, 'steps'])})")
        met.add(name)
    if "steps" not in met:
        problems.append(f"{file}:1: steps: is missing (allowed: a list of steps, each of the form `- for: 5s`)")
    steps = tuple(_step(each, number, f"{file}:{begin}", file, values, problems) for number, each in enumerate(listed, 1))
    if problems:
        raise ConfigError(problems)
    return Scenario(file, values["description"].strip(), values["timeout"], values["path"], steps)


def strangers(scenario: Scenario, workers: Collection[str], balancers: Collection[str]) -> Iterator[str]:
    """A problem for each name in the scenario that the cluster does not have."""
    replicas = [*balancers, *workers]
    for step in scenario.steps:
        where = f"{scenario.file}:{step.line}: {step.name}"
        for name in step.faults:
            if name != "all" and name not in workers:
                yield f"{where}: faults: {name}: no such worker (there are {', '.join(workers) or 'none'})"
        for name in step.kill:
            if name not in replicas:
                yield f"{where}: kill: {name}: no such replica (there are {', '.join(replicas)})"


def _step(value: Any, index: int, begin: str, file: str, common: Mapping[str, Any], problems: list[str]) -> Step:
    """The index-th step; a step with problems comes out as far as it is good."""
    if not isinstance(value, Entries) or not value:
        problems.append(f"{begin}: step {index}: {shown(plain(value))} is not usable (allowed: lines of the form `for: 5s`)")
        return Step("", 0, 0, 0)
    line = value[0][0]
    values: dict[str, Any] = {"name": f"step {index}", "for": None, "clients": common["clients"], "pause": common["pause"]}
    faults: dict[str, Mapping[str, Any]] = {}
    kill: tuple[str, ...] = ()
    met: set[str] = set()
    for at, name, given in value:
        where = f"{file}:{at}: step {index}: {name}"
        if name in met:
            problems.append(f"{where}: stands twice (keep one)")
        elif name in STEP:
            _check(STEP[name], given, where, problems, values, name)
        elif name == "faults":
            faults = _faults(given, file, where, problems)
        elif name == "kill":
            names = given if isinstance(given, list) and not isinstance(given, Entries) else [given]
            kill = tuple(each for each in names if isinstance(each, str))
            if not kill or len(kill) < len(names):
                problems.append(f"{where}: {shown(plain(given))} is not usable (allowed: a replica's name, or a list of names)")
        else:
            problems.append(f"{where}: unknown key (allowed: {', '.join([*STEP, 'faults', 'kill'])})")
        met.add(name)
    if "for" not in met:
        problems.append(f"{file}:{line}: step {index}: for: is missing (allowed: {STEP['for'].allowed})")
    return Step(values["name"], values["for"] or 0.0, values["clients"], values["pause"], faults, kill, line)


def _faults(value: Any, file: str, where: str, problems: list[str]) -> dict[str, Mapping[str, Any]]:
    if not isinstance(value, Entries):
        problems.append(f"{where}: {shown(plain(value))} is not usable (allowed: fault settings by worker name, or under all)")
        return {}
    found: dict[str, Mapping[str, Any]] = {}
    for line, worker, settings in value:
        at = f"{file}:{line}: faults.{worker}"
        if not isinstance(settings, Entries):
            problems.append(f"{at}: {shown(plain(settings))} is not usable (allowed: lines of the form `hang: 5`)")
        elif worker in found:
            problems.append(f"{at}: stands twice (keep one)")
        else:
            found[worker] = dict(fault_settings(settings, f"{file}:{{}}: faults.{worker}.{{}}", problems))
    return found


def _check(key: Key, value: Any, where: str, problems: list[str], into: dict[str, Any], name: str) -> None:
    try:
        into[name] = key.check(plain(value))
    except ValueError as error:
        problems.append(f"{where}: {error} (allowed: {key.allowed})")
