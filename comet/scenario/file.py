"""Parses a scenario file: timed steps, each with faults, actions, load and expectations.

Pure: text in, a `Scenario` or a list of every problem out.

The faults of a step last exactly as long as the step. A step without faults is a calm step.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from comet.common.values import Key, brief, shown, text, whole
from comet.common.wording import there_are
from comet.common.yaml_lines import ConfigError, Entries, label, plain, quoted, read
from comet.config.fault_settings import FRAMING, FRONT
from comet.config.schema import fault_place, fault_settings
from comet.faults.orders import span
from comet.scenario.actions import ALLOWED as ACTIONS
from comet.scenario.actions import RANDOM, ROLES, Action, kills
from comet.scenario.actions import parse as parse_actions
from comet.scenario.expectations import ALLOWED as EXPECTED
from comet.scenario.expectations import Expectation, parse_states
from comet.scenario.expectations import parse as parse_expectation

MAX_CLIENTS = 500
MAX_RATE = 10_000
MAX_STEP_TIME = 3600.0
MAX_SEED = 2**31


def _time(low: float, high: float) -> Callable[[Any], float]:
    """Return a check that reads seconds from 5, 5s or 50ms; 0 is allowed where `low` is 0."""

    def check(value: Any) -> float:
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            seconds = 0.0 if value in (0, "0", "0s", "0ms") else span(value)
            if low <= seconds <= high:
                return seconds
            raise ValueError(f"{brief(value)} is out of range")
        raise ValueError(f"{shown(value)} is not usable")

    return check


def _span(low: float, high: float, is_whole: bool) -> Callable[[Any], tuple[float, float]]:
    """Return a check that reads a number, or `10..100`: from the first to the second, evenly while the step lasts."""

    def check(value: Any) -> tuple[float, float]:
        ends = str(value).split("..") if not isinstance(value, bool) else []
        if not 1 <= len(ends) <= 2 or not all(re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", end) for end in ends):
            raise ValueError(f"{shown(value)} is not {'a whole number' if is_whole else 'usable'}")
        numbers = [float(end) for end in ends]
        if is_whole and not all(number.is_integer() for number in numbers):
            raise ValueError(f"{shown(value)} is not a whole number")
        if not all(low <= number <= high for number in numbers):
            raise ValueError(f"{brief(value)} is out of range")
        return numbers[0], numbers[-1]

    return check


def _headers(value: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, dict):
        raise ValueError(f"{shown(value)} is not usable")
    seen: set[str] = set()
    for name, content in value.items():
        if str(name).lower() in seen:
            raise ValueError(f"{brief(str(name))} appears twice in it")
        seen.add(str(name).lower())
        if str(name).lower() in FRAMING[1:]:
            raise ValueError(f"{brief(str(name))}: it follows from the body")
        is_usable = isinstance(content, str | int | float) and str(content).isprintable() and str(content).isascii()
        if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,200}", str(name)) or not is_usable:
            raise ValueError(f"{brief(str(name))}: {shown(content)} is not usable")
    return tuple((str(name), str(content)) for name, content in value.items())


_CLIENTS = Key(
    20,
    _span(0, MAX_CLIENTS, is_whole=True),
    f"a whole number from 0 to {MAX_CLIENTS}, or a ramp such as 5..50",
    "number of concurrent clients",
)
_RATE = Key(
    None,
    _span(0, MAX_RATE, is_whole=False),
    f"requests a second, from 0 to {MAX_RATE}, or a ramp such as 10..100",
    "requests a second, whatever happens to earlier ones, in place of clients",
)
_PAUSE = Key(
    "50ms", _time(0, 3600), "a time like 0, 50ms or 1s", "pause of a client between an answer and its next request"
)

TOP: dict[str, Key] = {
    "description": Key("", text(r"(?s).*"), "text", "what it shows"),
    "clients": _CLIENTS,
    "pause": _PAUSE,
    "timeout": Key("10s", _time(0.05, 3600), "a time like 500ms or 10s", "how long a client waits for an answer"),
    "path": Key("", text(r"(/[!-~]*)?"), "a path that begins with /", "what the clients ask for"),
    "method": Key("GET", text(r"[A-Z]{1,20}"), "a method such as POST", "the method of their requests"),
    "headers": Key({}, _headers, "lines of the form `Name: value`", "further fields of their requests"),
    "body": Key("", text(r"(?s).*"), "text", "the body of their requests"),
    "rate": _RATE,
    "seed": Key(0, whole(0, MAX_SEED), f"a whole number from 0 to {MAX_SEED}", "what the random choices begin with"),
}
STEP: dict[str, Key] = {
    "name": Key("", text(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]+"), "text of one line", "its name in the report"),
    "for": Key(None, _time(0.1, MAX_STEP_TIME), "a time from 100ms to 1h", "how long it lasts"),
    "clients": _CLIENTS,
    "pause": _PAUSE,
    "rate": _RATE,
    "every": Key(None, _time(0.1, MAX_STEP_TIME), "a time from 100ms to 1h", "when its kills are repeated"),
}
PARTS = ("faults", "kill", "do", "expect")
"""The keys of a step that have a form of their own."""


ALLOWED_VALUES = {
    "replicas": "lines of the form `all: ready`",
    "max": "a time like 800ms",
    "recovery": "a time like 2s",
}


@dataclass(frozen=True)
class Step:
    """A timed step of a scenario; times in seconds.

    `faults` maps a worker's name, `all` or `front` to settings. `kill` names the replicas that are killed when the step
    begins, and again every `every` seconds; `actions` are done once. `clients_to` and `rate_to` are the ends of a ramp;
    a `rate` takes the place of clients.
    """

    name: str
    seconds: float
    clients: int
    pause: float
    faults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    kill: tuple[str, ...] = ()
    line: int = 0
    clients_to: int = 0
    rate: float | None = None
    rate_to: float = 0.0
    every: float | None = None
    actions: tuple[Action, ...] = ()
    expected: tuple[Expectation, ...] = ()
    has_load: bool = False

    def settings(self, worker: str) -> dict[str, Any]:
        """Return the fault settings of a worker: those of `all`, overridden by its own; the front has only its own."""
        if worker == FRONT:
            return dict(self.faults.get(FRONT, {}))
        return {**self.faults.get("all", {}), **self.faults.get(worker, {})}


@dataclass(frozen=True)
class Scenario:
    """A parsed scenario file.

    `path` is what the clients request. If it is empty, the cluster's config supplies it. `has_load`: the file says how
    much load there is, so there is some next to a client of the user's own, too.
    """

    file: str
    description: str
    timeout: float
    path: str
    steps: tuple[Step, ...]
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    body: str = ""
    seed: int = 0
    expected: tuple[Expectation, ...] = ()
    has_load: bool = False

    @property
    def seconds(self) -> float:
        return sum(step.seconds for step in self.steps)


def parse(content: str | bytes, file: str) -> Scenario:
    """Parse the text of a scenario file; ConfigError lists every problem with its line."""
    found, problems = read(content, file, "`steps:` and a list of steps is a beginning")
    values: dict[str, Any] = {
        name: None if key.default is None else key.check(key.default) for name, key in TOP.items()
    }
    expected: tuple[Expectation, ...] = ()
    listed: list[Any] = []
    begin = 1
    seen: set[str] = set()
    for line, name, value in found:
        where = f"{file}:{line}: {label(name)}"
        if name in seen:
            problems.append(f"{where}: appears twice (keep one)")
        elif name == "steps" and isinstance(value, list) and not isinstance(value, Entries) and value:
            listed, begin = value, line
        elif name == "steps":
            problems.append(
                f"{where}: {quoted(value)} is not usable (allowed: a list of steps, each of the form `- for: 5s`)"
            )
        elif name == "expect":
            expected = _expectations(value, file, where, problems)
        elif name in TOP:
            _check(TOP[name], value, where, problems, values, name)
        else:
            problems.append(f"{where}: unknown key (allowed: {', '.join([*TOP, 'expect', 'steps'])})")
        seen.add(name)
    problems += [f"{file}:1: {text}" for text in _without_effect(seen - {"pause"})]
    if "steps" not in seen:
        problems.append(f"{file}:1: steps: is missing (allowed: a list of steps, each of the form `- for: 5s`)")
    steps = tuple(
        _step(each, number, f"{file}:{begin}", file, values, problems) for number, each in enumerate(listed, 1)
    )
    if problems:
        raise ConfigError(problems)
    return Scenario(
        file,
        values["description"].strip(),
        values["timeout"],
        values["path"],
        steps,
        values["method"],
        values["headers"],
        values["body"],
        values["seed"],
        expected,
        bool({"clients", "rate"} & seen) or any(step.has_load for step in steps),
    )


Present = tuple[Collection[str], Collection[str]]
"""The names of workers and of load balancers that there are at one time."""


def unknown_names(scenario: Scenario, workers: Collection[str], balancers: Collection[str]) -> Iterator[str]:
    """Yield a problem for each name that the cluster does not have when it is used, after the scaling before."""
    ever = [*_with_scaled(scenario, "lb", balancers), *_with_scaled(scenario, "worker", workers)]
    present: Present = workers, balancers
    for step in scenario.steps:
        where = f"{scenario.file}:{step.line}: {step.name}"
        stages = list(accumulate(step.actions, _scaled, initial=present))
        present = stages[-1]
        for name in step.faults:
            if name not in ("all", FRONT) and name not in stages[0][0]:
                others = there_are(name, stages[0][0], ("all", FRONT))
                yield f"{where}: faults: {label(name)}: no such worker ({others})"
        killed: Present = stages[0]
        if step.every is not None:  # It is repeated after the actions.
            killed = [*killed[0], *present[0]], [*killed[1], *present[1]]
        uses = [(Action("kill", step.kill), killed), *zip(step.actions, stages[:-1], strict=True)]
        for action, (workers, balancers) in uses:
            replicas = [*balancers, *workers]
            known = workers if action.command in ("drain", "undrain") else replicas
            for name in action.names:
                if name not in known and name not in (*RANDOM, *(ROLES if action.command == "restart" else ())):
                    which = "worker" if known is workers else "replica"
                    there = there_are(name, dict.fromkeys(known))
                    yield f"{where}: {action.command}: {label(name)}: no such {which} ({there})"
        yield from _not_expected(step.expected, where, ever)
    yield from _not_expected(scenario.expected, scenario.file, ever)


def _scaled(present: Present, action: Action) -> Present:
    """Return what there is after the action."""
    workers, balancers = present
    return scaled_names(action, "worker", workers), scaled_names(action, "lb", balancers)


def scaled_names(action: Action, role: str, names: Collection[str]) -> Collection[str]:
    """Return the names of a role after an action, which may scale it."""
    key = "pool" if role == "lb" else role
    if action.command != "scale" or key not in action.fields:
        return names
    return [f"{role}-{number}" for number in range(action.fields[key])]


def _not_expected(expected: Iterable[Expectation], where: str, replicas: Collection[str]) -> Iterator[str]:
    """Yield a problem for each replica that is expected in a state, and that the cluster never has."""
    for each in expected:
        if each.unit == "state" and each.name not in (*replicas, "all", "worker", "lb"):
            yield f"{where}: expect: {label(each.name)}: no such replica ({there_are(each.name, replicas)})"


def _with_scaled(scenario: Scenario, role: str, names: Collection[str]) -> list[str]:
    """Return the names of a role, with those that the scenario's own scaling adds."""
    actions = [action for step in scenario.steps for action in step.actions]
    return list(dict.fromkeys([*names, *(name for action in actions for name in scaled_names(action, role, ()))]))


