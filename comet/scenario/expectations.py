"""Expectations of a step or of a whole scenario, and whether they hold. Pure.

`errors: 0` is an upper limit, as is `p99: 800ms`; `ok: 99%` is a lower one. A comparison may be written before the
value: `requests: ">= 100"`.
"""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from comet.common.figures import milliseconds
from comet.common.values import brief, shown
from comet.faults.orders import span
from comet.load.closed_model import ResultCounts, percentile_ms

COUNTS = ("errors", "lost", "injected", "repeated", "requests", "ok")
AT_LEAST = ("requests", "ok", "2xx")
"""What is expected at least where no comparison is written; everything else is expected at most."""

ALLOWED = (
    "errors, lost, injected, repeated, requests, ok, a status such as 503 or 5xx, a percentile such as p99, max, "
    "recovery, replicas"
)
STATES = ("ready", "starting", "unhealthy", "backoff", "stopping", "stopped")

_STATUS = re.compile(r"[1-5](?:xx|[0-9][0-9])")
_PERCENTILE = re.compile(r"p([1-9][0-9]?(?:\.[0-9]{1,3})?)")
_REPLICAS = re.compile(r"all|(?:worker|lb)(?:-[0-9]{1,6})?")
_VALUE = re.compile(r"(<=|>=|<|>|=|)\s*(\S.*)")
_NUMBER = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,6})?")
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt, "=": operator.eq,
}  # fmt: skip
_WORDS = {"<=": "at most", ">=": "at least", "<": "less than", ">": "more than", "=": "exactly"}


@dataclass(frozen=True)
class Expectation:
    """`unit` is `` (a number), `%` (of the requests), `ms`, or `state` (then `states` has the wanted ones)."""

    name: str
    comparison: str
    value: float
    unit: str
    states: tuple[str, ...] = ()

    @property
    def wanted(self) -> str:
        if self.unit == "state":
            return " or ".join(self.states)
        return f"{_WORDS[self.comparison]} {_limit(self.value, self.unit)}"


@dataclass(frozen=True)
class Finding:
    """An expectation, what was found, and whether it holds. `step` is None for the whole scenario."""

    step: str | None
    expectation: Expectation
    found: str
    holds: bool

    def as_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "what": self.expectation.name,
            "expected": self.expectation.wanted,
            "found": self.found,
            "holds": self.holds,
        }


@dataclass(frozen=True)
class Outcome:
    """What an expectation is compared with, apart from the counts.

    `recoveries` has the milliseconds from the death of each replica that the step killed until it was ready again, None
    where it was not. `states` are the replicas' states at the end of the step. `stopped` are killed replicas that a
    command stopped before they were ready again.
    """

    recoveries: Sequence[tuple[str, float | None]] = ()
    states: Mapping[str, str] = field(default_factory=dict)
    stopped: Sequence[str] = ()


def parse(name: str, value: Any) -> Expectation:
    """Return the expectation that a line of `expect:` describes; ValueError says what is wrong with it."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{shown(value)} is not usable")
    match = _VALUE.fullmatch(str(value).strip())
    if match is None:
        raise ValueError(f"{shown(value)} is not usable")
    comparison = match[1] or (">=" if name in AT_LEAST else "<=")
    text = match[2].strip()
    if _PERCENTILE.fullmatch(name) or name in ("max", "recovery"):
        seconds = 0.0 if text in ("0", "0s", "0ms") else span(text if not _NUMBER.fullmatch(text) else float(text))
        return Expectation(name, comparison, seconds * 1000, "ms")
    if name == "replicas":
        raise ValueError(f"{shown(value)} is not usable")
    if name not in COUNTS and not _STATUS.fullmatch(name):
        raise KeyError(name)
    number = text.removesuffix("%").strip()
    if not _NUMBER.fullmatch(number):
        raise ValueError(f"{brief(value)} is not usable")
    if text.endswith("%") and float(number) > 100:
        raise ValueError(f"{brief(value)} is out of range")
    return Expectation(name, comparison, float(number), "%" if text.endswith("%") else "")


def parse_states(name: str, value: Any) -> Expectation:
    """Return the expectation that a replica (or `all`, `worker`, `lb`) is in one of these states."""
    if not _REPLICAS.fullmatch(name):
        raise ValueError(f"{shown(name)} is neither a replica's name nor worker, lb or all")
    states = value if isinstance(value, list) and value else [value]
    for state in states:
        if state not in STATES:
            raise ValueError(f"{shown(state)} is not usable")
    return Expectation(name, "=", 0.0, "state", tuple(states))


def judged(step: str | None, expectation: Expectation, counts: ResultCounts, outcome: Outcome) -> Finding:
    """Return whether an expectation holds."""
    if expectation.unit == "state":
        return _judged_states(step, expectation, outcome.states)
    if expectation.name == "recovery":
        return _judged_recovery(step, expectation, outcome)
    found = _found(expectation, counts)
    if found is None:
        return Finding(step, expectation, "no request was answered", False)
    holds = _COMPARE[expectation.comparison](found, expectation.value)
    return Finding(step, expectation, _figure(found, expectation.unit), holds)


def _found(expectation: Expectation, counts: ResultCounts) -> float | None:
    """Return the measured value in the unit of the expectation; None where there is none."""
    name = expectation.name
    if expectation.unit == "ms":
        return percentile_ms(counts.times, 100.0 if name == "max" else float(name[1:]))
    if not counts.requests and name != "requests":
        return None
    if name in COUNTS:
        value = counts.errors.total() if name == "errors" else getattr(counts, name)
    else:
        value = sum(n for status, n in counts.statuses.items() if name in (str(status), f"{status // 100}xx"))
    if expectation.unit != "%":
        return float(value)
    return 100.0 * value / counts.requests if counts.requests else None


def _judged_states(step: str | None, expectation: Expectation, states: Mapping[str, str]) -> Finding:
    role = expectation.name
    of = {name: state for name, state in states.items() if role in ("all", name, name.partition("-")[0])}
    others = [f"{name} {state}" for name, state in of.items() if state not in expectation.states]
    found = ", ".join(others) or (f"{len(of)} {expectation.wanted}" if of else "there is none")
    return Finding(step, expectation, found, bool(of) and not others)


def _judged_recovery(step: str | None, expectation: Expectation, outcome: Outcome) -> Finding:
    back = [(ms, name) for name, ms in outcome.recoveries if ms is not None]
    away = list(dict.fromkeys(name for name, ms in outcome.recoveries if ms is None))
    if outcome.stopped and not away and not back:
        return Finding(step, expectation, f"{', '.join(outcome.stopped)} stopped by a command", True)
    if away or not back:
        return Finding(step, expectation, f"{', '.join(away)} not ready again" if away else "nothing died", False)
    slowest, name = max(back)
    holds = _COMPARE[expectation.comparison](slowest, expectation.value)
    return Finding(step, expectation, f"{_figure(slowest, 'ms')} ({name})", holds)


def _limit(value: float, unit: str) -> str:
    """Format an expected value with the digits that it was given."""
    if unit == "ms":
        return f"{value:g} ms" if value < 1000 else f"{value / 1000:g} s"
    return _figure(value, unit)


def _figure(value: float, unit: str) -> str:
    if unit == "ms":
        return milliseconds(value)
    return f"{value:.4g} %" if unit == "%" else f"{value:g}"