def _step(value: Any, index: int, begin: str, file: str, common: Mapping[str, Any], problems: list[str]) -> Step:
    """Parse one step; where it has problems, return its valid parts."""
    if not isinstance(value, Entries) or not value:
        problems.append(f"{begin}: step {index}: {quoted(value)} is not usable (allowed: lines of the form `for: 5s`)")
        return Step("", 0, 0, 0)
    line = value[0][0]
    values: dict[str, Any] = {"name": f"step {index}", "for": None, "every": None}
    values |= {name: common[name] for name in ("clients", "pause", "rate")}
    parts: dict[str, Any] = {"faults": {}, "kill": (), "do": (), "expect": ()}
    seen: set[str] = set()
    for at, name, given in value:
        where = f"{file}:{at}: step {index}: {label(name)}"
        if name in seen:
            problems.append(f"{where}: appears twice (keep one)")
        elif name in STEP:
            _check(STEP[name], given, where, problems, values, name)
        elif name in PARTS:
            parts[name] = _part(name, given, file, where, problems)
        else:
            problems.append(f"{where}: unknown key (allowed: {', '.join([*STEP, *PARTS])})")
        seen.add(name)
    if "for" not in seen:
        problems.append(f"{file}:{line}: step {index}: for: is missing (allowed: {STEP['for'].allowed})")
    problems += [f"{file}:{line}: step {index}: {text}" for text in _without_effect(seen)]
    if "clients" in seen and "rate" not in seen:
        values["rate"] = None
    first, last = values["rate"] or (None, 0.0)
    return Step(
        values["name"],
        values["for"] or 0.0,
        0 if values["rate"] else int(values["clients"][0]),
        values["pause"],
        parts["faults"],
        parts["kill"],
        line,
        0 if values["rate"] else int(values["clients"][1]),
        first,
        last,
        values["every"],
        parts["do"],
        parts["expect"],
        bool({"clients", "rate"} & seen),
    )


def _without_effect(seen: Collection[str]) -> Iterator[str]:
    """Yield a problem for each key of a step that another one, present or missing, leaves without an effect."""
    if "rate" in seen:
        for name in ("clients", "pause"):
            if name in seen:
                yield f"{name}: has no effect with rate (keep one of them)"
    if "every" in seen and "kill" not in seen:
        yield "every: has no kill to repeat (add kill)"


def _part(name: str, given: Any, file: str, where: str, problems: list[str]) -> Any:
    """Parse a key of PARTS; where it has problems, return what stands for nothing."""
    if name == "faults":
        return _faults(given, file, where, problems)
    if name == "expect":
        return _expectations(given, file, where, problems)
    try:
        return kills(given).names if name == "kill" else parse_actions(given)
    except ValueError as error:
        what = "a replica's name, random, random worker, random lb, or a list of them"
        found = f"{quoted(given)} is not usable" if name == "kill" else str(error)
        problems.append(f"{where}: {found} (allowed: {what if name == 'kill' else ACTIONS})")
        return ()


def _expectations(value: Any, file: str, where: str, problems: list[str]) -> tuple[Expectation, ...]:
    if not isinstance(value, Entries) or not value:
        problems.append(f"{where}: {quoted(value)} is not usable (allowed: lines of the form `errors: 0`)")
        return ()
    found: list[Expectation] = []
    for line, name, given in value:
        at = f"{file}:{line}: expect.{label(name)}"
        try:
            if name == "replicas" and isinstance(given, Entries) and given:
                found += [parse_states(replica, plain(state)) for _, replica, state in given]
            else:
                found.append(parse_expectation(name, plain(given)))
        except KeyError:
            problems.append(f"{at}: unknown (allowed: {EXPECTED})")
        except ValueError as error:
            problems.append(
                f"{at}: {error} (allowed: {ALLOWED_VALUES.get(name, 'a number or a percentage, or a time')})"
            )
    return tuple(found)


def _faults(value: Any, file: str, where: str, problems: list[str]) -> dict[str, Mapping[str, Any]]:
    if not isinstance(value, Entries):
        problems.append(
            f"{where}: {quoted(value)} is not usable (allowed: fault settings under a worker's name, all or front)"
        )
        return {}
    found: dict[str, Mapping[str, Any]] = {}
    for line, worker, settings in value:
        at = f"{file}:{line}: faults.{label(worker)}"
        if not isinstance(settings, Entries):
            problems.append(f"{at}: {quoted(settings)} is not usable (allowed: lines of the form `hang: 5`)")
        elif worker in found:
            problems.append(f"{at}: appears twice (keep one)")
        else:
            found[worker] = dict(fault_settings(settings, fault_place(file, label(worker)), problems, worker))
    return found


def _check(key: Key, value: Any, where: str, problems: list[str], into: dict[str, Any], name: str) -> None:
    try:
        into[name] = key.check(plain(value))
    except ValueError as error:
        problems.append(f"{where}: {error} (allowed: {key.allowed})")
